//! The records of one partition that are in hand, and which of them may be begun. Pure: the clock comes from outside.
//!
//! Records wait in lanes, one per key, or a single one where the whole partition is one order. Of each lane only the first
//! record is ever begun, and the lane goes on when that is done. While a record is blocked, by a retry in place or until a
//! person decides, nothing but that record is begun in the whole partition; a parked one holds its lane only.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use jiff::Timestamp;

use super::{Order, offsets::Offsets};
use crate::{
    blocking::{PartitionState, Stuck, WaitsFor},
    record::Record,
};

/// Records that must be in order have the same.
type Lane = Option<Bytes>;

/// What may be begun.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) record: Arc<Record>,
    /// Attempts made so far.
    pub(super) attempts: u32,
    /// Who has said that it is to be left out, and why.
    pub(super) left_out: Option<String>,
}

/// One partition during one tenure.
pub(super) struct Partition {
    pub(super) offsets: Offsets,
    pub(super) state: PartitionState,
    order: Order,
    lanes: HashMap<Lane, Queue>,
    /// Lanes whose first record may be begun.
    ready: VecDeque<Lane>,
    /// Lanes of blocked records.
    blocked: BTreeMap<i64, Lane>,
    /// Offsets of which the kept state speaks, until they are delivered.
    restored: BTreeSet<i64>,
    /// When those of them are due that an earlier owner was about to try again.
    restored_due: HashMap<i64, Instant>,
    running: usize,
    held: Load,
    parked: Load,
}

/// What records in hand cost.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) records: usize,
    pub(super) bytes: usize,
}

struct Queue {
    waiting: VecDeque<Waiting>,
    front: Front,
    /// Attempts of the first record.
    attempts: u32,
}

struct Waiting {
    record: Arc<Record>,
    /// Of a retry topic's record.
    due: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Front {
    Ready,
    Running,
    RetryAt(Instant),
    Blocked,
    Parked,
}

impl Partition {
    /// A partition that continues where a commit and a kept state left it. `now` is one moment by both clocks.
    pub(super) fn new(offsets: Offsets, state: PartitionState, order: Order, now: (Instant, Timestamp)) -> Self {
        let due = |(offset, stuck): (&i64, &Stuck)| Some((*offset, now.0 + stuck.next_attempt.as_ref()?.wait(now.1)));
        let restored_due = state.blocked.iter().filter_map(due).collect();
        let kept = state.blocked.keys().chain(state.parked.keys()).chain(state.ignoring_once.keys());
        Self {
            restored: kept.copied().collect(),
            restored_due,
            offsets,
            state,
            order,
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            blocked: BTreeMap::new(),
            running: 0,
            held: Load::default(),
            parked: Load::default(),
        }
    }

    /// Takes a record in, unless it was done in an earlier tenure. `due` is when it may be begun.
    pub(super) fn accept(&mut self, record: Arc<Record>, due: Option<Instant>) {
        let offset = record.place.offset;
        self.forget_missing(offset);
        if !self.offsets.accept(offset) {
            self.state.release(offset);
            return;
        }
        let lane = self.lane_of(&record);
        self.held.add(&record);
        let queue = self.lanes.entry(lane.clone()).or_insert_with(|| Queue::new(Front::Ready));
        queue.waiting.push_back(Waiting { record, due });
        if queue.waiting.len() == 1 {
            self.look_at_front(&lane);
        } else if queue.front == Front::Parked {
            self.count_as_parked(offset, &lane);
        }
    }

    /// What holds the partition at a record that does not exist any more holds it no longer.
    fn forget_missing(&mut self, delivered: i64) {
        while let Some(offset) = self.restored.first().copied().filter(|offset| *offset <= delivered) {
            self.restored.remove(&offset);
            if offset < delivered {
                self.state.release(offset);
            }
        }
    }

    /// The client has passed everything below this offset.
    pub(super) fn pass(&mut self, position: i64) {
        self.forget_missing(position);
        self.offsets.pass(position);
    }

    /// The next record that may be begun.
    pub(super) fn next(&mut self, now: Instant) -> Option<Job> {
        if self.state.paused {
            return None;
        }
        if !self.state.blocked.is_empty() {
            let may = |lane: &&Lane| self.lanes.get(*lane).is_some_and(|queue| queue.may_begin(now));
            let lane = self.blocked.values().find(may)?.clone();
            return Some(self.begin(&lane));
        }
        if self.running >= self.order.parallel_max() {
            return None;
        }
        let lane = self.ready.front()?;
        if !self.lanes[lane].may_begin(now) {
            return None;
        }
        let lane = self.ready.pop_front()?;
        Some(self.begin(&lane))
    }

