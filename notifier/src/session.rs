//! What one client is sent, whatever carries it: hello, a gap where something is missing, then frames, until one of the ends.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime},
};

use axum::extract::ws::Utf8Bytes;
use tokio_util::sync::CancellationToken;

use crate::{
    cursor::Cursor,
    frame::{gap, hello},
    hub::Subscription,
    observe::Listening,
    outbox::Take,
    server::Place,
};

/// One message for the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// What the client returns to go on behind it.
    pub(crate) cursor: Cursor,
    pub(crate) text: Utf8Bytes,
}

/// Why a session is over; each is a word of the metrics and, on a websocket, a close code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The client did not take what can't be left out in time.
    Slow,
    /// It did not answer.
    Silent,
    /// It says more than it may.
    Talkative,
    /// The channel's time is over.
    Expired,
    /// This instance stops; another one, or the next, goes on.
    Restart,
}

impl End {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::Silent => "silent",
            Self::Talkative => "talkative",
            Self::Expired => "expired",
            Self::Restart => "restart",
        }
    }
}

/// A client's stream.
pub(crate) struct Session {
    subscription: Subscription,
    pub(crate) listening: Listening,
    due: VecDeque<Message>,
    expires: tokio::time::Instant,
    ending: CancellationToken,
    /// Among the connections; what stops the notifier waits for it.
    place: Place,
}

impl Session {
    pub(crate) fn new(
        subscription: Subscription,
        listening: Listening,
        expires_unix_s: u64,
        ending: CancellationToken,
        place: Place,
    ) -> Self {
        let mut session = Self {
            place,
            listening,
            due: VecDeque::new(),
            expires: tokio::time::Instant::now() + until(expires_unix_s),
            ending,
            subscription,
        };
        let (from, recovered) = (session.subscription.from, session.subscription.recovered);
        session.due.push_back(Message { cursor: from, text: hello(from, recovered) });
        if !recovered {
            session.tell_gap(from);
        }
        session
    }

    /// The next message. Loses nothing when it is dropped while it waits.
    pub(crate) async fn next(&mut self) -> Result<Message, End> {
        loop {
            if let Some(message) = self.due.pop_front() {
                return Ok(message);
            }
            tokio::select! {
                biased;
                () = self.ending.cancelled() => return Err(End::Restart),
                () = tokio::time::sleep_until(self.expires) => return Err(End::Expired),
                take = self.subscription.next() => match take {
                    Take::Send(frames) => {
                        let message = |frame: crate::frame::Frame| Message { cursor: Cursor::At(frame.place), text: frame.text };
                        self.due.extend(frames.into_iter().map(message));
                    }
                    Take::Gap(from) => self.tell_gap(from),
                    Take::Lost => return Err(End::Slow),
                    Take::Nothing | Take::NotBefore(_) => {}
                },
            }
        }
    }

    /// Ends the stream. Its place in the channel is free at once, that among the connections when the caller has said farewell.
    pub(crate) fn leave(self) -> Place {
        self.place
    }

    fn tell_gap(&mut self, from: Cursor) {
        self.listening.gap();
        self.due.push_back(Message { cursor: from, text: gap(from) });
    }
}

/// Measured once, by this machine's clock; from then on monotonic time counts.
fn until(unix_s: u64) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(unix_s).saturating_sub(now)
}
