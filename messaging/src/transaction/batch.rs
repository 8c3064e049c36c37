//! The records in hand: what the next transaction handles, kept until it is committed.
//!
//! An aborted transaction is tried again from here, which is how the consumer is taken back: not by a seek, which librdkafka
//! does not promise for a partition in motion, but because what it has given is still there. What the group takes meanwhile goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rdkafka::Message as _;
use rdkafka::{Offset, TopicPartitionList, error::KafkaResult, message::BorrowedMessage};

use super::record::{Record, TopicPartition};

/// Records in hand.
#[derive(Debug, Default)]
pub(super) struct Batch {
    records: Vec<Record>,
    bytes: usize,
    /// Names, shared by the records.
    topics: BTreeSet<Arc<str>>,
}

impl Batch {
    pub(super) fn records(&self) -> &[Record] {
        &self.records
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, message: &BorrowedMessage<'_>) {
        let topic = self.name(message.topic());
        self.add(Record::of(message, topic));
    }

    /// The shared name of a topic.
    pub(super) fn name(&mut self, topic: &str) -> Arc<str> {
        if let Some(known) = self.topics.get(topic) {
            return Arc::clone(known);
        }
        let topic: Arc<str> = topic.into();
        self.topics.insert(Arc::clone(&topic));
        topic
    }

    fn add(&mut self, record: Record) {
        self.bytes += record.bytes();
        self.records.push(record);
    }

    /// Drops what the group has taken.
    pub(super) fn drop_taken(&mut self, taken: &TopicPartition) {
        self.records.retain(|record| record.partition != taken.partition || record.topic != taken.topic);
        self.bytes = self.records.iter().map(Record::bytes).sum();
    }

    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.bytes = 0;
    }

    /// Next offsets behind the records.
    pub(super) fn next_offsets(&self) -> KafkaResult<TopicPartitionList> {
        let mut next = BTreeMap::new();
        for record in &self.records {
            let next = next.entry((&record.topic, record.partition)).or_insert(0);
            *next = record.offset.max(*next - 1) + 1;
        }
        let mut list = TopicPartitionList::with_capacity(next.len());
        for ((topic, partition), next_offset) in next {
            list.add_partition_offset(topic, partition, Offset::Offset(next_offset))?;
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn batch(records: &[(&str, i32, i64)]) -> Batch {
        let mut batch = Batch::default();
        for (topic, partition, offset) in records {
            let topic = batch.name(topic);
            let value = Some(Bytes::from_static(b"value"));
            let (key, headers, timestamp_ms) = (None, Vec::new(), None);
            batch.add(Record { topic, partition: *partition, offset: *offset, key, value, headers, timestamp_ms });
        }
        batch
    }

    fn next_offsets(batch: &Batch) -> Vec<(String, i32, Offset)> {
        let list = batch.next_offsets().expect("offsets");
        list.elements().iter().map(|e| (e.topic().to_owned(), e.partition(), e.offset())).collect()
    }

    #[test]
    fn next_offsets_lie_behind_the_last_record_of_each_partition() {
        let batch = batch(&[("a", 0, 5), ("a", 0, 9), ("b", 0, 0), ("a", 1, 7)]);
        let next = |topic: &str, partition, offset| (topic.to_owned(), partition, Offset::Offset(offset));
        assert_eq!(next_offsets(&batch), [next("a", 0, 10), next("a", 1, 8), next("b", 0, 1)]);
    }

    #[test]
    fn what_is_taken_is_neither_handled_nor_committed() {
        let mut batch = batch(&[("a", 0, 5), ("b", 0, 6), ("a", 1, 7)]);
        let topic = batch.name("a");
        batch.drop_taken(&TopicPartition { topic, partition: 0 });
        assert_eq!((batch.records().len(), batch.bytes()), (2, 10));
        assert_eq!(next_offsets(&batch).len(), 2);
    }
}
