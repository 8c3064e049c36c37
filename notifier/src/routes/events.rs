//! A channel as server-sent events, where websockets do not get through: `id:` is the cursor, `data:` the frame.

use std::{convert::Infallible, time::Duration};

use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, stream};

use crate::session::{End, Session};

/// After a stream's end a browser comes back after so long, with its cursor; of many, not all at once.
const RETRY_MS: std::ops::RangeInclusive<u64> = 500..=2000;

/// The stream ends when the session does. A client that does not read is ended by the connection's own limit of a write.
pub(crate) fn answer(session: Session, keep_alive: Duration) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let retry = Duration::from_millis(rand::random_range(RETRY_MS));
    let frames = stream::unfold((session, Some(retry)), async |(mut session, retry)| match session.next().await {
        Ok(message) => {
            session.listening.sent();
            let event = Event::default().id(message.cursor.to_string()).data(message.text.as_str());
            let event = retry.into_iter().fold(event, Event::retry);
            Some((Ok(event), (session, None)))
        }
        Err(end) => {
            session.listening.closed(end.as_str());
            if end == End::Slow {
                tracing::debug!("a client of server-sent events was too slow");
            }
            None
        }
    });
    Sse::new(frames).keep_alive(KeepAlive::new().interval(keep_alive))
}
