//! What one round of polling gives: records, decoded outside the store's lock, and what the client said beside them.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rdkafka::{Message, consumer::BaseConsumer, error::KafkaError, message::BorrowedMessage};

use super::super::{
    DecodeError,
    contents::{Arrived, Content},
};

/// How long a round waits for its first record.
const POLL_MAX: Duration = Duration::from_millis(20);
/// A round ends after so many records, so that readers get at the store and progress is told.
const RECORDS_MAX: usize = 4096;
/// Or after values of so many bytes.
const BYTES_MAX: usize = 8 << 20;

/// Kept from round to round for its memory.
pub(super) struct Batch<V> {
    pub(super) records: Vec<Arrived<V>>,
    /// Partitions whose end was reached behind these records.
    pub(super) ended: Vec<i32>,
    pub(super) unreadable: u64,
    /// Nothing more waited in the client.
    pub(super) drained: bool,
    pub(super) error: Option<KafkaError>,
}

impl<V> Default for Batch<V> {
    fn default() -> Self {
        Self { records: Vec::new(), ended: Vec::new(), unreadable: 0, drained: false, error: None }
    }
}

impl<V> Batch<V> {
    /// Takes what waits in the client, up to the limits; waits a moment for the first.
    pub(super) fn poll(&mut self, consumer: &BaseConsumer, decode: &impl Fn(&[u8]) -> Result<V, DecodeError>) {
        let (mut bytes, mut wait) = (0, POLL_MAX);
        self.drained = false;
        while self.records.len() < RECORDS_MAX && bytes < BYTES_MAX {
            match consumer.poll(wait) {
                Some(Ok(message)) => {
                    bytes += message.payload_len();
                    self.take(&message, decode);
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => self.ended.push(partition),
                Some(Err(error)) => {
                    self.error = Some(error);
                    return;
                }
                None => {
                    self.drained = true;
                    return;
                }
            }
            wait = Duration::ZERO;
        }
    }

    fn take(&mut self, message: &BorrowedMessage<'_>, decode: &impl Fn(&[u8]) -> Result<V, DecodeError>) {
        let content = match message.payload().map(|payload| (payload.len(), decode(payload))) {
            None => Content::Tombstone,
            Some((bytes, Ok(value))) => Content::Value(Arc::new(value), bytes),
            Some((_, Err(error))) => {
                self.unreadable += 1;
                Content::Unreadable(error.to_string())
            }
        };
        // A compacted topic takes no record without a key; in any other such records are all of one.
        let key = Bytes::copy_from_slice(message.key().unwrap_or_default());
        self.records.push(Arrived { partition: message.partition(), offset: message.offset(), key, content });
    }
}
