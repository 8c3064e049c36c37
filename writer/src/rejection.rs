//! Why a record cannot be projected: a closed list, the same for the log, the metric and the dead letter.

use std::fmt;

use shared::ids::InvalidId;

/// Reason of a rejection; its text is the header `dlq-reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The value is not JSON, or not UTF-8.
    InvalidJson,
    /// The key is null, holds no id, or contradicts the row.
    InvalidKey,
    /// A site, app or instance id that the reader would refuse.
    InvalidId,
    /// The value is no row, or a mapped column has a wrong type.
    InvalidRow,
    /// The column of apps holds no array.
    InvalidApps,
    /// An element of the array is no object, has no id, or a member of a wrong type.
    InvalidApp,
    /// The record leaves out a value that the view does not have either.
    IncompleteRow,
    /// The envelope's `op` is unknown.
    UnknownOperation,
    /// The source table was truncated.
    Truncate,
    /// The value is larger than `WRITER_VALUE_MAX_BYTES`.
    TooLarge,
    /// The site has more apps than `WRITER_SITE_APPS_MAX`.
    TooManyApps,
    /// Postgres refused the data (SQLSTATE class 22 or 23).
    RejectedByDatabase,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 12] = [
        Self::InvalidJson,
        Self::InvalidKey,
        Self::InvalidId,
        Self::InvalidRow,
        Self::InvalidApps,
        Self::InvalidApp,
        Self::IncompleteRow,
        Self::UnknownOperation,
        Self::Truncate,
        Self::TooLarge,
        Self::TooManyApps,
        Self::RejectedByDatabase,
    ];

    /// The text that outsiders see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid-json",
            Self::InvalidKey => "invalid-key",
            Self::InvalidId => "invalid-id",
            Self::InvalidRow => "invalid-row",
            Self::InvalidApps => "invalid-apps",
            Self::InvalidApp => "invalid-app",
            Self::IncompleteRow => "incomplete-row",
            Self::UnknownOperation => "unknown-operation",
            Self::Truncate => "truncate",
            Self::TooLarge => "too-large",
            Self::TooManyApps => "too-many-apps",
            Self::RejectedByDatabase => "rejected-by-database",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A record that cannot be projected. `detail` says more for people; it holds no values of the row beyond ids.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Rejection {
    /// The reason.
    pub reason: Reason,
    /// What exactly.
    pub detail: String,
}

impl Rejection {
    /// A rejection for this reason.
    pub fn new(reason: Reason, detail: String) -> Self {
        Self { reason, detail }
    }

    /// An id that the reader would refuse.
    pub fn invalid_id(error: InvalidId) -> Self {
        Self::new(Reason::InvalidId, error.to_string())
    }
}
