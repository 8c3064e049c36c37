//! Everything that can go wrong with a request, and the one place that says how a client sees it: RFC 9457, as the other
//! services, with a list of its own.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{access::Role, redrive::RedriveError};

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("sign in, or send a bearer token that the console knows")]
    Unauthorized,
    #[error("this wants the role {}", .0.as_str())]
    Forbidden(Role),
    /// A page of somebody else's may have sent it.
    #[error("{0}")]
    CrossSite(&'static str),
    #[error("{0}")]
    InvalidParameter(String),
    #[error("`confirm` must be `{0}`, which names what is hit")]
    NotConfirmed(String),
    #[error("`reason` says why, for those who read the audit later; it is empty")]
    NoReason,
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Conflict(String),
    #[error("as many requests of this kind are in hand as may be")]
    Overloaded,
    #[error("Kafka: {0}")]
    Kafka(String),
}

impl Error {
    /// Status, and the last segment of the problem's type.
    fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::Forbidden(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Self::CrossSite(_) => (StatusCode::FORBIDDEN, "cross-site"),
            Self::InvalidParameter(_) => (StatusCode::BAD_REQUEST, "invalid-parameter"),
            Self::NotConfirmed(_) => (StatusCode::BAD_REQUEST, "not-confirmed"),
            Self::NoReason => (StatusCode::BAD_REQUEST, "no-reason"),
            Self::NotFound(_) => (StatusCode::NOT_FOUND, "not-found"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Self::Kafka(_) => (StatusCode::BAD_GATEWAY, "kafka"),
        }
    }
}

impl From<RedriveError> for Error {
    fn from(error: RedriveError) -> Self {
        match error {
            RedriveError::Refused(why) => Self::Conflict(why),
            other => Self::Kafka(other.to_string()),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, name) = self.kind();
        let title = name.replace('-', " ");
        let body = json!({"type": format!("/problems/{name}"), "title": title, "status": status.as_u16(),
            "detail": self.to_string()});
        let mut answer =
            (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response();
        if status == StatusCode::UNAUTHORIZED {
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        answer
    }
}
