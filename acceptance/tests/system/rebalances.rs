//! A storm of rebalances over a live stream, under both protocols of the group: the view becomes the model's.

use std::time::{Duration, Instant};

use acceptance::{Chunk, Feed, Model, Service, System, assert_equal, scenario};
use anyhow::{Result, ensure};
use devstack::eventually;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::{NOTICED_MAX, PARTITIONS, servers};

const SITES: usize = 300;
/// Joins and leaves, one in each [`STEP`]: as many a minute as a fleet has that restarts over and over.
const STORM: usize = 20;
const STEP: Duration = Duration::from_millis(1500);
const MEMBERS_MAX: usize = 5;
const SETTINGS: [(&str, &str); 2] = [("WRITER_BATCH_RECORDS_MAX", "50"), ("WRITER_KEY_CHANGE_WAIT", "1h")];
/// KIP-848: the broker decides, and has the session's limits.
const CONSUMER_PROTOCOL: [(&str, &str); 1] = [("group.protocol", "consumer")];

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_rebalances_under_the_classic_protocol_converges() -> Result<()> {
    storm(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_rebalances_under_the_consumer_protocol_converges() -> Result<()> {
    storm(&CONSUMER_PROTOCOL).await
}

async fn storm(properties: &[(&str, &str)]) -> Result<()> {
    let seed: u64 = rand::random();
    scenario(&servers()?, PARTITIONS, async |system| {
        let mut feed = Feed::new(seed, PARTITIONS, SITES);
        let mut records = feed.snapshot(SITES);
        system.topic().produce(&records)?;
        let mut storm = Storm { system, properties, rng: StdRng::seed_from_u64(seed), members: Vec::new() };
        storm.join()?;
        for _ in 0..STORM {
            let step = Instant::now();
            storm.join_or_leave().await?;
            while step.elapsed() < STEP {
                let chunk = match feed.chunk() {
                    Chunk::Plain(records) | Chunk::Aborted(_, records) => records,
                };
                system.topic().produce(&chunk)?;
                records.extend(chunk);
            }
        }
        storm.settled().await?;
        assert_equal(system, &Model::of(&records)).await
    })
    .await
    .map_err(|error| error.context(format!("seed {seed}")))
}

struct Storm<'s> {
    system: &'s System,
    properties: &'s [(&'s str, &'s str)],
    rng: StdRng,
    members: Vec<Service>,
}

impl Storm<'_> {
    fn join(&mut self) -> Result<()> {
        self.members.push(self.system.writer_in_session(&SETTINGS, self.properties)?);
        Ok(())
    }

    /// A new member joins, or one leaves: mostly in order, sometimes by SIGKILL, and perhaps before it was ever ready.
    async fn join_or_leave(&mut self) -> Result<()> {
        let joins = self.members.len() == 1 || (self.members.len() < MEMBERS_MAX && self.rng.random_ratio(1, 2));
        if joins {
            return self.join();
        }
        let mut leaves = self.members.remove(self.rng.random_range(0..self.members.len()));
        if self.rng.random_ratio(1, 4) {
            return leaves.kill();
        }
        let (status, _) = leaves.stop().await?;
        ensure!(status.success(), "{} ended with {status}", leaves.name());
        Ok(())
    }

    /// Each partition is a running member's.
    async fn settled(&mut self) -> Result<()> {
        for member in &mut self.members {
            ensure!(member.is_running(), "{} has ended by itself", member.name());
        }
        let pids: Vec<u32> = self.members.iter().map(Service::pid).collect();
        let owned = async || {
            let positions = self.system.positions(&self.system.primary().await.ok()?).await.ok()?;
            let all = positions.len() == usize::try_from(PARTITIONS).ok()?;
            (all && positions.values().all(|row| pids.contains(&row.owner_pid))).then_some(())
        };
        eventually("every partition belongs to a member that is there", NOTICED_MAX * 2, owned).await
    }
}
