//! From a result to an HTTP answer: tags and conditions, content coding, headers.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use shared::problem;
use xxhash_rust::xxh3::xxh3_128;

use crate::coding::Coding;
use crate::error::{Error, RETRY_AFTER_SECONDS};
use crate::position::Claim;

/// The body of every answer: whole, in memory.
pub(crate) type Body = Full<Bytes>;

const PROJECTION_POSITION: HeaderName = HeaderName::from_static("projection-position");
const PROJECTION_AS_OF: HeaderName = HeaderName::from_static("projection-as-of");
const PROJECTION_STALENESS: HeaderName = HeaderName::from_static("projection-staleness");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A result, before the conditions and codings of its request are applied.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: Bytes,
    pub(crate) content_type: HeaderValue,
    /// What the view was when it was read; `None` for what is not read from it.
    pub(crate) claim: Option<Claim>,
    /// Strong tag with its quotes; `None` for answers to POST.
    pub(crate) etag: Option<HeaderValue>,
    pub(crate) link: Option<HeaderValue>,
}

impl Answer {
    /// JSON read from the view, tagged by a hash of its bytes.
    pub(crate) fn json(body: impl Into<Bytes>, claim: Claim) -> Self {
        let body = body.into();
        let etag = quoted(format!("{:032x}", xxh3_128(&body)).as_bytes());
        Self { body, content_type: JSON, claim: Some(claim), etag, link: None }
    }

    /// A stored document with its stored tag (without quotes).
    pub(crate) fn document(body: Bytes, tag: &[u8], claim: Claim) -> Self {
        Self { body, content_type: JSON, claim: Some(claim), etag: quoted(tag), link: None }
    }

    /// JSON without a tag, for POST.
    pub(crate) fn untagged(body: impl Into<Bytes>, claim: Claim) -> Self {
        Self { body: body.into(), content_type: JSON, claim: Some(claim), etag: None, link: None }
    }

    /// The answer to a request with these headers: 304 without a body when the client has it already, else 200.
    pub(crate) async fn into_response(self, request: &HeaderMap) -> Response<Body> {
        let mut response = Response::new(Body::default());
        let headers = response.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if let Some(claim) = self.claim {
            insert_claim(headers, claim);
        }
        if let Some(etag) = self.etag.as_ref().filter(|etag| is_known(request, etag)) {
            headers.insert(header::ETAG, etag.clone());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        headers.insert(header::CONTENT_TYPE, self.content_type);
        if let Some(link) = self.link {
            headers.insert(header::LINK, link);
        }
        let coded = match Coding::wanted(request, self.body.len()) {
            Some(coding) => coding.apply(&self.body).await.map(|body| (coding, body)),
            None => None,
        };
        if coded.is_some() {
            self.etag.map(|etag| headers.insert(header::ETAG, weak(&etag)));
        } else {
            self.etag.map(|etag| headers.insert(header::ETAG, etag));
        }
        match coded {
            Some((coding, body)) => {
                headers.insert(header::CONTENT_ENCODING, coding.name());
                *response.body_mut() = Body::new(body);
            }
            None => *response.body_mut() = Body::new(self.body),
        }
        response
    }
}

impl Error {
    /// The error as a problem; an error that was read from the view claims its position as a result does.
    pub(crate) fn into_response(self, request_id: &HeaderValue) -> Response<Body> {
        let problem = self.problem(request_id.to_str().unwrap_or_default());
        let mut response = Response::new(Body::from(problem.to_json()));
        *response.status_mut() = problem.kind.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, problem::CONTENT_TYPE);
        if problem.kind.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS.into());
        }
        match self {
            Error::Missing { claim, .. } => insert_claim(headers, claim),
            Error::MethodNotAllowed { allow } => drop(headers.insert(header::ALLOW, HeaderValue::from_static(allow))),
            _ => {}
        }
        response
    }
}

fn insert_claim(headers: &mut HeaderMap, claim: Claim) {
    headers.insert(PROJECTION_POSITION, claim.position);
    headers.insert(PROJECTION_AS_OF, claim.as_of);
    if let Some(staleness) = claim.staleness {
        headers.insert(PROJECTION_STALENESS, staleness);
    }
}

/// A tag in quotes; `None` if it holds what a header can't, so that an odd tag costs the tag and not the answer.
fn quoted(tag: &[u8]) -> Option<HeaderValue> {
    HeaderValue::from_maybe_shared(Bytes::from([b"\"", tag, b"\""].concat())).ok()
}

fn weak(etag: &HeaderValue) -> HeaderValue {
    let text = [b"W/", etag.as_bytes()].concat();
    HeaderValue::from_maybe_shared(Bytes::from(text)).expect("a tag with a prefix of ASCII")
}

/// Whether `If-None-Match` names the tag: `*`, or a list of tags of which one is equal, weak or not (RFC 9110, 13.1.2).
fn is_known(request: &HeaderMap, etag: &HeaderValue) -> bool {
    let values = request.get_all(header::IF_NONE_MATCH);
    values.iter().any(|value| {
        let value = value.as_bytes().trim_ascii();
        value == b"*" || tags(value).any(|tag| tag == etag.as_bytes())
    })
}

/// The tags of a list with their quotes and without `W/`; ends at what is not a tag. A tag may hold commas.
fn tags(mut list: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let start = list.iter().position(|b| !matches!(b, b',' | b' ' | b'\t'))?;
        let rest = list[start..].strip_prefix(b"W/").unwrap_or(&list[start..]);
        let inner = rest.strip_prefix(b"\"")?;
        let end = inner.iter().position(|b| *b == b'"')?;
        let (tag, after) = rest.split_at(end + 2);
        list = after;
        Some(tag)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn if_none_match_compares_weakly_and_takes_lists() {
        let etag = HeaderValue::from_static("\"a,b\"");
        for (value, want) in [
            ("\"a,b\"", true),
            ("W/\"a,b\"", true),
            ("*", true),
            (" * ", true),
            ("\"x\", \"a,b\"", true),
            ("\"x\",W/\"a,b\"", true),
            ("\"x\"", false),
            ("a,b", false),
            ("\"a,b", false),
            ("", false),
            ("\"x\" y \"a,b\"", false),
        ] {
            let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::from_str(value).unwrap())]);
            assert_eq!(is_known(&headers, &etag), want, "{value}");
        }
        assert!(!is_known(&HeaderMap::new(), &etag));
    }

    #[test]
    fn tags_are_quoted_and_weakened() {
        assert_eq!(quoted(b"x").map(|etag| weak(&etag)), Some(HeaderValue::from_static("W/\"x\"")));
        assert_eq!(quoted(b"\n"), None);
    }
}
