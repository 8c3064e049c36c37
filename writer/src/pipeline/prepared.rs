//! A batch in hand: its bytes, what decoding made of them, and how much of it the next attempt tries to store.

use std::collections::{BTreeMap, HashMap, HashSet};

use messaging::dead_letter::Letter;

use super::bisection::{Bisection, Refused};
use crate::{
    batch::{Batch, Part},
    decode::Event,
    rejection::Rejection,
    store::NextPosition,
};

/// A decoded batch; attempts to store it leave it as it is.
///
/// It keeps the bytes until all of it is stored, since any record may turn out to be a dead letter up to then: the fold may
/// miss something, Postgres may refuse it. That costs one batch (`WRITER_BATCH_BYTES_MAX`) of memory per lane.
#[derive(Debug)]
pub struct Prepared {
    batch: Batch,
    pub(super) records: Vec<Decoded>,
    parts: Vec<Part>,
    bisection: Bisection,
}

/// What a record says, or why it cannot be projected.
#[derive(Debug)]
pub(super) struct Decoded {
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// Its index in the batch.
    pub(super) index: usize,
    pub(super) event: Result<Option<Event>, Rejection>,
}

impl Prepared {
    /// Decodes every record.
    pub(super) fn new(batch: Batch, mut decode: impl FnMut(&Batch, usize) -> Result<Option<Event>, Rejection>) -> Self {
        let decoded = batch.records.iter().enumerate().map(|(index, record)| Decoded {
            partition: record.partition,
            offset: record.offset,
            index,
            event: decode(&batch, index),
        });
        let records = decoded.collect();
        Self { parts: batch.parts.clone(), batch, records, bisection: Bisection::default() }
    }

    /// Drops the partitions whose claim is over.
    pub fn drop_ended(&mut self) {
        let count = self.parts.len();
        self.parts.retain(|part| !part.tenure.has_ended());
        if self.parts.len() == count {
            return;
        }
        let live: HashSet<i32> = self.parts.iter().map(|part| part.tenure.partition).collect();
        self.records.retain(|record| live.contains(&record.partition));
        self.bisection = Bisection::default();
    }

    /// Whether nothing is left to store.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The partitions of the batch that are not stored yet.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Number of records that the next attempt stores.
    pub fn len_records(&self) -> usize {
        self.attempted().len()
    }

    /// The records that the next attempt stores: all, unless Postgres refuses one that is being looked for.
    pub(super) fn attempted(&self) -> &[Decoded] {
        &self.records[..self.bisection.attempt(self.records.len())]
    }

    /// Those of them that the view does not have yet: a commit whose answer was lost has stored what precedes `reached`, and
    /// what is delivered twice is applied once.
    pub(super) fn attempted_from(&self, reached: &HashMap<i32, i64>) -> Vec<&Decoded> {
        self.attempted().iter().filter(|record| record.offset >= reached[&record.partition]).collect()
    }

    /// Where each partition stands once the attempted records are stored.
    pub(super) fn next_offsets(&self) -> HashMap<i32, i64> {
        let left = &self.records[self.bisection.attempt(self.records.len())..];
        let mut next: HashMap<i32, i64> =
            self.parts.iter().map(|part| (part.tenure.partition, part.next_offset)).collect();
        // In reverse, so that the first record left of each partition counts.
        next.extend(left.iter().rev().map(|record| (record.partition, record.offset)));
        next
    }

    /// The attempted records are stored, up to these positions. Gives how many they were.
    pub fn stored(&mut self, positions: &[NextPosition]) -> usize {
        let count = self.attempted().len();
        self.records.drain(..count);
        self.bisection.stored(count);
        if self.records.is_empty() {
            self.parts.clear();
        }
        let reached: BTreeMap<i32, i64> = positions.iter().map(|p| (p.tenure.partition, p.next_offset)).collect();
        for part in &mut self.parts {
            part.from_offset = reached.get(&part.tenure.partition).copied().unwrap_or(part.from_offset);
        }
        count
    }

    /// Postgres refused the data of the attempted records. Gives the record, as (partition, offset), once there is only one;
    /// otherwise the next attempt tries fewer.
    pub fn refused(&mut self) -> Refused<(i32, i64)> {
        let attempted = self.attempted();
        let only = attempted.first().map(|record| (record.partition, record.offset));
        let count = attempted.len();
        self.bisection.refused(count, only)
    }

    /// A record of the next attempt as a dead letter.
    pub fn letter<'a>(&'a self, partition: i32, offset: i64, rejection: &'a Rejection) -> Letter<'a> {
        let is_it = |record: &&Decoded| (record.partition, record.offset) == (partition, offset);
        let decoded = self.records.iter().find(is_it).expect("only records of the attempt are found");
        let record = &self.batch.records[decoded.index];
        let raw = self.batch.raw(record);
        Letter {
            partition,
            offset,
            timestamp_ms: record.timestamp_ms,
            key: raw.key,
            value: raw.value,
            headers: self.batch.headers(record).collect(),
            reason: rejection.reason.as_str(),
            message: &rejection.detail,
        }
    }
}

#[cfg(test)]
#[path = "prepared_tests.rs"]
mod tests;
