//! Records on their way from the topic to one lane: copied once, out of the client's queue into one buffer per batch.

use std::{
    ops::Range,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use rdkafka::message::Message;
use shared::envelope::Headers;

use crate::{
    decode::Raw,
    topic_id::{self, TopicId},
};

/// Sizes of a batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Records at most.
    pub records_max: usize,
    /// Bytes at most; the record that passes it is the last.
    pub bytes_max: usize,
}

/// The time during which this writer owns a partition: from the claim of its position until it is revoked, fenced or let go.
///
/// Held by the source, which ends it on revocation, and by the lane, which ends it when the store says that it is over.
#[derive(Debug)]
pub struct Tenure {
    /// The partition.
    pub partition: i32,
    /// Raised by each claim; a batch commits under this epoch only.
    pub epoch: i64,
    /// The source epoch that held at the claim.
    pub source_epoch: i32,
    /// The topic that was claimed; unknown where brokers know no topic ids.
    pub topic_id: Option<TopicId>,
    ended: AtomicBool,
}

impl Tenure {
    /// A tenure that has just begun.
    pub fn new(partition: i32, epoch: i64, source_epoch: i32, topic_id: Option<TopicId>) -> Self {
        Self { partition, epoch, source_epoch, topic_id, ended: AtomicBool::new(false) }
    }

    /// Whether the topic is another than the one that was claimed.
    pub fn is_of_another(&self, topic_id: Option<&TopicId>) -> bool {
        topic_id::differ(self.topic_id.as_ref().map(TopicId::as_str), topic_id)
    }

    /// Ends it; batches that carry it are abandoned.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether it is over.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// Records of one or more partitions of one lane, in the order in which they were polled (offset order per partition).
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    headers: Vec<(Range<usize>, Option<Range<usize>>)>,
    /// The records.
    pub records: Vec<Record>,
    /// The partitions, each once.
    pub parts: Vec<Part>,
    /// A moment behind the poll of its last record; set when it is sent.
    pub polled_at: Option<Instant>,
}

/// One partition of a batch.
#[derive(Debug, Clone)]
pub struct Part {
    /// The partition and the claim on it.
    pub tenure: Arc<Tenure>,
    /// The position that the batch continues.
    pub from_offset: i64,
    /// The partition's position once the batch is stored: past its records, and past transaction markers behind them.
    pub next_offset: i64,
}

/// One record; its bytes lie in the batch.
#[derive(Debug)]
pub struct Record {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Kafka's timestamp in milliseconds since the Unix epoch.
    pub timestamp_ms: Option<i64>,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Range<usize>,
}

impl Batch {
    /// Copies a message in, with its headers in their order.
    pub fn push(&mut self, message: &impl Message, headers: &[(&[u8], Option<&[u8]>)]) {
        let first_header = self.headers.len();
        for (name, value) in headers {
            let name = self.copy(name);
            let value = value.map(|value| self.copy(value));
            self.headers.push((name, value));
        }
        let record = Record {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key().map(|key| self.copy(key)),
            value: message.payload().map(|value| self.copy(value)),
            headers: first_header..self.headers.len(),
        };
        self.records.push(record);
    }

    /// Adds a partition: its position before the batch and after it.
    pub fn advance(&mut self, tenure: &Arc<Tenure>, from_offset: i64, next_offset: i64) {
        self.parts.push(Part { tenure: Arc::clone(tenure), from_offset, next_offset });
    }

    /// A record's bytes.
    pub fn raw(&self, record: &Record) -> Raw<'_, RecordHeaders<'_>> {
        Raw {
            key: record.key.clone().map(|range| &self.bytes[range]),
            value: record.value.clone().map(|range| &self.bytes[range]),
            headers: RecordHeaders { batch: self, range: record.headers.clone() },
        }
    }

    /// A record's headers in their order, as they came.
    pub fn headers(&self, record: &Record) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let bytes = |range: &Range<usize>| &self.bytes[range.clone()];
        self.headers[record.headers.clone()].iter().map(move |(name, value)| (bytes(name), value.as_ref().map(bytes)))
    }

    /// Whether it has as many records, or bytes, as it may.
    pub fn is_full(&self, limits: BatchLimits) -> bool {
        self.records.len() >= limits.records_max || self.bytes.len() >= limits.bytes_max
    }

    /// Whether there is nothing to store, not even a position.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    fn copy(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }
}

/// The headers of one record.
#[derive(Debug)]
pub struct RecordHeaders<'a> {
    batch: &'a Batch,
    range: Range<usize>,
}

impl Headers for RecordHeaders<'_> {
    fn get(&self, name: &str) -> Option<&[u8]> {
        let headers = &self.batch.headers[self.range.clone()];
        let (_, value) = headers.iter().rev().find(|(range, _)| &self.batch.bytes[range.clone()] == name.as_bytes())?;
        Some(&self.batch.bytes[value.clone()?])
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::message::{OwnedMessage, Timestamp};

    use super::*;

    #[test]
    fn a_claim_knows_its_topic_from_another_of_that_name() {
        let tenure = |topic_id| Tenure::new(0, 1, 0, topic_id);
        let (one, other) = (TopicId::of_bits(0, 1), TopicId::of_bits(0, 2));
        assert!(tenure(one.clone()).is_of_another(other.as_ref()));
        assert!(!tenure(one.clone()).is_of_another(one.as_ref()));
        assert!(!tenure(one).is_of_another(None) && !tenure(None).is_of_another(other.as_ref()), "brokers without ids");
    }

    #[test]
    fn a_record_reads_back_as_it_came() {
        let headers: [(&[u8], Option<&[u8]>); 4] =
            [(b"twice", Some(b"first")), (b"empty", None), (b"\xff", Some(b"")), (b"twice", Some(b"last"))];
        let message = |payload: Option<&[u8]>| {
            let (payload, key) = (payload.map(<[u8]>::to_vec), Some(b"key".to_vec()));
            OwnedMessage::new(payload, key, "topic".to_owned(), Timestamp::CreateTime(5), 3, 7, None)
        };
        let mut batch = Batch::default();
        batch.push(&message(Some(b"\xffvalue")), &headers);
        batch.push(&message(None), &[]);
        let record = &batch.records[0];
        let raw = batch.raw(record);
        assert_eq!((raw.key, raw.value), (Some(&b"key"[..]), Some(&b"\xffvalue"[..])));
        assert_eq!((record.partition, record.offset, record.timestamp_ms), (3, 7, Some(5)));
        assert_eq!(raw.headers.get("twice"), Some(&b"last"[..]));
        assert_eq!((raw.headers.get("empty"), raw.headers.get("none")), (None, None));
        assert_eq!(batch.headers(record).collect::<Vec<_>>(), headers);
        assert_eq!(batch.raw(&batch.records[1]).value, None);
        assert_eq!(batch.headers(&batch.records[1]).count(), 0);
    }
}
