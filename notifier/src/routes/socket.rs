//! A channel as a websocket. What the client says is not wanted, and bounded: answers to pings, and its farewell.

use std::{
    error::Error as _,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code},
    response::Response,
};
use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink};

use crate::{
    app::App,
    rate::Rate,
    session::{End, Session},
};

/// Bytes of a client's message; it has nothing to say.
const MESSAGE_BYTES_MAX: usize = 4 << 10;
/// Room for what comes in, per connection; the library's own is 128 KiB.
const READ_BUFFER_BYTES: usize = 2 << 10;
/// Messages of a client in a second, in the long run; more than it is pinged.
const MESSAGES_PER_SECOND_MAX: usize = 2;

/// Answers the handshake; the session goes on behind it.
pub(crate) fn answer(upgrade: WebSocketUpgrade, session: Session, app: &Arc<App>) -> Response {
    let (send_max, ping_interval) = (app.send_max, app.ping_interval);
    upgrade
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .read_buffer_size(READ_BUFFER_BYTES)
        // Each frame is written as it comes.
        .write_buffer_size(0)
        .on_upgrade(move |socket| converse(socket, session, send_max, ping_interval))
}

/// Until one side ends it. A client that has gone, or breaks the protocol, is no error of the notifier.
async fn converse(socket: WebSocket, mut session: Session, send_max: Duration, ping_interval: Duration) {
    let (mut sending, mut receiving) = socket.split();
    let mut said = Rate::new(MESSAGES_PER_SECOND_MAX, Instant::now());
    let mut pings = tokio::time::interval(ping_interval);
    pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut unanswered = 0;
    let end = loop {
        let message = tokio::select! {
            next = session.next() => match next {
                Ok(message) => {
                    session.listening.sent();
                    Message::Text(message.text)
                }
                Err(end) => break end,
            },
            heard = receiving.next() => match heard {
                Some(Ok(Message::Close(_))) | None => return,
                Some(Err(error)) if is_slow(&error) => break End::Slow,
                Some(Err(_)) => return,
                Some(Ok(_)) if !said.allows(Instant::now()) => break End::Talkative,
                Some(Ok(_)) => {
                    unanswered = 0;
                    continue;
                }
            },
            _ = pings.tick() => {
                if unanswered == 2 {
                    break End::Silent;
                }
                unanswered += 1;
                Message::Ping(Vec::new().into())
            }
        };
        match tokio::time::timeout(send_max, sending.send(message)).await {
            Ok(Ok(())) => {}
            Err(_) => break End::Slow,
            Ok(Err(error)) if is_slow(&error) => break End::Slow,
            Ok(Err(_)) => return,
        }
    };
    session.listening.closed(end.as_str());
    // Held until the farewell is taken: a notifier that stops goes on when all places are free.
    let _place = session.leave();
    let _ = tokio::time::timeout(send_max, close(&mut sending, end)).await;
}

/// Whether the connection's own limit of a write has ended it, which on a busy machine may come before this module's.
fn is_slow(error: &axum::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|it| it.kind() == io::ErrorKind::TimedOut) {
            return true;
        }
        cause = error.source();
    }
    false
}

async fn close(sending: &mut SplitSink<WebSocket, Message>, end: End) -> Result<(), axum::Error> {
    let code = match end {
        End::Slow => close_code::AGAIN,
        End::Silent | End::Talkative | End::Expired => close_code::POLICY,
        End::Restart => close_code::RESTART,
    };
    sending.send(Message::Close(Some(CloseFrame { code, reason: end.as_str().into() }))).await?;
    sending.close().await
}
