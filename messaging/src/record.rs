//! A consumed record, owned: it may wait, be retried and be buried long after the client has gone on.

use std::sync::Arc;

use bytes::Bytes;
use rdkafka::{Message as _, message::BorrowedMessage};

use crate::{headers, retry::Trail};

/// Name and value of a header; a name is bytes, since nobody checks that it is text.
pub type RecordHeader = (Bytes, Option<Bytes>);

/// Where a record stands in Kafka.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Topic.
    pub topic: Arc<str>,
    /// Partition of it.
    pub partition: i32,
    /// Offset in it.
    pub offset: i64,
}

/// A record as its handler sees it.
#[derive(Debug, Clone)]
pub struct Record {
    /// Where it was read: the topic itself, or one of its retry topics.
    pub place: Place,
    /// Milliseconds since the Unix epoch: of the producer, or of the broker where the topic says so.
    pub timestamp_ms: Option<i64>,
    /// Key.
    pub key: Option<Bytes>,
    /// Value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in their order; a name may stand twice.
    pub headers: Vec<RecordHeader>,
    /// Where it stood first and how often it was retried; read off the headers of a retry topic's record.
    pub trail: Trail,
}

impl Record {
    /// Copies a message. `source` is the topic to which it belongs, also when it was read from a retry topic.
    pub(crate) fn of(message: &BorrowedMessage<'_>, topic: &Arc<str>, source: &Arc<str>) -> Self {
        let place = Place { topic: Arc::clone(topic), partition: message.partition(), offset: message.offset() };
        let copied =
            |(name, value): (&[u8], Option<&[u8]>)| (Bytes::copy_from_slice(name), value.map(Bytes::copy_from_slice));
        let all: Vec<RecordHeader> = headers::of(message).into_iter().map(copied).collect();
        let timestamp_ms = message.timestamp().to_millis();
        let (trail, headers) = match topic == source {
            true => (Trail::begin(place.clone(), timestamp_ms), all),
            false => Trail::read(all, source, &place, timestamp_ms),
        };
        Self {
            timestamp_ms,
            key: message.key().map(Bytes::copy_from_slice),
            value: message.payload().map(Bytes::copy_from_slice),
            place,
            headers,
            trail,
        }
    }

    /// Bytes of key and value: what it costs to keep it.
    pub fn payload_bytes(&self) -> usize {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        length(&self.key) + length(&self.value)
    }

    /// The last value of a header.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let found = self.headers.iter().rev().find(|(key, _)| key == name.as_bytes());
        found.and_then(|(_, value)| value.as_deref())
    }
}
