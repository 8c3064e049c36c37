//! Random faults over a live stream: the view converges to the model, and readers never answer wrongly meanwhile.
//!
//! **Flow.** One thread produces a [`Feed`](crate::feed::Feed) into the topic (`stream`) and notes every state that every
//! site has had (`history`). Three writers project it behind proxies. Two tracks of faults run beside each other:
//! `members` disturbs writers and connections, `servers` broker, primary and replica, failovers included. Clients ask the
//! reader all the while (`clients`). When the time is over, faults end, the stream ends, and the view must become the
//! model's to the row, on both servers, within the bounds of [`assert_equal`].
//!
//! **The seed** decides records and faults, not the moments at which they meet: two runs of a seed are alike, not equal.
//! It is told in every outcome. A failure names the folder with the logs of all writers.

mod clients;
mod faults;
mod history;
mod members;
mod servers;
mod stage;
mod stream;

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use devstack::{Devstack, Options, Part, target_dir, unused_state_dir};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinSet;

use clients::{Asking, lock};
use history::History;
use members::Members;
use servers::Servers;
use stage::Stage;

use crate::check::assert_equal;
use crate::feed::Feed;
use crate::system::{System, scenario};

const PARTITIONS: i32 = 6;
const SITES: usize = 400;
/// How often answers are judged.
const JUDGED_EVERY: Duration = Duration::from_secs(1);

/// Tortures a system of its own for so long, and gives what happened in a line. Every error names the seed.
pub async fn torture(seed: u64, duration: Duration) -> Result<()> {
    let again = format!("make torture SEED={seed} MINUTES={}", duration.as_secs().div_ceil(60));
    tell(&format!("torture: seed {seed}, {} s; again by: {again}", duration.as_secs()));
    let done = run(seed, duration).await.with_context(|| format!("torture with seed {seed}; again by: {again}"))?;
    tell(&format!("torture: seed {seed}: {done}"));
    Ok(())
}

/// Past the capture of a test's output: a seed is worth having also when all is well.
pub(crate) fn tell(line: &str) {
    // Without a standard error nobody listens.
    let _ = writeln!(std::io::stderr(), "{line}");
}

async fn run(seed: u64, duration: Duration) -> Result<String> {
    let tests = target_dir()?.join("devstack-tests").join("torture");
    let detour = stage::detour()?;
    let parts = [Part::Kafka, Part::Postgres];
    let options = Options { kafka_detour: Some(detour), ..Options::new(parts, unused_state_dir(&tests)?)? };
    let mut stack = Devstack::start(options).await?;
    let stage = Stage::new(stack.endpoints(), detour).await?;
    let endpoints = stage.endpoints(stack.endpoints())?;
    let mut done = String::new();
    scenario(&endpoints, PARTITIONS, async |system| {
        done = Run { seed, duration, system, stage: &stage }.whole(&mut stack).await?;
        Ok(())
    })
    .await?;
    Ok(done)
}

struct Run<'s> {
    seed: u64,
    duration: Duration,
    system: &'s System,
    stage: &'s Stage,
}

impl Run<'_> {
    async fn whole(&self, stack: &mut Devstack) -> Result<String> {
        let mut feed = Feed::new(self.seed, PARTITIONS, SITES);
        let history = Arc::new(Mutex::new(History::default()));
        let snapshot = feed.snapshot(SITES);
        let offsets = self.system.topic().produce_for_offsets(&snapshot)?;
        lock(&history).add(&snapshot, &offsets);

        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut members = Members::start(self.system, self.stage, StdRng::from_rng(&mut rng))?;
        let fallback = self.system.reader_url_of_primary();
        let mut reader = self.system.reader(&[("READER_FALLBACK_DATABASE_URL", &fallback)])?;
        reader.ready().await?;
        self.system.drained().await.context("before the first fault")?;

        let stop = Arc::new(AtomicBool::new(false));
        let streaming = spawn_stream(self.system, feed, &history, &stop);
        let asking = Asking::new(Arc::clone(&history), reader.url(), PARTITIONS);
        let mut clients = asking.start(self.seed, SITES);
        let until = Instant::now() + self.duration;
        let (system, stage) = (self.system, self.stage);
        let (asked, reader, rng) = (&*asking, &reader, StdRng::from_rng(&mut rng));
        let mut servers = Servers { stack, system, stage, asking: asked, reader, rng, faults: 0 };
        tokio::select! {
            faults = async { tokio::try_join!(members.disturb(until), servers.disturb(until)) } => drop(faults?),
            wrong = watched(&asking, &mut clients) => wrong?,
        }
        stop.store(true, Ordering::Relaxed);
        streaming.await?.context("the stream")?;
        stage.say("the faults and the stream are over");
        members.all_run()?;
        let model = lock(&history).model.clone();
        assert_equal(system, &model).await.context("after the last fault")?;
        members.all_run()?;
        asking.stop.store(true, Ordering::Relaxed);
        while let Some(client) = clients.join_next().await {
            client??;
        }
        let counts = asking.judge()?;
        ensure!(counts.judged > 0, "no answer was judged");
        let records = lock(&history).records;
        Ok(format!(
            "{records} records under {} faults of writers and connections and {} of servers; {} answers judged, {} refused \
             and {} back in time, all while servers were disturbed; view and model are equal",
            members.faults, servers.faults, counts.judged, counts.refused, counts.went_back,
        ))
    }
}

fn spawn_stream(
    system: &System,
    feed: Feed,
    history: &Arc<Mutex<History>>,
    stop: &Arc<AtomicBool>,
) -> tokio::task::JoinHandle<Result<()>> {
    let (topic, history, stop) = (system.topic().clone(), Arc::clone(history), Arc::clone(stop));
    tokio::task::spawn_blocking(move || stream::stream(&topic, feed, &history, &stop))
}

/// Ends when a client is answered wrongly.
async fn watched(asking: &Asking, clients: &mut JoinSet<Result<()>>) -> Result<()> {
    loop {
        tokio::time::sleep(JUDGED_EVERY).await;
        asking.judge()?;
        if let Some(ended) = clients.try_join_next() {
            ended??;
        }
    }
}
