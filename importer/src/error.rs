//! What can go wrong with a job, and the one place that says what becomes of it.

use messaging::consumer::HandleError;
use rdkafka::error::KafkaError;

/// Why a job is not done, this time.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JobError {
    /// The record's key is not `<import id>/<job>`: nobody can be told.
    #[error("the key is not that of a job")]
    Key,
    /// The record is not what jobs writes.
    #[error("the record is not a job: {0}")]
    Record(String),
    /// Postgres, or the way to it.
    #[error("the database: {0}")]
    Database(#[from] sqlx::Error),
    /// The brokers have not acknowledged the announcement.
    #[error("announcing: {0}")]
    Announce(KafkaError),
}

/// What is done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// It is about the environment: again, until it succeeds.
    Retry,
    /// It is about the job: announced as failed, then a dead letter.
    Fail,
    /// It is about a record that is no job: a dead letter.
    DeadLetter,
}

/// Classes of SQLSTATE that are about the data: `data exception`, `integrity constraint violation`.
const DATA_CLASSES: [&str; 2] = ["22", "23"];

impl JobError {
    /// The one place that decides.
    pub(crate) fn disposition(&self) -> Disposition {
        match self {
            Self::Key => Disposition::DeadLetter,
            Self::Record(_) => Disposition::Fail,
            Self::Database(error) if is_about_data(error) => Disposition::Fail,
            Self::Database(_) | Self::Announce(_) => Disposition::Retry,
        }
    }

    fn class(&self) -> &'static str {
        match self {
            Self::Key => "invalid-key",
            Self::Record(_) => "invalid-job",
            Self::Database(error) if is_about_data(error) => "rejected-by-database",
            Self::Database(_) => "database",
            Self::Announce(_) => "kafka",
        }
    }
}

impl From<JobError> for HandleError {
    fn from(error: JobError) -> Self {
        match error.disposition() {
            Disposition::Retry => Self::new(error.class(), &error),
            Disposition::Fail | Disposition::DeadLetter => Self::never_retried(error.class(), &error),
        }
    }
}

fn is_about_data(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| DATA_CLASSES.iter().any(|class| code.starts_with(class)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_waited_for_and_a_bad_job_is_not() {
        for (error, disposition) in [
            (JobError::Key, Disposition::DeadLetter),
            (JobError::Record(String::new()), Disposition::Fail),
            (JobError::Database(sqlx::Error::PoolTimedOut), Disposition::Retry),
            (JobError::Database(sqlx::Error::WorkerCrashed), Disposition::Retry),
            (JobError::Announce(KafkaError::Canceled), Disposition::Retry),
        ] {
            assert_eq!(error.disposition(), disposition, "{error}");
            assert_eq!(HandleError::from(error).never_retried, disposition != Disposition::Retry);
        }
    }
}
