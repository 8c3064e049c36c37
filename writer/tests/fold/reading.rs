//! Reads a topic into a view through decode, fold and plan, as the pipeline does: in batches cut anywhere, some of which are
//! lost before their commit and read again from the position.

use std::{collections::BTreeSet, sync::Arc};

use shared::envelope::SchemaHead;
use writer::{
    apps::InstalledApps,
    decode::{Event, Kind, Limits, Raw, Told, decode},
    fold::{Entry, Place, Sites, Undecided, fold, keys},
    plan::{documents_needed, plan},
    projection::Projection,
};

use crate::{
    topic::{Record, Topic},
    view::View,
};

/// Where batches are cut.
#[derive(Debug, Clone, Copy)]
pub enum Cuts<'c> {
    /// By these numbers, in turn; some batches are lost.
    Anywhere(&'c [u8]),
    /// Into so many records of the partitions in turn; none is lost.
    Every(usize),
}

/// A defect that a test puts in, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// None.
    Nothing,
    /// Events have no source position: there is no guard.
    NoGuard,
    /// An absent array is taken for no apps.
    AbsentIsEmpty,
    /// A tombstone forgets across batches that its delete came directly before it.
    ForgetDeletes,
    /// The position is committed on its own, before the rows.
    PositionFirst,
}

/// What reading a topic came to.
#[derive(Debug)]
pub struct Read {
    pub view: View,
    /// Records that could not be completed, as (partition, offset).
    pub incomplete: BTreeSet<(i32, i64)>,
    /// Whether a key change had to wait until its time was over. Which one that is hangs on the cuts.
    pub has_run_out: bool,
}

/// Most batches that are lost while a topic is read.
const LOST_MAX: usize = 5;
const LIMITS: Limits = Limits { value_bytes_max: 1 << 20, site_apps_max: 100 };

/// Reads the whole topic; when all partitions wait, the time of the first one is over. Errors when a record is rejected or the
/// view's tables contradict a write.
pub fn read(topic: &Topic, cuts: Cuts<'_>, sabotage: Sabotage) -> Result<Read, String> {
    let projection = Projection::default();
    let view = View::new(topic.partitions.len());
    let mut reader = Reader { topic, cuts, sabotage, projection, turn: 0, lost: 0, incomplete: BTreeSet::new(), view };
    let mut has_run_out = false;
    loop {
        let before = reader.view.positions.clone();
        let batch = reader.next_batch();
        if batch.is_empty() {
            return Ok(Read { view: reader.view, incomplete: reader.incomplete, has_run_out });
        }
        let lost = reader.apply(&batch)?;
        if !lost && reader.view.positions == before {
            // Each record of the batch waits for one that is not in it: go on with all partitions.
            let batch = reader.one_of_each();
            if !reader.apply(&batch)? && reader.view.positions == before {
                let (partition, record) = batch[0];
                reader.incomplete.insert((partition, record.offset));
                reader.view.positions[partition as usize] = record.offset + 1;
                has_run_out = true;
            }
        }
    }
}

/// A batch: partition and record, in the order in which they were polled.
type Batch<'t> = Vec<(i32, &'t Record)>;

struct Reader<'t, 'c> {
    topic: &'t Topic,
    cuts: Cuts<'c>,
    sabotage: Sabotage,
    projection: Projection,
    turn: usize,
    lost: usize,
    incomplete: BTreeSet<(i32, i64)>,
    view: View,
}

