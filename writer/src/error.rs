//! What can go wrong between the writer and its surroundings, and the one place that says what is done about it.

use std::time::Duration;

use rdkafka::{error::KafkaError, types::RDKafkaErrorCode};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres answered with an error, or could not be reached.
    #[error("{}", describe(.0))]
    Database(#[from] sqlx::Error),
    /// The transaction took longer than it may; the connection is given up.
    #[error("no answer from Postgres within {0:?}")]
    TimedOut(Duration),
    /// The server that answers is a replica, or a primary that was demoted.
    #[error("the server does not take writes")]
    ReadOnly,
    /// None of several hosts is the primary; names each host and what it said.
    #[error("no host takes writes: {0}")]
    NoPrimary(String),
    /// Another writer has taken partitions of this batch, or their positions were moved.
    #[error("the claim on partitions {0:?} is over")]
    ClaimsOver(Vec<i32>),
    /// A site of this batch was written by another transaction after the batch had read it; it is read again. Keys that move to
    /// another partition are in the hands of two lanes, or writers, for a while.
    #[error("another transaction has written a site of this batch meanwhile")]
    WrittenMeanwhile,
    /// `app_site` holds a row that the document of its site does not have; somebody has changed one of them by hand. The next
    /// transaction leaves that row.
    #[error(
        "app_site has rows that the documents of their sites do not have: somebody has changed one of them by hand"
    )]
    MembershipsDisagree,
    /// The database holds no generation that could be fed.
    #[error("the database has no {0}; run `writer migrate`")]
    NotMigrated(&'static str),
    /// The generation to feed does not exist, or was dropped.
    #[error("there is no generation {0}; `writer generation create` makes one, `writer generation list` shows them")]
    NoGeneration(i32),
    /// A stored document cannot be read back.
    #[error("the stored document of site {site_id} cannot be read: {error}")]
    Document {
        /// The site.
        site_id: String,
        /// Why not.
        error: serde_json::Error,
    },
}

/// What is done about a [`StoreError`]. A failed attempt gives up its connection in every case, so no lock outlives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The environment: wait with backoff, then try the whole transaction again on a new connection.
    Retry,
    /// The claim is over: drop those partitions of the batch, go on with the others.
    LetGo,
    /// What the transaction met is known now: do the whole of it again, at once.
    Again,
    /// The data: a record of the batch is refused for what it holds.
    Reject,
}

/// The constraint that a batch meets when the marker which it revives was swept after it had read it. The next attempt reads
/// that there is none.
const SWEPT: &str = "site_apps_told";
const CHECK_VIOLATION: &str = "23514";

impl StoreError {
    /// Decides by SQLSTATE class (PostgreSQL, Appendix A). Only a data exception (22) and an integrity violation (23) are
    /// about the data; everything else is the environment's and is waited out, visibly.
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::ClaimsOver(_) => Disposition::LetGo,
            // Whoever wrote the site has committed, and a row that is there is left: so this ends.
            Self::WrittenMeanwhile | Self::MembershipsDisagree => Disposition::Again,
            Self::Database(sqlx::Error::Database(error)) => {
                disposition_of(error.code().as_deref().unwrap_or_default(), error.constraint())
            }
            Self::Database(_)
            | Self::TimedOut(_)
            | Self::ReadOnly
            | Self::NoPrimary(_)
            | Self::NotMigrated(_)
            | Self::NoGeneration(_)
            | Self::Document { .. } => Disposition::Retry,
        }
    }
}

fn disposition_of(sqlstate: &str, constraint: Option<&str>) -> Disposition {
    match (sqlstate, constraint) {
        // Without a name it is the bound of a part of the change log: one was attached while the batch wrote into the default
        // part. The next attempt finds it.
        (CHECK_VIOLATION, None | Some(SWEPT)) => Disposition::Retry,
        _ if sqlstate.starts_with("22") || sqlstate.starts_with("23") => Disposition::Reject,
        _ => Disposition::Retry,
    }
}

