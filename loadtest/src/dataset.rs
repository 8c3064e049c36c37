//! The events: a MetaSite table that is first read whole (Debezium's snapshot, `op r`) and then changed (`op u`), as
//! numbers. A site is a few dozen bytes here whatever its record weighs, so that a million events fit in memory; `form`
//! writes a change as Debezium does, `expected` says what must come out.
//!
//! Everything follows from the [`Recipe`]: the same recipe gives the same bytes, in any of the forms.

mod expected;
mod form;
mod ids;
mod keys;
mod site;

pub use expected::{details_text, document, document_text, installed_apps, members};
pub use form::{Encoder, Form};
pub use ids::{app_id, instance_id, site_id};
pub use keys::{Keys, zipf};
pub use site::{APPS, App, Site};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use self::ids::partition_of;
use self::keys::Chooser;

/// Position in the source's log of all rows of the snapshot.
const SNAPSHOT_LSN: u64 = 82_059_376;
/// Bytes of the source's log between two changes.
const LSN_STEP: u64 = 424;

/// What decides the events.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recipe {
    /// Records in the topic.
    pub events: u64,
    /// Sites; the events that create them come first.
    pub sites: u64,
    /// Percent of the updates that touch no app.
    pub unrelated_percent: u8,
    /// Which sites are updated.
    pub keys: Keys,
    /// Mean number of apps of a site.
    pub site_apps: u16,
    /// Partitions of the topic.
    pub partitions: i32,
    /// Decides all that is random.
    pub seed: u64,
}

impl Recipe {
    /// Plays the table, telling each change in the topic's order; gives what is in the table then.
    pub fn play<E>(&self, mut tell: impl FnMut(&Change<'_>) -> Result<(), E>) -> Result<Table, E> {
        let mut table = Table::new(self);
        for number in 0..self.events {
            let (site, operation) = table.step(number);
            let lsn = SNAPSHOT_LSN + number.saturating_sub(table.sites_wanted) * LSN_STEP;
            tell(&Change { number, partition: table.partitions[site], operation, lsn, site: &table.sites[site] })?;
        }
        Ok(table)
    }
}

/// What Debezium calls `op`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A row of the snapshot.
    Read,
    /// An update.
    Update,
}

/// One event: the row as it is after the change.
#[derive(Debug)]
pub struct Change<'a> {
    /// Place in the order of all events, from 0.
    pub number: u64,
    /// Partition of the site.
    pub partition: i32,
    /// What happened.
    pub operation: Operation,
    /// Position in the source's log.
    pub lsn: u64,
    /// The row.
    pub site: &'a Site,
}

/// The table after some changes.
#[derive(Debug)]
pub struct Table {
    /// By number.
    pub sites: Vec<Site>,
    partitions: Vec<i32>,
    /// Records told so far, by partition.
    ends: Vec<i64>,
    /// The site whose record is the last of a partition.
    last: Vec<Option<usize>>,
    sites_wanted: u64,
    unrelated_percent: u8,
    site_apps: u16,
    chooser: Chooser,
    random: StdRng,
}

impl Table {
    fn new(recipe: &Recipe) -> Self {
        let partitions = usize::try_from(recipe.partitions).expect("a topic has at least one partition");
        Self {
            sites: Vec::new(),
            partitions: Vec::new(),
            ends: vec![0; partitions],
            last: vec![None; partitions],
            sites_wanted: recipe.sites,
            unrelated_percent: recipe.unrelated_percent,
            site_apps: recipe.site_apps,
            chooser: Chooser::new(recipe.keys, recipe.sites),
            random: StdRng::seed_from_u64(recipe.seed),
        }
    }

    /// Records by partition: the offset behind the last one, in a topic that holds nothing else.
    pub fn ends(&self) -> &[i64] {
        &self.ends
    }

    /// The site, in its final state, whose record is the last of each partition that has any.
    pub fn last_sites(&self) -> impl Iterator<Item = &Site> {
        self.last.iter().flatten().map(|site| &self.sites[*site])
    }

    fn step(&mut self, number: u64) -> (usize, Operation) {
        let (site, operation) = if number < self.sites_wanted {
            (self.create(), Operation::Read)
        } else {
            (self.update(), Operation::Update)
        };
        let partition = self.partitions[site] as usize;
        self.ends[partition] += 1;
        self.last[partition] = Some(site);
        (site, operation)
    }

    fn create(&mut self) -> usize {
        let site = Site::new(self.sites.len() as u64, self.site_apps, &mut self.random);
        self.partitions.push(partition_of(site.number, self.ends.len()));
        self.sites.push(site);
        self.sites.len() - 1
    }

    fn update(&mut self) -> usize {
        let number = self.chooser.choose(&mut self.random);
        let site = &mut self.sites[number];
        if self.random.random_range(0..100) < self.unrelated_percent {
            site.rename();
        } else {
            site.change_apps(self.site_apps, &mut self.random);
        }
        number
    }
}

#[cfg(test)]
#[path = "dataset/tests.rs"]
mod tests;
