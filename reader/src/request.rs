//! What is read from a request: its id, the ids in its path, its query.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
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

/// One request as a handler sees it.
pub(crate) struct Call<'a> {
    pub(crate) app: &'a Arc<App>,
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) variables: Variables<'a>,
    /// What the answer must contain.
    pub(crate) demand: Demand,
    /// Empty on routes that take none.
    pub(crate) body: Bytes,
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
}
