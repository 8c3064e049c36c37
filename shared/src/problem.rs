//! Errors as HTTP answers: `application/problem+json` (RFC 9457) with a closed list of types.
//!
//! A [`Kind`] is what a client may decide on; its name, status and title never change. The detail is for people and says
//! what is wrong with this request and what would be right. Each type's URI, `/problems/<name>`, is served as a page by
//! the services that answer with it.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::IntoResponse;
use serde::Serialize;

/// The media type of a problem.
pub const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

macro_rules! kinds {
    ($($kind:ident $status:literal $name:literal $title:literal $page:literal;)+) => {
        /// The closed list of problems.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Kind {
            $(#[doc = $page] $kind,)+
        }

        impl Kind {
            /// All kinds, by status.
            pub const ALL: &[Kind] = &[$(Kind::$kind),+];

            /// The last segment of the type's URI.
            pub const fn name(self) -> &'static str {
                match self { $(Kind::$kind => $name),+ }
            }

            /// The status that an answer of this kind has.
            pub fn status(self) -> StatusCode {
                let code: u16 = match self { $(Kind::$kind => $status),+ };
                StatusCode::from_u16(code).expect("the list holds valid status codes")
            }

            /// A short text, the same for all problems of the kind.
            pub const fn title(self) -> &'static str {
                match self { $(Kind::$kind => $title),+ }
            }

            /// What the kind means and what a client can do, for the type's page.
            pub const fn page(self) -> &'static str {
                match self { $(Kind::$kind => $page),+ }
            }
        }
    };
}

kinds! {
    InvalidId 400 "invalid-id" "Invalid id"
        "Ids are 1 to 128 bytes of printable UTF-8 without `/`, percent-encoded in paths. Correct the id; asking again does not help.";
    InvalidParameter 400 "invalid-parameter" "Invalid parameter"
        "A query parameter or header has a value that the route does not take. The detail names it and what it takes; asking again does not help.";
    InvalidPosition 400 "invalid-position" "Invalid position"
        "`Projection-Min-Position` must be a value of `Projection-Position` as an earlier answer had it.";
    InvalidBody 400 "invalid-body" "Invalid body"
        "The body is not the JSON that the route takes, or asks for more than its limit. The detail says where.";
    SiteNotFound 404 "site-not-found" "Site not found"
        "The view has no such site: it was never seen, or it was deleted. `Projection-Position` says what the answer is based on.";
    AppNotInstalled 404 "app-not-installed" "App not installed"
        "The site exists and does not have the app installed.";
    InstanceNotFound 404 "instance-not-found" "Instance not found"
        "No site has an app installed with this instance id.";
    RouteNotFound 404 "route-not-found" "Route not found"
        "The service has no such route. Ids hold no `/`; other special characters in a path must be percent-encoded.";
    MethodNotAllowed 405 "method-not-allowed" "Method not allowed"
        "The route exists and does not take this method. The header `Allow` names those it takes.";
    FeedPositionExpired 410 "feed-position-expired" "Feed position expired"
        "The changes after this token are no longer kept. Read the current state again and follow the feed from now.";
    BodyTooLarge 413 "body-too-large" "Body too large"
        "The body is larger than the service takes. Ask for less at a time.";
    UnsupportedMediaType 415 "unsupported-media-type" "Unsupported media type"
        "The route takes a body of another media type. Set `Content-Type: application/json`.";
    HeadersTooLarge 431 "headers-too-large" "Headers too large"
        "The request's line and headers together are larger than the service takes.";
    Internal 500 "internal" "Internal error"
        "The service failed in a way that it did not foresee. The request id finds the cause in its logs.";
    Overloaded 503 "overloaded" "Overloaded"
        "The service has as many requests in hand as it may. Ask again after `Retry-After` seconds, with backoff.";
    PositionNotReached 503 "position-not-reached" "Position not reached"
        "No replica contains the position or version that the request demands yet. Ask again after `Retry-After` seconds, or let the service wait with `Prefer: wait=SECONDS`.";
    NoReplica 503 "no-replica" "No replica"
        "No database can answer at the moment. Ask again after `Retry-After` seconds, with backoff.";
    DeadlineExceeded 504 "deadline-exceeded" "Deadline exceeded"
        "The answer was not ready within the time that the service gives a request. It may be asked again.";
}

impl Kind {
    /// The kind that a path `/problems/<name>` is about.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

/// One error as a client sees it.
///
/// `{"type":"/problems/<name>","title","status","detail","request_id"}`; without a request id the member is left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What a client may decide on.
    pub kind: Kind,
    /// What is wrong with this request, for people; no secrets, nothing about the service's inside.
    pub detail: String,
    /// Finds the request in logs and traces.
    pub request_id: Option<String>,
}

impl Problem {
    /// A problem of a request whose id is not known yet.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), request_id: None }
    }

    /// The same problem, with the request's id.
    pub fn with_request_id(self, request_id: impl Into<String>) -> Self {
        Self { request_id: Some(request_id.into()), ..self }
    }

    /// The body, one JSON object.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Body<'a> {
            r#type: String,
            title: &'a str,
            status: u16,
            detail: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            request_id: Option<&'a str>,
        }

        let body = Body {
            r#type: format!("/problems/{}", self.kind.name()),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: &self.detail,
            request_id: self.request_id.as_deref(),
        };
        serde_json::to_string(&body).expect("texts and a number are JSON")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        (self.kind.status(), [(header::CONTENT_TYPE, CONTENT_TYPE)], self.to_json()).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_and_statuses_are_the_contracts() {
        let list: Vec<_> = Kind::ALL.iter().map(|k| format!("{} {}", k.status().as_u16(), k.name())).collect();
        assert_eq!(
            list,
            [
                "400 invalid-id",
                "400 invalid-parameter",
                "400 invalid-position",
                "400 invalid-body",
                "404 site-not-found",
                "404 app-not-installed",
                "404 instance-not-found",
                "404 route-not-found",
                "405 method-not-allowed",
                "410 feed-position-expired",
                "413 body-too-large",
                "415 unsupported-media-type",
                "431 headers-too-large",
                "500 internal",
                "503 overloaded",
                "503 position-not-reached",
                "503 no-replica",
                "504 deadline-exceeded",
            ]
        );
        assert!(Kind::ALL.iter().all(|k| Kind::from_name(k.name()) == Some(*k)));
        assert_eq!(Kind::from_name("other"), None);
    }

    #[test]
    fn a_problem_is_one_json_object() {
        let problem = Problem::new(Kind::InvalidId, "an id is \"empty\"").with_request_id("r-1");
        let body: serde_json::Value = serde_json::from_str(&problem.to_json()).unwrap();
        let want = json!({"type": "/problems/invalid-id", "title": "Invalid id", "status": 400,
            "detail": "an id is \"empty\"", "request_id": "r-1"});
        assert_eq!(body, want);
        let response = problem.into_response();
        assert_eq!((response.status().as_u16(), &response.headers()["content-type"]), (400, &CONTENT_TYPE));
    }
}
