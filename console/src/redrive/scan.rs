//! Letters of a topic in the order of their offsets, judged: whether they are meant, and whether they may be moved.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use messaging::{
    dead_letter::{Origin, redrive_headers},
    settings::Settings,
};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{Before, Counts, Redrive, RedriveError, ledger::Ledger};
use crate::{
    fingerprint::Fingerprint,
    letter::{Raw, kind, origin},
    survey::onlooker,
};

const POLL: Duration = Duration::from_millis(100);
/// The brokers may be away for so long before a redrive ends by it.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Reads the letters that are left of a redrive.
pub(super) struct Scan {
    consumer: BaseConsumer,
    topic: String,
    ends: BTreeMap<i32, i64>,
    open: BTreeSet<i32>,
    heard: Instant,
}

/// What was read in one go.
#[derive(Default)]
pub(super) struct Batch {
    /// Letters to be moved.
    pub(super) letters: Vec<Moved>,
    /// What became of all that were meant.
    pub(super) counts: Counts,
    /// Next offsets of the partitions that were read.
    pub(super) next: BTreeMap<i32, i64>,
    /// There is nothing more.
    pub(super) is_last: bool,
}

/// A letter that goes back.
pub(super) struct Moved {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) fingerprint: Fingerprint,
    pub(super) origin: Origin,
    /// As it goes back.
    pub(super) record: Raw,
    /// What it had before it was edited.
    pub(super) before: Option<Before>,
}

/// How much is read in one go.
#[derive(Clone, Copy)]
pub(super) struct BatchMax {
    pub(super) letters: usize,
    pub(super) bytes: usize,
    pub(super) scanned: usize,
}

impl Scan {
    pub(super) fn new(settings: &Settings, redrive: &Redrive) -> Result<Self, RedriveError> {
        let failed = RedriveError::kafka("reading the dead letters");
        let consumer = onlooker(settings, &[]).map_err(&failed)?;
        let (mut list, mut open) = (TopicPartitionList::new(), BTreeSet::new());
        for (partition, end) in &redrive.ends {
            let next = redrive.next.get(partition).copied().unwrap_or_default();
            if next < *end {
                open.insert(*partition);
                let next = Offset::Offset(next);
                list.add_partition_offset(&redrive.dead_letter_topic, *partition, next).map_err(&failed)?;
            }
        }
        consumer.assign(&list).map_err(&failed)?;
        let (topic, ends) = (redrive.dead_letter_topic.clone(), redrive.ends.clone());
        Ok(Self { consumer, topic, ends, open, heard: Instant::now() })
    }

    /// Reads on until the batch is full, or there is nothing more.
    pub(super) fn batch(&mut self, redrive: &Redrive, ledger: &Ledger, max: BatchMax) -> Result<Batch, RedriveError> {
        let (mut batch, mut scanned, mut bytes) = (Batch::default(), 0, 0);
        while !self.open.is_empty() && scanned < max.scanned && batch.letters.len() < max.letters && bytes < max.bytes {
            let message = match self.consumer.poll(POLL) {
                Some(Ok(message)) => message,
                // The partition's log ends here, whatever there was before.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    self.open.remove(&partition);
                    if let Some(end) = self.ends.get(&partition) {
                        batch.next.insert(partition, *end);
                    }
                    continue;
                }
                Some(Err(KafkaError::MessageConsumption(
                    code @ (RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::TopicAuthorizationFailed),
                ))) => {
                    return Err(RedriveError::kafka("reading the dead letters")(KafkaError::MessageConsumption(code)));
                }
                // The client goes on by itself; if it does not, time ends it.
                Some(Err(_)) | None if self.heard.elapsed() < SILENCE_MAX => continue,
                Some(Err(_)) | None => return Err(RedriveError::TimedOut("reading the dead letters")),
            };
            self.heard = Instant::now();
            let record = Raw::of(&message);
            let (partition, end) = (record.partition, self.ends.get(&record.partition).copied().unwrap_or_default());
            if record.offset + 1 >= end {
                self.open.remove(&partition);
            }
            if record.offset >= end {
                batch.next.insert(partition, end);
                continue;
            }
            scanned += 1;
            batch.next.insert(partition, record.offset + 1);
            if let Some(moved) = judge(&self.topic, redrive, ledger, record, &mut batch.counts) {
                bytes += moved.record.value.as_ref().map_or(0, bytes::Bytes::len);
                batch.letters.push(moved);
            }
        }
        batch.is_last = self.open.is_empty();
        // The time between two batches is the pace's.
        self.heard = Instant::now();
        Ok(batch)
    }
}

fn judge(topic: &str, redrive: &Redrive, ledger: &Ledger, record: Raw, counts: &mut Counts) -> Option<Moved> {
    let origin = origin(topic, &record.headers)?;
    let (fingerprint, _) = kind(&origin);
    if !redrive.selection.means((record.partition, record.offset), &fingerprint) {
        return None;
    }
    let has_new_value = redrive.edit.as_ref().is_some_and(|edit| edit.value.is_some());
    let not_moved = [
        (ledger.holds(record.partition, record.offset), &mut counts.moved_before),
        (origin.redrive_count >= redrive.redrive_max, &mut counts.guarded),
        (origin.lacks_value && !has_new_value, &mut counts.without_value),
    ];
    if let Some((_, count)) = not_moved.into_iter().find(|(holds, _)| *holds) {
        *count += 1;
        return None;
    }
    counts.moved += 1;
    let (partition, offset) = (record.partition, record.offset);
    let (record, before) = match &redrive.edit {
        Some(edit) => {
            let (record, before) = edit.apply(record, origin.redrive_count, &redrive.id);
            (record, Some(before))
        }
        None => (Raw { headers: redrive_headers(&record.headers, origin.redrive_count), ..record }, None),
    };
    Some(Moved { partition, offset, fingerprint, origin, record, before })
}