impl<'t> Reader<'t, '_> {
    /// A number below `end`, the next one that the cuts hold.
    fn choose(&mut self, end: usize) -> usize {
        self.turn += 1;
        match self.cuts {
            // Without the turn a short list would choose the same for ever.
            Cuts::Anywhere(cuts) => (usize::from(cuts[self.turn % cuts.len()]) + self.turn / cuts.len()) % end,
            Cuts::Every(_) => self.turn % end,
        }
    }

    fn left(&self, partition: usize) -> &'t [Record] {
        let records = &self.topic.partitions[partition];
        &records[records.partition_point(|record| record.offset < self.view.positions[partition])..]
    }

    fn next_batch(&mut self) -> Batch<'t> {
        let mut left: Vec<_> = (0..self.topic.partitions.len()).map(|partition| self.left(partition)).collect();
        let records_max = match self.cuts {
            Cuts::Anywhere(_) => 1 + self.choose(9),
            Cuts::Every(records) => records,
        };
        let mut batch = Vec::new();
        while batch.len() < records_max && left.iter().any(|records| !records.is_empty()) {
            let mut partition = self.choose(left.len());
            while left[partition].is_empty() {
                partition = (partition + 1) % left.len();
            }
            let (record, rest) = left[partition].split_first().expect("not empty");
            left[partition] = rest;
            batch.push((partition as i32, record));
        }
        batch
    }

    fn one_of_each(&self) -> Batch<'t> {
        let first = |partition| Some((partition as i32, self.left(partition).first()?));
        (0..self.topic.partitions.len()).filter_map(first).collect()
    }

    /// Applies a batch, or loses it; gives whether it was lost.
    fn apply(&mut self, batch: &Batch<'t>) -> Result<bool, String> {
        let (mut events, mut head) = (Vec::new(), SchemaHead::default());
        for (partition, record) in batch {
            let raw = Raw { key: Some(&record.key), value: record.value.as_deref(), headers: &record.headers };
            let event = decode(&raw, &self.projection, LIMITS, &mut head)
                .map_err(|rejection| format!("{rejection} in {record:?}"))?;
            events.push((*partition, record.offset, event.map(|event| self.spoil(event))));
        }
        let mut sites = Sites::new();
        for site_id in events.iter().filter_map(|(.., event)| event.as_ref()).flat_map(keys) {
            let stored = self.view.load(site_id).map(|mut site| {
                site.last_delete_partition =
                    site.last_delete_partition.filter(|_| self.sabotage != Sabotage::ForgetDeletes);
                site
            });
            sites.entry(site_id.clone()).or_insert_with(|| Entry::new(stored));
        }
        let (positions, incomplete) = self.fold_all(&mut sites, &events);
        let plan = plan(&sites, &self.view.documents(&documents_needed(&sites)));
        let lost = matches!(self.cuts, Cuts::Anywhere(_)) && self.lost < LOST_MAX && self.choose(6) == 0;
        if lost {
            self.lost += 1;
        }
        if !lost || self.sabotage == Sabotage::PositionFirst {
            self.view.positions = positions;
        }
        if !lost {
            self.view.write(plan)?;
            self.incomplete.extend(incomplete);
        }
        Ok(lost)
    }

    fn fold_all(&self, sites: &mut Sites, events: &[(i32, i64, Option<Event>)]) -> (Vec<i64>, Vec<(i32, i64)>) {
        let (mut positions, mut incomplete) = (self.view.positions.clone(), Vec::new());
        let mut waiting = BTreeSet::new();
        for (partition, offset, event) in events {
            if waiting.contains(partition) {
                continue;
            }
            let place = Place { partition: *partition, offset: *offset, source_epoch: 0 };
            match event.as_ref().map(|event| fold(sites, event, place)) {
                Some(Err(Undecided::AwaitsOldKey(_))) => {
                    waiting.insert(*partition);
                    continue;
                }
                Some(Err(Undecided::IncompleteRow)) => incomplete.push((*partition, *offset)),
                Some(Ok(_)) | None => {}
            }
            positions[*partition as usize] = offset + 1;
        }
        (positions, incomplete)
    }

    fn spoil(&self, mut event: Event) -> Event {
        match (self.sabotage, &mut event.kind) {
            (Sabotage::NoGuard, _) => event.source_position = None,
            (Sabotage::AbsentIsEmpty, Kind::Write { apps: apps @ Told::Absent, .. }) => {
                let none = InstalledApps::decode("[]", &self.projection, 1).expect("an array");
                *apps = Told::Value(Arc::new(none));
            }
            _ => {}
        }
        event
    }
}