    /// When to ask again, if nothing else happens.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        if self.state.paused {
            return None;
        }
        let blocked = self.blocked.values().filter_map(|lane| self.lanes.get(lane)?.due());
        let ready = self.ready.front().and_then(|lane| self.lanes.get(lane)?.due());
        match self.state.blocked.is_empty() {
            true => ready.filter(|_| self.running < self.order.parallel_max()),
            false => blocked.min(),
        }
    }

    fn begin(&mut self, lane: &Lane) -> Job {
        let queue = self.lanes.get_mut(lane).expect("a lane with a record to begin");
        let record = Arc::clone(&queue.waiting.front().expect("a lane is never empty").record);
        queue.front = Front::Running;
        self.running += 1;
        let left_out = self.state.ignoring_once.get(&record.place.offset).cloned();
        Job { attempts: queue.attempts, record, left_out }
    }

    /// The attempt failed; the record is tried again at `due`.
    pub(super) fn retry(&mut self, record: &Record, due: Instant, stuck: Stuck, commands_from: i64) {
        self.halt(record, Front::RetryAt(due), stuck.attempts);
        self.blocked.insert(record.place.offset, self.lane_of(record));
        self.state.block(record.place.offset, stuck, commands_from);
    }

    /// The attempt failed; the partition stands.
    pub(super) fn block(&mut self, record: &Record, stuck: Stuck, commands_from: i64) {
        self.halt(record, Front::Blocked, stuck.attempts);
        self.blocked.insert(record.place.offset, self.lane_of(record));
        self.state.block(record.place.offset, stuck, commands_from);
    }

    /// The attempt failed; the record's key waits.
    pub(super) fn park(&mut self, record: &Record, stuck: Stuck, commands_from: i64) {
        self.halt(record, Front::Parked, stuck.attempts);
        self.blocked.remove(&record.place.offset);
        self.state.park(record.place.offset, stuck, commands_from);
        let lane = self.lane_of(record);
        self.move_load(&lane, true);
    }

    fn halt(&mut self, record: &Record, front: Front, attempts: u32) {
        let lane = self.lane_of(record);
        let queue = self.lanes.get_mut(&lane).expect("the lane of a record that is running");
        (queue.front, queue.attempts) = (front, attempts);
        self.running -= 1;
    }

    /// The record is done. Its lane goes on.
    pub(super) fn finish(&mut self, record: &Record) {
        let (lane, offset) = (self.lane_of(record), record.place.offset);
        self.running -= 1;
        self.offsets.finish(offset);
        self.blocked.remove(&offset);
        self.state.release(offset);
        self.held.remove(record);
        let queue = self.lanes.get_mut(&lane).expect("the lane of a record that is running");
        queue.waiting.pop_front();
        (queue.front, queue.attempts) = (Front::Ready, 0);
        match queue.waiting.is_empty() {
            true => drop(self.lanes.remove(&lane)),
            false => self.look_at_front(&lane),
        }
    }

    /// A person wants a stuck record tried again, or left out.
    pub(super) fn try_again(&mut self, offset: i64) {
        if let Some(stuck) = self.state.blocked.get_mut(&offset) {
            (stuck.waits_for, stuck.attempts, stuck.next_attempt) = (WaitsFor::Retry, 0, None);
            self.restored_due.remove(&offset);
            // Without a lane it was kept by an earlier owner and is still to be delivered.
            let lane = self.blocked.get(&offset).and_then(|lane| self.lanes.get_mut(lane));
            if let Some(queue) = lane.filter(|queue| queue.front != Front::Running) {
                (queue.front, queue.attempts) = (Front::Ready, 0);
            }
            return;
        }
        let lane = self.parked_lane(offset);
        self.state.parked.remove(&offset);
        let Some(lane) = lane else { return };
        self.move_load(&lane, false);
        let queue = self.lanes.get_mut(&lane).expect("it was found above");
        (queue.front, queue.attempts) = (Front::Ready, 0);
        self.ready.push_back(lane);
    }

    /// When more is parked than may be, the partition stands at the first parked record.
    pub(super) fn block_if_overfull(&mut self, parked_max: Load) -> Option<i64> {
        if self.parked.is_within(parked_max) || !self.state.blocked.is_empty() {
            return None;
        }
        let first = |offset: &i64| Some((*offset, self.parked_lane(*offset)?));
        let (offset, lane) = self.state.parked.keys().find_map(first)?;
        let stuck = self.state.parked.remove(&offset)?;
        self.move_load(&lane, false);
        self.lanes.get_mut(&lane).expect("it was found above").front = Front::Blocked;
        self.blocked.insert(offset, lane);
        self.state.block(offset, stuck, self.state.commands_from);
        Some(offset)
    }

    /// What is in hand and not parked.
    pub(super) fn load(&self) -> Load {
        self.held
    }

    /// Records that are parked.
    pub(super) fn parked(&self) -> Load {
        self.parked
    }

    /// Records that are being handled.
    pub(super) fn running(&self) -> usize {
        self.running
    }

    /// Whether there is nothing in hand.
    pub(super) fn is_idle(&self) -> bool {
        self.lanes.is_empty()
    }

    fn lane_of(&self, record: &Record) -> Lane {
        match self.order {
            Order::ByPartition => None,
            Order::ByKey { .. } => record.key.clone(),
        }
    }

    fn parked_lane(&self, offset: i64) -> Option<Lane> {
        let is_it = |queue: &Queue| {
            queue.front == Front::Parked
                && queue.waiting.front().is_some_and(|first| first.record.place.offset == offset)
        };
        self.lanes.iter().find(|(_, queue)| is_it(queue)).map(|(lane, _)| lane.clone())
    }

    /// A record has become the first of its lane; what was kept about it holds.
    fn look_at_front(&mut self, lane: &Lane) {
        let queue = self.lanes.get_mut(lane).expect("a lane with a record");
        let offset = queue.waiting.front().expect("a lane is never empty").record.place.offset;
        let is_left_out = self.state.ignoring_once.contains_key(&offset);
        if let Some(stuck) = self.state.blocked.get(&offset) {
            queue.attempts = stuck.attempts;
            queue.front = match (stuck.waits_for, self.restored_due.remove(&offset)) {
                _ if is_left_out => Front::Ready,
                (WaitsFor::Operator, _) => Front::Blocked,
                (WaitsFor::Retry, Some(due)) => Front::RetryAt(due),
                (WaitsFor::Retry, None) => Front::Ready,
            };
            self.blocked.insert(offset, lane.clone());
        } else if let Some(stuck) = self.state.parked.get(&offset).filter(|_| !is_left_out) {
            (queue.front, queue.attempts) = (Front::Parked, stuck.attempts);
            self.move_load(lane, true);
        } else {
            queue.front = Front::Ready;
            self.ready.push_back(lane.clone());
        }
    }

    /// Counts a lane's records as parked, or as held again.
    fn move_load(&mut self, lane: &Lane, to_parked: bool) {
        let (from, to) = match to_parked {
            true => (&mut self.held, &mut self.parked),
            false => (&mut self.parked, &mut self.held),
        };
        for waiting in &self.lanes[lane].waiting {
            from.remove(&waiting.record);
            to.add(&waiting.record);
        }
    }

    fn count_as_parked(&mut self, offset: i64, lane: &Lane) {
        let last = self.lanes[lane].waiting.back().map(|waiting| Arc::clone(&waiting.record));
        if let Some(record) = last.filter(|record| record.place.offset == offset) {
            self.held.remove(&record);
            self.parked.add(&record);
        }
    }
}

impl Load {
    /// Whether neither is more than here.
    pub(super) fn is_within(self, max: Self) -> bool {
        self.records <= max.records && self.bytes <= max.bytes
    }

    fn add(&mut self, record: &Record) {
        self.records += 1;
        self.bytes += record.payload_bytes();
    }

    fn remove(&mut self, record: &Record) {
        self.records -= 1;
        self.bytes -= record.payload_bytes();
    }
}

impl Queue {
    fn new(front: Front) -> Self {
        Self { waiting: VecDeque::new(), front, attempts: 0 }
    }

    fn due(&self) -> Option<Instant> {
        match self.front {
            Front::RetryAt(due) => Some(due),
            Front::Ready => self.waiting.front().and_then(|first| first.due),
            Front::Running | Front::Blocked | Front::Parked => None,
        }
    }

    fn may_begin(&self, now: Instant) -> bool {
        let waits = matches!(self.front, Front::Ready | Front::RetryAt(_));
        waits && self.due().is_none_or(|due| due <= now)
    }
}

#[cfg(test)]
#[path = "partition_tests.rs"]
mod tests;
