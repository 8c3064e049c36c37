//! What a service does with a record.

use std::{borrow::Cow, fmt::Display};

use crate::record::Record;

/// Handles the records of a consumer.
///
/// **Order.** Records of one key (or of one partition, by [`super::Order`]) are handed over one after another, in the order of
/// their offsets; the next only when the one before is done. Under non-blocking retries a record that failed comes later than
/// its successors.
///
/// **Duplication.** A record is handed over at least once: again after an error, after a crash, and when its partition went to
/// another member before it was done. What a handler does must bear that, by the record's place for example.
///
/// **Cancellation.** When the group has taken the partition away, or the time for a drain is over, the future is dropped at an
/// `await`. It is also dropped when it takes longer than `handle_max`; that counts as a failure of class `timeout`. A panic is a
/// failure of class `panic`.
pub trait RecordHandler: Send + Sync + 'static {
    /// Handles one record. `Ok` means that it need never be seen again.
    fn handle(&self, record: &Record) -> impl Future<Output = Result<(), HandleError>> + Send;
}

/// Why a record could not be handled, this time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct HandleError {
    /// For policies and programs: a word in kebab-case. It is the `dlq-reason` of a dead letter.
    pub class: Cow<'static, str>,
    /// For people.
    pub message: String,
    /// No retry helps: the record is bad, not the world around it.
    pub never_retried: bool,
}

impl HandleError {
    /// An error that another attempt may not meet.
    pub fn new(class: impl Into<Cow<'static, str>>, error: impl Display) -> Self {
        Self { class: class.into(), message: error.to_string(), never_retried: false }
    }

    /// An error that every attempt would meet.
    pub fn never_retried(class: impl Into<Cow<'static, str>>, error: impl Display) -> Self {
        Self { never_retried: true, ..Self::new(class, error) }
    }
}
