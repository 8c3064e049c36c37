//! Two writers in one group are killed again and again while they drain a topic: the view ends as if nothing had happened.

use acceptance::{Model, Record, Service, Source, System, assert_equal, scenario};
use anyhow::{Context, Result, ensure};
use devstack::eventually;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio_postgres::Client;

use crate::{NOTICED_MAX, PARTITIONS, servers};

const RECORDS: usize = 50_000;
const SITES: usize = 4_000;
/// Kills that must have met a writer at work. A few more are tried.
const KILLS: usize = 24;
/// Small batches, so that the drain lasts and a kill meets every step of a transaction.
const SLOW: [(&str, &str); 2] = [("WRITER_BATCH_RECORDS_MAX", "60"), ("WRITER_KEY_CHANGE_WAIT", "10m")];

/// The two writers. The first keeps its membership over a restart and goes on at once; the second is missed by the group
/// first, so that its partitions change hands.
struct Pair<'s> {
    system: &'s System,
    writers: [Service; 2],
}

impl<'s> Pair<'s> {
    fn start(system: &'s System) -> Result<Self> {
        Ok(Self { system, writers: [start(system, 0)?, start(system, 1)?] })
    }

    fn index_of(&self, pid: u32) -> Option<usize> {
        self.writers.iter().position(|writer| writer.pid() == pid)
    }

    fn kill_and_restart(&mut self, index: usize) -> Result<()> {
        self.writers[index].kill()?;
        self.writers[index] = start(self.system, index)?;
        Ok(())
    }
}

fn start(system: &System, index: usize) -> Result<Service> {
    let properties: &[_] = if index == 0 { &[("group.instance.id", "first")] } else { &[] };
    system.writer_in_session(&SLOW, properties)
}

/// The writers that own partitions with records left, and the records done in all.
async fn at_work(system: &System, primary: &Client, ends: &acceptance::Ends) -> Option<(Vec<u32>, i64)> {
    let positions = system.positions(primary).await.ok()?;
    let lagging = positions.iter().filter(|(partition, row)| row.next_offset < ends[partition]);
    let owners = lagging.map(|(_, row)| row.owner_pid).collect();
    Some((owners, positions.values().map(|row| row.next_offset).sum()))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_killed_over_and_over_in_a_drain_leave_the_view_of_the_model() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let records = Source::new(1, PARTITIONS, SITES).records(RECORDS);
        system.topic().produce(&records)?;
        let kills = drain_under_kills(system, &records).await?;
        ensure!(kills >= 20, "only {kills} kills met a writer that had records left");
        assert_equal(system, &Model::of(&records)).await
    })
    .await
}

/// Kills writers until the drain is nearly over and restarts them; returns when the last two have finished it.
async fn drain_under_kills(system: &System, records: &[Record]) -> Result<usize> {
    let seed: u64 = rand::random();
    let mut rng = StdRng::seed_from_u64(seed);
    let (primary, ends) = (system.primary().await?, system.topic().ends()?);
    let mut pair = Pair::start(system)?;
    let (mut kills, mut done_at_kill) = (0, 0);
    let step = i64::try_from(records.len() / (KILLS * 2))?;
    while kills < KILLS {
        let due = done_at_kill + rng.random_range(1..=step);
        // The owner that has just been killed is not at work.
        let victim = async || {
            let (owners, done) = at_work(system, &primary, &ends).await?;
            let live: Vec<usize> = owners.iter().filter_map(|pid| pair.index_of(*pid)).collect();
            (done >= due && !live.is_empty()).then_some((live, done))
        };
        let what = format!("kill {kills} (seed {seed}): a writer at work, and {due} records done");
        let (live, done) = eventually(&what, NOTICED_MAX, victim).await?;
        pair.kill_and_restart(*live.choose(&mut rng).context("not empty")?)?;
        (kills, done_at_kill) = (kills + 1, done);
    }
    for writer in &mut pair.writers {
        writer.ready().await?;
    }
    system.drained().await?;
    for writer in &mut pair.writers {
        ensure!(writer.is_running(), "{} has ended by itself", writer.name());
    }
    Ok(kills)
}
