//! A dead letter, or any other record, copied out of the client.

use bytes::Bytes;
use messaging::{dead_letter::Origin, headers, record::RecordHeader};
use rdkafka::{Message as _, message::BorrowedMessage};

use crate::fingerprint::{Fingerprint, pattern};

/// A record as it stands in a topic.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp_ms: Option<i64>,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<RecordHeader>,
}

impl Raw {
    pub(crate) fn of(message: &BorrowedMessage<'_>) -> Self {
        Self {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key().map(Bytes::copy_from_slice),
            value: message.payload().map(Bytes::copy_from_slice),
            headers: copied(message),
        }
    }
}

/// What a message of a dead-letter topic says of itself; `None` when it is no letter of this library, or of another topic: who
/// may write here could otherwise have records put into any topic by a redrive.
pub(crate) fn origin(topic: &str, headers: &[RecordHeader]) -> Option<Origin> {
    Origin::read(headers).filter(|origin| format!("{}-{}-dlq", origin.topic, origin.group) == topic)
}

/// A letter's kind, and the pattern of its text.
pub(crate) fn kind(origin: &Origin) -> (Fingerprint, String) {
    let pattern = pattern(&origin.message);
    (Fingerprint::of(&origin.reason, &pattern), pattern)
}

pub(crate) fn copied(message: &BorrowedMessage<'_>) -> Vec<RecordHeader> {
    let copied =
        |(name, value): (&[u8], Option<&[u8]>)| (Bytes::copy_from_slice(name), value.map(Bytes::copy_from_slice));
    headers::of(message).into_iter().map(copied).collect()
}
