//! A [`Source`] whose Debezium fails: it repeats itself after a crash, sends rows of the past, and aborts transactions.
//!
//! The state behind each record is what the rules of the view make of it, not what the record says: a repeat that is older
//! than what was told of its site changes nothing. That guard is the model's own, in `Told`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::Value;

use crate::model::Site;
use crate::record::{Record, UNAVAILABLE};
use crate::source::Source;

/// Changes that a crash may repeat.
const REPEATED_MAX: usize = 80;

/// An endless topic in the making. The same seed gives the same records.
#[derive(Debug)]
pub struct Feed {
    source: Source,
    rng: StdRng,
    /// The newest changes, each with its records. Empty after a tombstone without its delete: compaction leaves such a one
    /// alone, and what it has removed cannot be repeated.
    log: VecDeque<Vec<Record>>,
    told: HashMap<String, Told>,
}

/// Records that are produced together.
#[derive(Debug)]
pub enum Chunk {
    /// One by one.
    Plain(Vec<Record>),
    /// In a transaction that is aborted first and then done again: what it held at first never happened.
    Aborted(Vec<Record>, Vec<Record>),
}

/// What the view must hold for a site.
#[derive(Debug, Default)]
struct Told {
    lsn: Option<u64>,
    site: Option<Arc<Site>>,
    /// Whether the last record was a delete; the tombstone behind it shares its fate.
    deleted_last: bool,
}

impl Feed {
    /// As [`Source::new`].
    pub fn new(seed: u64, partitions: i32, sites_wanted: usize) -> Self {
        let (source, rng) = (Source::new(seed, partitions, sites_wanted), StdRng::seed_from_u64(!seed));
        Self { source, rng, log: VecDeque::new(), told: HashMap::new() }
    }

    /// The snapshot: one record a site.
    pub fn snapshot(&mut self, sites: usize) -> Vec<Record> {
        (0..sites).flat_map(|_| self.change()).collect()
    }

    /// A few changes, or what a crash makes of the last ones.
    pub fn chunk(&mut self) -> Chunk {
        match self.rng.random_range(0..20) {
            0 => Chunk::Plain(self.repeat()),
            1 => Chunk::Plain(self.rows_of_the_past()),
            2 => {
                let mut other_future = self.source.fork(self.rng.random());
                Chunk::Aborted(other_future.records(5), self.changes())
            }
            _ => Chunk::Plain(self.changes()),
        }
    }

    /// The last records: a crash in the middle of a repeat, after which the source stays away.
    pub fn end(&mut self) -> Vec<Record> {
        let start = self.rng.random_range(0..=self.log.len());
        let end = self.rng.random_range(start..=self.log.len());
        self.again(start, end)
    }

    /// Changes until at least so many records can be repeated that are older than what was told of their sites, and then these
    /// once more: what a view without a guard takes for news.
    pub fn changes_and_their_past(&mut self, past_min: usize) -> Vec<Record> {
        let mut records = Vec::new();
        let mut past = self.past();
        while past.len() < past_min {
            records.extend(self.changes());
            past = self.past();
        }
        past.iter_mut().for_each(|record| self.tell(record));
        records.extend(past);
        records
    }

    fn past(&self) -> Vec<Record> {
        let is_past = |record: &&Record| lsn(record).is_some() && lsn(record) < self.told[&record.site_id].lsn;
        let mut past: Vec<Record> = Vec::new();
        for change in &self.log {
            // A tombstone shares the fate of its delete.
            if change.iter().find(|record| record.value.is_some()).as_ref().is_some_and(is_past) {
                past.extend(change.iter().filter(|r| r.value.is_none() || is_past(r)).cloned());
            }
        }
        past
    }

    fn changes(&mut self) -> Vec<Record> {
        let count = self.rng.random_range(1..30);
        (0..count).flat_map(|_| self.change()).collect()
    }

    fn change(&mut self) -> Vec<Record> {
        let mut records = self.source.records(1);
        records.iter_mut().for_each(|record| self.tell(record));
        match &records[..] {
            [tombstone] if tombstone.value.is_none() => self.log.clear(),
            _ => self.log.push_back(records.clone()),
        }
        if self.log.len() > REPEATED_MAX {
            self.log.pop_front();
        }
        records
    }

