//! Whole-system tests on one shared devstack: Kafka, the view's Postgres and its replica, release binaries.
//!
//! Each module is one subject of the contract or of the rules of correctness. Tests that restart servers stand in the binary
//! `own_servers`.

mod absent_parts;
mod added_partitions;
mod answers;
mod blocked_partitions;
mod cache;
mod captures;
mod changed_topics;
mod changes;
mod checker;
mod console;
mod freshness;
mod frozen_writer;
mod hostile_clients;
mod key_changes;
mod killed_writers;
mod look_ups;
mod membership;
mod migrations;
mod operate;
mod poison;
mod rebalances;
mod rebuild;
mod relay;
mod roles;
mod saboteurs;
mod states;
mod stops;
mod subscribers;
mod tail_of_the_log;
mod traces;
mod upkeep;

use acceptance::{Model, Record, Source, System};
use anyhow::Result;
use devstack::{Endpoints, Part};
use std::time::Duration;

/// Partitions of every topic here.
const PARTITIONS: i32 = 4;
/// Until a service must have noticed something; far beyond what it takes.
const NOTICED_MAX: Duration = Duration::from_secs(30);

/// The servers that all tests of this binary share.
fn servers() -> Result<Endpoints> {
    devstack::shared(&[Part::Kafka, Part::Postgres])
}

/// Fills the topic with a small history and lets a writer drain it. Gives the records and what the view must hold.
async fn drained_history(system: &System, seed: u64, records: usize) -> Result<(Vec<Record>, Model)> {
    let records = Source::new(seed, PARTITIONS, records / 6).records(records);
    system.topic().produce(&records)?;
    let mut writer = system.writer(&[])?;
    writer.ready().await?;
    system.drained().await?;
    let (status, _) = writer.stop().await?;
    anyhow::ensure!(status.success(), "the writer ended with {status}");
    let model = Model::of(&records);
    Ok((records, model))
}
