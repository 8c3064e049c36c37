//! What can go wrong in a transaction, and what then.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// Why a handler can't go on. It ends the loop: a record that merely can't be used should become an output.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// What ends a loop; the process should end with it.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// The client refuses its settings.
    #[error("the Kafka client refuses its settings: {0}")]
    Settings(KafkaError),
    /// The thread can't be started.
    #[error("the transaction's thread can't be started: {0}")]
    Thread(std::io::Error),
    /// Another process has the transactional id: this one is a zombie, or two members have one name.
    #[error("another process works under the transactional id {transactional_id}: {error}")]
    Fenced {
        /// Of both.
        transactional_id: String,
        /// The client's words.
        error: KafkaError,
    },
    /// The client can't go on.
    #[error("{step}: {error}")]
    Fatal {
        /// What was being done.
        step: &'static str,
        /// The client's words.
        error: KafkaError,
    },
    /// The group's offset lies outside the log: records were removed before they were consumed, or the topic was made anew. An
    /// operator decides where to go on, by setting the group's offsets.
    #[error("the offset of group {group} lies outside the log of one of its topics; set it with kafka-consumer-groups")]
    OutOfRange {
        /// The group.
        group: String,
    },
    /// The handler refuses a batch.
    #[error("the handler refuses a batch that begins at {topic}-{partition}, offset {offset}: {error}")]
    Handler {
        /// Of the batch's first record.
        topic: String,
        /// Of the batch's first record.
        partition: i32,
        /// Of the batch's first record.
        offset: i64,
        /// The handler's words.
        error: HandlerError,
    },
    /// The state that the work stands on is gone, or does not fit.
    #[error("{0}")]
    State(String),
    /// The handler panicked.
    #[error("the handler panicked")]
    Panicked,
}

/// What to do after an error of the client. librdkafka says it of each transactional call (KIP-360, its INTRODUCTION.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The same call again.
    Retry,
    /// Abort, then the batch again.
    Abort,
    /// End the process.
    Fatal,
}

/// Decides it; the one place that does.
pub(super) fn disposition(error: &KafkaError) -> Disposition {
    match error {
        KafkaError::Transaction(error) if error.is_fatal() => Disposition::Fatal,
        KafkaError::Transaction(error) if error.txn_requires_abort() => Disposition::Abort,
        KafkaError::Transaction(error) if error.is_retriable() => Disposition::Retry,
        KafkaError::Transaction(_) => Disposition::Fatal,
        KafkaError::MessageProduction(code) | KafkaError::Flush(code) => of_production(*code),
        _ => Disposition::Fatal,
    }
}

/// Of handing one record to the client.
fn of_production(code: RDKafkaErrorCode) -> Disposition {
    match code {
        RDKafkaErrorCode::QueueFull => Disposition::Retry,
        // The transaction is in the state that wants an abort, whose reason its abort tells; or the environment is not there.
        RDKafkaErrorCode::State
        | RDKafkaErrorCode::OperationTimedOut
        | RDKafkaErrorCode::MessageTimedOut
        | RDKafkaErrorCode::UnknownTopic
        | RDKafkaErrorCode::UnknownPartition
        | RDKafkaErrorCode::UnknownTopicOrPartition => Disposition::Abort,
        // Such as a record that is larger than the client may send: it would be refused each time.
        _ => Disposition::Fatal,
    }
}

/// Whether the client says that another process has its transactional id.
pub(super) fn is_fenced(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{Fenced, InvalidProducerEpoch, ProducerFenced};
    error.rdkafka_error_code().is_some_and(|code| [Fenced, InvalidProducerEpoch, ProducerFenced].contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_error_of_production_has_one_end() {
        use RDKafkaErrorCode::{
            Fatal, MessageSizeTooLarge, QueueFull, State, TopicAuthorizationFailed, UnknownTopicOrPartition,
        };
        for (code, expected) in [
            (QueueFull, Disposition::Retry),
            (State, Disposition::Abort),
            (UnknownTopicOrPartition, Disposition::Abort),
            (MessageSizeTooLarge, Disposition::Fatal),
            (TopicAuthorizationFailed, Disposition::Fatal),
            (Fatal, Disposition::Fatal),
        ] {
            assert_eq!(disposition(&KafkaError::MessageProduction(code)), expected, "{code}");
        }
        assert_eq!(disposition(&KafkaError::Canceled), Disposition::Fatal);
    }
}
