//! Everything that can go wrong with a request, and the one place that says how a client sees it.

use std::sync::Arc;

use shared::ids::InvalidId;
use shared::problem::{Kind, Problem};
use tokio_postgres::error::SqlState;

use crate::position::Claim;

/// Seconds that `Retry-After` asks for with a 503: long enough for a balancer to try elsewhere, short for a person.
pub(crate) const RETRY_AFTER_SECONDS: u16 = 1;

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    #[error("an id in the path is not UTF-8 once it is percent-decoded")]
    IdNotUtf8,
    #[error("{name}: {why}")]
    InvalidParameter { name: &'static str, why: &'static str },
    #[error("Projection-Min-Position is not of the form <generation>/<partition>:<next_offset>[,…]")]
    InvalidPosition,
    #[error("{0}")]
    InvalidBody(String),
    #[error("the body did not arrive within {}", humantime::format_duration(*.0))]
    BodyTooSlow(std::time::Duration),
    #[error("the body ended early")]
    BodyCutShort(#[source] hyper::Error),
    /// The view was read, and it is not there: carries the position of what was read.
    #[error("{detail}")]
    Missing { kind: Kind, detail: &'static str, claim: Claim },
    #[error("the service has no such route")]
    RouteNotFound,
    #[error("the route takes {allow}")]
    MethodNotAllowed { allow: &'static str },
    /// Found by hyper, before there is a request to speak of.
    #[error("the request line or a header can't be read as HTTP/1.1")]
    NotHttp,
    #[error("the changes after this token are no longer kept")]
    FeedPositionExpired,
    #[error("{0} feeds are open, as many as may be")]
    FeedsOverloaded(usize),
    #[error("a body may have {0} bytes here")]
    BodyTooLarge(usize),
    #[error("the route takes a body of application/json")]
    UnsupportedMediaType,
    #[error("a request's line and headers may have {0} bytes together")]
    HeadersTooLarge(usize),
    #[error("{0} requests of this kind are in hand, as many as may be")]
    Overloaded(usize),
    #[error("too many bytes of bodies are being received")]
    BodiesOverloaded,
    #[error("no database can answer at the moment")]
    NoReplica,
    #[error("no replica contains what the request demands{}", waited(.0))]
    PositionNotReached(std::time::Duration),
    #[error("no answer within {}", humantime::format_duration(*.0))]
    DeadlineExceeded(std::time::Duration),
    #[error("the database refused the look-up")]
    Database(#[source] Arc<tokio_postgres::Error>),
    #[error("a stored document is not of the form that the view has")]
    Document(#[source] serde_json::Error),
    #[error("the handler panicked")]
    Panicked,
}

impl Error {
    /// What a client may decide on.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Error::InvalidId(_) | Error::IdNotUtf8 => Kind::InvalidId,
            Error::InvalidParameter { .. } | Error::NotHttp => Kind::InvalidParameter,
            Error::InvalidPosition => Kind::InvalidPosition,
            Error::InvalidBody(_) | Error::BodyCutShort(_) | Error::BodyTooSlow(_) => Kind::InvalidBody,
            Error::Missing { kind, .. } => *kind,
            Error::RouteNotFound => Kind::RouteNotFound,
            Error::MethodNotAllowed { .. } => Kind::MethodNotAllowed,
            Error::FeedPositionExpired => Kind::FeedPositionExpired,
            Error::BodyTooLarge(_) => Kind::BodyTooLarge,
            Error::UnsupportedMediaType => Kind::UnsupportedMediaType,
            Error::HeadersTooLarge(_) => Kind::HeadersTooLarge,
            Error::Overloaded(_) | Error::BodiesOverloaded | Error::FeedsOverloaded(_) => Kind::Overloaded,
            Error::NoReplica => Kind::NoReplica,
            Error::PositionNotReached(_) => Kind::PositionNotReached,
            Error::DeadlineExceeded(_) => Kind::DeadlineExceeded,
            Error::Database(_) | Error::Document(_) | Error::Panicked => Kind::Internal,
        }
    }

    /// What the client is told; about the reader's inside only that it failed.
    pub(crate) fn problem(&self, request_id: &str) -> Problem {
        let detail = match self.kind() {
            Kind::Internal => "the service failed; its logs have the cause under the request id".to_owned(),
            _ => self.to_string(),
        };
        Problem::new(self.kind(), detail).with_request_id(request_id)
    }
}

fn waited(wait: &std::time::Duration) -> String {
    match wait.is_zero() {
        true => " yet; `Prefer: wait=SECONDS` waits for it".to_owned(),
        false => format!(" after a wait of {}", humantime::format_duration(*wait)),
    }
}

/// Reason of a retry: the tables of the generation that was asked are gone.
pub(crate) const GENERATION: &str = "generation";

/// Why one attempt at a look-up gave nothing.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Shared by the look-ups that went in one statement.
    Database(Arc<tokio_postgres::Error>),
    /// The connection was given up before the look-up was sent.
    Lost,
    /// No answer for as long as a replica may be silent.
    Silent,
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

/// What to do about an error of a look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// Ask once more, on another replica or connection; the text is the `reason` of the retry metric.
    Retry(&'static str),
    /// The same look-up would fail again.
    Fatal,
}

/// Decides by SQLSTATE (Postgres, appendix A), or by its absence: then the connection is at fault.
pub(crate) fn disposition(error: &tokio_postgres::Error) -> Disposition {
    match error.code() {
        Some(code) => by_state(code),
        None if error.is_closed() || is_io(error) => Disposition::Retry("connection"),
        None => Disposition::Fatal,
    }
}

fn by_state(code: &SqlState) -> Disposition {
    match code.code() {
        // Serialization failure and deadlock: on a replica these are conflicts with recovery.
        "40001" | "40P01" => Disposition::Retry("conflict"),
        // Cancelled by the server: a recovery conflict as well, or the statement's own time limit.
        "57014" => Disposition::Retry("cancelled"),
        "57P01" | "57P02" | "57P03" | "57P04" | "57P05" => Disposition::Retry("shutdown"),
        // The generation was dropped, or its tables changed under a prepared statement: the next sample knows better.
        "3F000" | "42P01" | "0A000" | "26000" => Disposition::Retry(GENERATION),
        state if state.starts_with("08") || state.starts_with("53") || state.starts_with("58") => {
            Disposition::Retry("resources")
        }
        _ => Disposition::Fatal,
    }
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retried_are_conflicts_and_what_is_about_the_server() {
        for (code, want) in [
            ("40001", Disposition::Retry("conflict")),
            ("40P01", Disposition::Retry("conflict")),
            ("57014", Disposition::Retry("cancelled")),
            ("57P01", Disposition::Retry("shutdown")),
            ("57P05", Disposition::Retry("shutdown")),
            ("42P01", Disposition::Retry(GENERATION)),
            ("08006", Disposition::Retry("resources")),
            ("53300", Disposition::Retry("resources")),
            ("22021", Disposition::Fatal),
            ("42501", Disposition::Fatal),
            ("42703", Disposition::Fatal),
            ("XX000", Disposition::Fatal),
        ] {
            assert_eq!(by_state(&SqlState::from_code(code)), want, "{code}");
        }
    }

    #[test]
    fn an_internal_error_tells_nothing_of_the_inside() {
        let problem = Error::Panicked.problem("r-1");
        assert_eq!((problem.kind.status().as_u16(), problem.request_id.as_deref()), (500, Some("r-1")));
        assert!(!problem.detail.contains("panic"));
    }
}
