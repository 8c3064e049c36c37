//! What is read from a request: its id, the ids in its path, its query, its body.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use percent_encoding::percent_decode_str;
use shared::ids::InvalidId;

use crate::app::App;
use crate::error::Error;
use crate::freshness::Demand;
use crate::router::Variables;

/// The header that carries a request's id.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id that is taken from a client, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// A body that is not wanted is read on and thrown away up to so many bytes and so long: a client that is still sending
/// sees a reset connection instead of the answer otherwise.
const DISCARD_BYTES_MAX: usize = 16 << 20;
const DISCARD_TIME_MAX: Duration = Duration::from_secs(2);

/// One request as a handler sees it.
pub(crate) struct Call<'a> {
    pub(crate) app: &'a Arc<App>,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) variables: Variables<'a>,
    /// What the answer must contain.
    pub(crate) demand: Demand,
    pub(crate) body: &'a mut Incoming,
}

impl Call<'_> {
    /// The first or second id of the path, decoded and checked.
    pub(crate) fn id<T>(&self, index: usize, new: fn(Box<str>) -> Result<T, InvalidId>) -> Result<T, Error> {
        let decoded = percent_decode_str(self.variables[index]).decode_utf8().map_err(|_| Error::IdNotUtf8)?;
        Ok(new(decoded.into())?)
    }

    /// The last value of a query parameter, decoded; parameters that a route does not know are ignored.
    pub(crate) fn parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        let query = self.uri.query().unwrap_or_default();
        url::form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == name).last().map(|(_, value)| value)
    }

    /// The whole body, which must be JSON by its media type and at most `READER_BODY_BYTES_MAX` long.
    pub(crate) async fn json_body(&mut self) -> Result<Bytes, Error> {
        if !is_json(self.headers.get(header::CONTENT_TYPE)) {
            return Err(Error::UnsupportedMediaType);
        }
        let limit = self.app.config.body_bytes_max;
        let mut whole = BytesMut::with_capacity(self.body.size_hint().lower().min(limit as u64) as usize);
        while let Some(frame) = self.body.frame().await {
            let Ok(data) = frame.map_err(Error::BodyCutShort)?.into_data() else {
                continue;
            };
            if whole.len() + data.len() > limit {
                return Err(Error::BodyTooLarge(limit));
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }
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

/// The request's id: the client's when it is printable ASCII of at most [`REQUEST_ID_BYTES_MAX`] bytes, else a new uuid
/// (version 7, so that ids sort by time).
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    match headers.get(X_REQUEST_ID) {
        Some(id) if is_sane(id.as_bytes()) => id.clone(),
        _ => {
            let mut text = uuid::Uuid::encode_buffer();
            let text = uuid::Uuid::now_v7().as_hyphenated().encode_lower(&mut text);
            HeaderValue::from_str(text).expect("a uuid is ASCII")
        }
    }
}

fn is_sane(id: &[u8]) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// The size of a request's head as it was sent, but for white space that may be left out.
pub(crate) fn head_bytes(uri: &Uri, headers: &HeaderMap) -> usize {
    /// `: ` and the end of the line.
    const PER_HEADER: usize = 4;
    let line = uri.path().len() + uri.query().map_or(0, str::len);
    headers.iter().fold(line, |sum, (name, value)| sum + name.as_str().len() + value.len() + PER_HEADER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_request_id_is_taken() {
        for (id, taken) in
            [("my-id-1", true), ("", false), ("a b", false), (&"x".repeat(128), true), (&"x".repeat(129), false)]
        {
            let headers = HeaderMap::from_iter([(X_REQUEST_ID, HeaderValue::from_str(id).unwrap())]);
            assert_eq!(request_id(&headers) == id, taken, "{id:?}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }

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
