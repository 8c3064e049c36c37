//! Bodies of requests: received whole before the request counts as in hand, within limits of size, time and memory.
//!
//! A client that sends slowly holds a connection and the bytes that it has sent, nothing that others need.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::app::App;
use crate::error::Error;

/// A body that is not wanted is read on and thrown away up to so many bytes and so long: a client that is still sending
/// sees a reset connection instead of the answer otherwise.
const DISCARD_BYTES_MAX: usize = 16 << 20;
const DISCARD_TIME_MAX: Duration = Duration::from_secs(2);

/// Room for a body at first, whatever length it claims to have.
const ROOM_BYTES: u64 = 8 << 10;

/// A whole body. Its bytes count against `READER_BODIES_BYTES_MAX` until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct Received<'a> {
    pub(crate) bytes: Bytes,
    _room: Option<SemaphorePermit<'a>>,
}

/// Receives the body of a route that takes JSON.
pub(crate) async fn receive<'a>(app: &'a App, body: &mut Incoming, headers: &HeaderMap) -> Result<Received<'a>, Error> {
    if !is_json(headers.get(header::CONTENT_TYPE)) {
        return Err(Error::UnsupportedMediaType);
    }
    let config = &app.config;
    if body.size_hint().lower() > config.body_bytes_max as u64 {
        return Err(Error::BodyTooLarge(config.body_bytes_max));
    }
    let whole = whole(body, config.body_bytes_max, &app.bodies_room);
    let received = tokio::time::timeout(config.body_time_max, whole).await;
    let received = received.unwrap_or(Err(Error::BodyTooSlow(config.body_time_max)));
    received.inspect_err(|error| {
        if matches!(error, Error::BodiesOverloaded) {
            app.observe.shed();
        }
    })
}

async fn whole<'a>(body: &mut Incoming, bytes_max: usize, room: &'a Semaphore) -> Result<Received<'a>, Error> {
    let mut bytes = BytesMut::with_capacity(body.size_hint().lower().min(ROOM_BYTES) as usize);
    let mut taken: Option<SemaphorePermit<'a>> = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Error::BodyCutShort)?.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > bytes_max {
            return Err(Error::BodyTooLarge(bytes_max));
        }
        let permit = room.try_acquire_many(data.len() as u32).map_err(|_| Error::BodiesOverloaded)?;
        match &mut taken {
            Some(taken) => taken.merge(permit),
            None => taken = Some(permit),
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Received { bytes: bytes.freeze(), _room: taken })
}

/// Reads on what an answer did not need of a body, within bounds, unless the client waits to be told to send it.
pub(crate) async fn discard(body: &mut Incoming, headers: &HeaderMap) {
    if body.is_end_stream() || headers.contains_key(header::EXPECT) {
        return;
    }
    let rest = async {
        let mut discarded = 0;
        while let Some(Ok(frame)) = body.frame().await {
            discarded += frame.data_ref().map_or(0, Bytes::len);
            if discarded > DISCARD_BYTES_MAX {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIME_MAX, rest).await;
}

fn is_json(content_type: Option<&HeaderValue>) -> bool {
    let essence = content_type.and_then(|value| value.to_str().ok()).and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_known_by_its_media_type() {
        for (value, want) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("text/plain", false),
            ("application/jsonp", false),
            ("", false),
        ] {
            assert_eq!(is_json(Some(&HeaderValue::from_static(value))), want, "{value}");
        }
        assert!(!is_json(None));
    }
}