    /// Changes 3 to 7 again, then 2 to the last: a crash, and another one soon after.
    fn repeat(&mut self) -> Vec<Record> {
        let end = self.rng.random_range(0..=self.log.len());
        let (start, second_start) = (self.rng.random_range(0..=end), self.rng.random_range(0..=end));
        let mut records = self.again(start, end);
        records.extend(self.again(second_start, self.log.len()));
        records
    }

    fn again(&mut self, start: usize, end: usize) -> Vec<Record> {
        let mut records: Vec<Record> = self.log.range(start..end).flatten().cloned().collect();
        records.iter_mut().for_each(|record| self.tell(record));
        records
    }

    /// Rows of a snapshot that is older than what has been streamed of their sites.
    fn rows_of_the_past(&mut self) -> Vec<Record> {
        let is_row = |record: &&Record| {
            let is_told = record.value.as_ref().is_some_and(|value| value.contains("\"op\":\"u\""));
            is_told && !record.value.as_ref().is_some_and(|value| value.contains(UNAVAILABLE))
        };
        let is_past = |record: &&Record| lsn(record) < self.told[&record.site_id].lsn;
        let past: Vec<&Record> = self.log.iter().flatten().filter(is_row).filter(is_past).collect();
        let mut rows: Vec<Record> = past.sample(&mut self.rng, 3).map(|record| (*record).clone()).collect();
        for row in &mut rows {
            row.value = row.value.as_ref().map(|value| value.replace("\"op\":\"u\"", "\"op\":\"r\""));
            self.tell(row);
        }
        rows
    }

    /// Sets the state behind a record.
    fn tell(&mut self, record: &mut Record) {
        let told = self.told.entry(record.site_id.clone()).or_default();
        let lsn = lsn(record);
        let shares_fate = record.value.is_none() && told.deleted_last;
        let is_stale = lsn.is_some() && lsn < told.lsn;
        if !shares_fate && !is_stale && !is_unchanged(told, record) {
            (told.lsn, told.site) = (lsn, record.after.clone());
        }
        told.deleted_last = shares_fate || is_delete(record);
        record.after.clone_from(&told.site);
    }
}

/// Whether a write leaves the apps of a site that lives.
fn is_unchanged(told: &Told, record: &Record) -> bool {
    let as_before = record.headers.is_empty() && record.value.as_ref().is_some_and(|value| value.contains(UNAVAILABLE));
    match (&told.site, &record.after) {
        (Some(before), Some(after)) => as_before || before.apps == after.apps,
        _ => false,
    }
}

/// A delete or a tombstone, whatever state stands behind it.
fn is_delete(record: &Record) -> bool {
    record.value.as_ref().is_none_or(|value| value.contains("\"op\":\"d\""))
}

fn lsn(record: &Record) -> Option<u64> {
    let envelope: Value = serde_json::from_str(record.value.as_deref()?).expect("values are JSON");
    envelope["source"]["lsn"].as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    #[test]
    fn repeats_and_rows_of_the_past_leave_the_table_as_it_is() {
        let mut feed = Feed::new(5, 4, 60);
        let mut model = Model::default();
        feed.snapshot(60).iter().for_each(|record| model.apply(record));
        let (mut repeated, mut past, mut aborted) = (0, 0, 0);
        for _ in 0..400 {
            let before = feed.source.fork(0).records(1)[0].value.clone();
            let records = match feed.chunk() {
                Chunk::Plain(records) => records,
                Chunk::Aborted(_, records) => {
                    aborted += 1;
                    records
                }
            };
            past += records.iter().filter(|r| r.value.as_ref().is_some_and(|v| v.contains("\"op\":\"r\""))).count();
            repeated += usize::from(before == feed.source.fork(0).records(1)[0].value);
            records.iter().for_each(|record| model.apply(record));
            // Versions of the row go on where the apps stay.
            let apps = |sites: &std::collections::BTreeMap<String, Arc<Site>>| {
                sites.iter().map(|(id, site)| (id.clone(), (site.apps_version, site.apps.clone()))).collect::<Vec<_>>()
            };
            assert_eq!(apps(&model.sites), apps(feed.source.sites()));
        }
        assert!(repeated > 5 && past > 5 && aborted > 5, "{repeated} {past} {aborted}");
    }
}
