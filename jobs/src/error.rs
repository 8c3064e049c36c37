//! Everything that can go wrong with a request, and the one place that says how a client sees it: RFC 9457.

use axum::{
    extract::rejection::QueryRejection,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use messaging::{kv_store::KvStoreError, transaction::TransactionError};
use serde_json::json;
use shared::import::ChannelError;

use crate::{refusal::Refusal, spool::SpoolError};

/// Seconds after which a client may ask again.
const RETRY_AFTER_S: &str = "2";

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error("{0}")]
    InvalidParameter(String),
    /// What is wrong with the file.
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the body broke off or is no form: {0}")]
    BrokenBody(String),
    #[error("the body is `text/csv` or `multipart/form-data`, not `{0}`")]
    MediaType(String),
    #[error("the file is larger than {0} bytes; send it in parts")]
    TooLarge(u64),
    #[error("nothing came for too long; the upload is cut and nothing of it exists")]
    Idle,
    #[error("as many uploads are in hand as may be")]
    Overloaded,
    #[error("there is no room for files at the moment")]
    SpoolFull,
    #[error("an upload with this key is under way; ask again, and its import is the answer")]
    UnderWay,
    #[error("there is no such import")]
    NotFound,
    #[error("the service has no such route")]
    Route,
    #[error("the route has no such method")]
    Method,
    /// Nothing that waiting mends: no database is set.
    #[error("this service keeps no errors of rows")]
    ErrorsNotKept,
    #[error("the import has ended; there is nothing to cancel")]
    Ended,
    /// It was not done, and may be asked again.
    #[error("the log does not answer: {0}")]
    Kafka(String),
    #[error("the database of the errors does not answer")]
    Database,
    #[error("the service failed")]
    Internal,
}

impl Error {
    /// Status, and the last segment of the problem's type.
    fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Channel(ChannelError::Forged) => (StatusCode::FORBIDDEN, "invalid-channel"),
            Self::Channel(ChannelError::Expired) => (StatusCode::GONE, "channel-expired"),
            Self::InvalidParameter(_) => (StatusCode::BAD_REQUEST, "invalid-parameter"),
            Self::BrokenBody(_) => (StatusCode::BAD_REQUEST, "invalid-body"),
            Self::NotFound => (StatusCode::NOT_FOUND, "import-not-found"),
            Self::Route => (StatusCode::NOT_FOUND, "route-not-found"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed"),
            Self::ErrorsNotKept => (StatusCode::NOT_FOUND, "errors-not-kept"),
            Self::Idle => (StatusCode::REQUEST_TIMEOUT, "upload-idle"),
            Self::UnderWay => (StatusCode::CONFLICT, "upload-under-way"),
            Self::Ended => (StatusCode::CONFLICT, "import-ended"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large"),
            Self::MediaType(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type"),
            Self::Refused(refusal) => (StatusCode::UNPROCESSABLE_ENTITY, refusal.code),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            Self::Overloaded => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            Self::SpoolFull => (StatusCode::SERVICE_UNAVAILABLE, "spool-full"),
            Self::Kafka(_) => (StatusCode::SERVICE_UNAVAILABLE, "log-unavailable"),
            Self::Database => (StatusCode::SERVICE_UNAVAILABLE, "errors-unavailable"),
        }
    }

    /// For metrics: what became of an upload that was not accepted.
    pub(crate) fn outcome(&self) -> &'static str {
        self.kind().1
    }
}

impl From<SpoolError> for Error {
    fn from(error: SpoolError) -> Self {
        match error {
            SpoolError::Full => Self::SpoolFull,
            SpoolError::Taken => Self::UnderWay,
            SpoolError::Io(error) => error.into(),
        }
    }
}

/// Of the spool's disk: nothing that a client can mend. A full one may have room later.
impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        tracing::error!(error = %error, "the spool can't be written or read");
        match error.kind() {
            std::io::ErrorKind::StorageFull => Self::SpoolFull,
            _ => Self::Internal,
        }
    }
}

impl From<TransactionError> for Error {
    fn from(error: TransactionError) -> Self {
        match error {
            // The same upload at another instance; whichever was later goes on.
            TransactionError::Fenced { .. } => Self::UnderWay,
            error => {
                tracing::warn!(error = %error, "an import's transaction was not committed");
                Self::Kafka(error.to_string())
            }
        }
    }
}

impl From<KvStoreError> for Error {
    fn from(error: KvStoreError) -> Self {
        Self::Kafka(error.to_string())
    }
}

impl From<QueryRejection> for Error {
    fn from(rejection: QueryRejection) -> Self {
        Self::InvalidParameter(rejection.body_text())
    }
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        tracing::warn!(error = %error, "errors of rows can't be read");
        Self::Database
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let (status, name) = self.kind();
        let mut body = json!({"type": format!("/problems/{name}"), "title": name.replace('-', " "),
            "status": status.as_u16(), "detail": self.to_string()});
        if let Self::Refused(Refusal { line: Some(line), .. }) = &self {
            body["line"] = json!(line);
        }
        let kind = [(header::CONTENT_TYPE, shared::problem::CONTENT_TYPE)];
        let may_pass = status == StatusCode::SERVICE_UNAVAILABLE || matches!(self, Self::UnderWay);
        let mut answer = (status, kind, body.to_string()).into_response();
        if may_pass {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_has_its_status_and_a_file_its_line() {
        for (error, status) in [
            (Error::Channel(ChannelError::Forged), 403),
            (Error::Channel(ChannelError::Expired), 410),
            (Error::InvalidParameter(String::new()), 400),
            (Error::BrokenBody(String::new()), 400),
            (Error::NotFound, 404),
            (Error::Route, 404),
            (Error::ErrorsNotKept, 404),
            (Error::Method, 405),
            (Error::Idle, 408),
            (SpoolError::Taken.into(), 409),
            (Error::Ended, 409),
            (Error::TooLarge(1), 413),
            (Error::MediaType(String::new()), 415),
            (Refusal::at(7, "not-text", "x").into(), 422),
            (Error::Overloaded, 503),
            (SpoolError::Full.into(), 503),
            (Error::Kafka(String::new()), 503),
            (Error::Database, 503),
        ] {
            assert_eq!(error.into_response().status().as_u16(), status);
        }
        assert_eq!(Refusal::at(7, "not-text", "x").to_string(), "line 7: x");
    }
}