/// What is done about an error that polling the Kafka client gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollDisposition {
    /// The client recovers by itself: brokers away, a leader elected, a topic that does not exist yet.
    Recovers,
    /// A fetch lay below the log's start or beyond its end. With `auto.offset.reset=error` the client says so and fetches no more
    /// of that partition, which the error does not name.
    OutsideLog,
    /// The client is of no use any more: fenced by its namesake, or out of the group because it was not polled in time
    /// (`max.poll.interval.ms`). The process ends, and its successor reads its position.
    Fatal,
}

/// Decides by librdkafka's error code.
pub fn poll_disposition(error: &KafkaError) -> PollDisposition {
    use RDKafkaErrorCode::{AutoOffsetReset, Fatal, LogTruncation, OffsetOutOfRange, PollExceeded};
    match (error, error.rdkafka_error_code()) {
        (KafkaError::MessageConsumptionFatal(_), _) => PollDisposition::Fatal,
        (KafkaError::MessageConsumption(_), Some(PollExceeded | Fatal)) => PollDisposition::Fatal,
        (_, Some(AutoOffsetReset | OffsetOutOfRange | LogTruncation)) => PollDisposition::OutsideLog,
        _ => PollDisposition::Recovers,
    }
}

/// The error without row values: Postgres puts those into `detail`, which is left out.
fn describe(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => {
            format!("{} (SQLSTATE {})", error.message(), error.code().as_deref().unwrap_or("unknown"))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_are_told_apart() {
        for sqlstate in [
            "", "08006", "25006", "28P01", "3D000", "40001", "40P01", "42P01", "53100", "53300", "55P03", "57014",
            "57P01", "57P03", "58030",
        ] {
            assert_eq!(disposition_of(sqlstate, None), Disposition::Retry, "{sqlstate}");
        }
        for sqlstate in ["22003", "22021", "23502", "23505"] {
            assert_eq!(disposition_of(sqlstate, None), Disposition::Reject, "{sqlstate}");
        }
        for (constraint, expected) in
            [(None, Disposition::Retry), (Some(SWEPT), Disposition::Retry), (Some("version"), Disposition::Reject)]
        {
            assert_eq!(disposition_of(CHECK_VIOLATION, constraint), expected, "{constraint:?}");
        }
        let refused = sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        assert_eq!(StoreError::from(refused).disposition(), Disposition::Retry);
        assert_eq!(StoreError::ClaimsOver(vec![1]).disposition(), Disposition::LetGo);
        assert_eq!(StoreError::WrittenMeanwhile.disposition(), Disposition::Again);
        assert_eq!(StoreError::MembershipsDisagree.disposition(), Disposition::Again);
        assert_eq!(StoreError::TimedOut(Duration::from_secs(1)).disposition(), Disposition::Retry);
    }

    #[test]
    fn errors_of_the_client_are_told_apart() {
        use RDKafkaErrorCode as Code;
        let polled = KafkaError::MessageConsumption;
        for (error, expected) in [
            (KafkaError::MessageConsumptionFatal(Code::FencedInstanceId), PollDisposition::Fatal),
            (polled(Code::PollExceeded), PollDisposition::Fatal),
            (polled(Code::Fatal), PollDisposition::Fatal),
            (polled(Code::AutoOffsetReset), PollDisposition::OutsideLog),
            (polled(Code::OffsetOutOfRange), PollDisposition::OutsideLog),
            (polled(Code::LogTruncation), PollDisposition::OutsideLog),
            (polled(Code::AllBrokersDown), PollDisposition::Recovers),
            (polled(Code::BrokerTransportFailure), PollDisposition::Recovers),
            (polled(Code::UnknownTopicOrPartition), PollDisposition::Recovers),
            (polled(Code::TopicAuthorizationFailed), PollDisposition::Recovers),
            (polled(Code::NotLeaderForPartition), PollDisposition::Recovers),
            (polled(Code::BadMessage), PollDisposition::Recovers),
            (KafkaError::Canceled, PollDisposition::Recovers),
        ] {
            assert_eq!(poll_disposition(&error), expected, "{error:?}");
        }
    }
}
