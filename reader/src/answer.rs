//! From a result to an HTTP answer: tags and conditions, content coding, headers.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{Either, Full};
use shared::problem;
use xxhash_rust::xxh3::xxh3_128;

use crate::coding::Coding;
use crate::error::{Error, RETRY_AFTER_SECONDS};
use crate::feed::Frames;
use crate::position::Claim;

/// The body of an answer: whole, in memory, or a feed.
pub(crate) type Body = Either<Full<Bytes>, Frames>;

const PROJECTION_POSITION: HeaderName = HeaderName::from_static("projection-position");
const PROJECTION_AS_OF: HeaderName = HeaderName::from_static("projection-as-of");
const PROJECTION_STALENESS: HeaderName = HeaderName::from_static("projection-staleness");
/// Room for the headers of most answers.
const HEADERS: usize = 12;
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
    /// Sent instead of `body`, as long as it lasts.
    pub(crate) feed: Option<Frames>,
}

impl Answer {
    /// JSON read from the view, tagged by a hash of its bytes.
    pub(crate) fn json(body: impl Into<Bytes>, claim: Claim) -> Self {
        let body = body.into();
        let etag = quoted(format!("{:032x}", xxh3_128(&body)).as_bytes());
        Self { body, content_type: JSON, claim: Some(claim), etag, link: None, feed: None }
    }

    /// A stored document with its stored tag, [quoted].
    pub(crate) fn document(body: Bytes, etag: Option<HeaderValue>, claim: Claim) -> Self {
        Self { body, content_type: JSON, claim: Some(claim), etag, link: None, feed: None }
    }

    /// JSON without a tag: for POST, and for what no second request gives again.
    pub(crate) fn untagged(body: impl Into<Bytes>, claim: impl Into<Option<Claim>>) -> Self {
        Self { body: body.into(), content_type: JSON, claim: claim.into(), etag: None, link: None, feed: None }
    }

    /// A text or a file that is a part of the service.
    pub(crate) fn page(body: impl Into<Bytes>, content_type: HeaderValue) -> Self {
        Self { body: body.into(), content_type, claim: None, etag: None, link: None, feed: None }
    }

    /// A feed of server-sent events.
    pub(crate) fn feed(frames: Frames, claim: Option<Claim>) -> Self {
        let content_type = HeaderValue::from_static("text/event-stream");
        Self { body: Bytes::new(), content_type, claim, etag: None, link: None, feed: Some(frames) }
    }

    /// The answer to a request with these headers: 304 without a body when the client has it already, else 200.
    pub(crate) async fn into_response(self, request: &HeaderMap) -> Response<Body> {
        let mut response = Response::new(whole(Bytes::new()));
        let headers = response.headers_mut();
        headers.reserve(HEADERS);
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
        if let Some(frames) = self.feed {
            *response.body_mut() = Either::Right(frames);
            return response;
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
                *response.body_mut() = whole(body);
            }
            None => *response.body_mut() = whole(self.body),
        }
        response
    }
}

impl Error {
    /// The error as a problem; an error that was read from the view claims its position as a result does.
    pub(crate) fn into_response(self, request_id: &HeaderValue) -> Response<Body> {
        let problem = self.problem(request_id.to_str().unwrap_or_default());
        let mut response = Response::new(whole(problem.to_json().into()));
        *response.status_mut() = problem.kind.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, problem::CONTENT_TYPE);
        if problem.kind.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS.into());
        }
        match self {
            Error::Missing { claim, .. } => insert_claim(headers, *claim),
            Error::MethodNotAllowed { allow } => drop(headers.insert(header::ALLOW, HeaderValue::from_static(allow))),
            // Who sends such heads shall not send more of them over a connection that others could have.
            Error::HeadersTooLarge(_) => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

fn whole(bytes: Bytes) -> Body {
    Either::Left(Full::new(bytes))
}

fn insert_claim(headers: &mut HeaderMap, claim: Claim) {
    headers.insert(PROJECTION_POSITION, claim.position);
    headers.insert(PROJECTION_AS_OF, claim.as_of);
    if let Some(staleness) = claim.staleness {
        headers.insert(PROJECTION_STALENESS, staleness);
    }
}

/// A tag in quotes; `None` if it holds what a header can't, so that an odd tag costs the tag and not the answer.
pub(crate) fn quoted(tag: &[u8]) -> Option<HeaderValue> {
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
