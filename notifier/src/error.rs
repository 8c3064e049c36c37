//! Everything that can be wrong with a request, and the one place that says how a client sees it: RFC 9457.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;
use shared::import::ChannelError;

use crate::{cursor::NoCursor, hub::ChannelFull, observe};

/// Seconds after which a client may ask again.
const RETRY_AFTER_S: &str = "1";

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("pages of this origin may not use channels here; NOTIFIER_ORIGINS names those that may")]
    Origin,
    #[error(transparent)]
    Cursor(#[from] NoCursor),
    #[error("a channel is a websocket, or with `Accept: text/event-stream` server-sent events")]
    Transport,
    #[error(transparent)]
    ChannelFull(#[from] ChannelFull),
    #[error("more channels are asked for than may be made in this time")]
    Rate,
    #[error("what browsers were told is still being read")]
    NotReady,
    #[error("the notifier has POST /v1/channels and GET /v1/channels/{{channel_id}}")]
    Route,
    #[error("the route does not take this method")]
    Method,
}

impl Error {
    /// Status, and the last segment of the problem's type.
    fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Channel(ChannelError::Forged) => (StatusCode::FORBIDDEN, "invalid-channel"),
            Self::Channel(ChannelError::Expired) => (StatusCode::GONE, "channel-expired"),
            Self::Origin => (StatusCode::FORBIDDEN, "origin-not-allowed"),
            Self::Cursor(_) => (StatusCode::BAD_REQUEST, "invalid-parameter"),
            Self::Transport => (StatusCode::UPGRADE_REQUIRED, "upgrade-required"),
            Self::ChannelFull(_) | Self::Rate => (StatusCode::TOO_MANY_REQUESTS, "too-many"),
            Self::NotReady => (StatusCode::SERVICE_UNAVAILABLE, "not-ready"),
            Self::Route => (StatusCode::NOT_FOUND, "route-not-found"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed"),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, name) = self.kind();
        observe::refused(name);
        let body = json!({"type": format!("/problems/{name}"), "title": name.replace('-', " "), "status": status.as_u16(),
            "detail": self.to_string()});
        let mut answer =
            (status, [(header::CONTENT_TYPE, shared::problem::CONTENT_TYPE)], body.to_string()).into_response();
        let headers = answer.headers_mut();
        if [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS].contains(&status) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        if status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_status() {
        for (error, status) in [
            (Error::Channel(ChannelError::Forged), 403),
            (Error::Channel(ChannelError::Expired), 410),
            (Error::Origin, 403),
            (Error::Cursor(NoCursor), 400),
            (Error::Transport, 426),
            (Error::ChannelFull(ChannelFull), 429),
            (Error::Rate, 429),
            (Error::NotReady, 503),
            (Error::Route, 404),
            (Error::Method, 405),
        ] {
            let answer = error.into_response();
            assert_eq!(
                (answer.status().as_u16(), answer.headers().contains_key("retry-after")),
                (status, status == 429 || status == 503)
            );
        }
    }
}
