//! Servers that go away and come back in the middle of a drain. A devstack of its own, because it restarts what others use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use acceptance::{Model, Service, Source, System, assert_equal, scenario};
use anyhow::{Context, Result, ensure};
use devstack::{Devstack, Options, Part, Server, eventually, target_dir, unused_state_dir};
use serde_json::Value;
use tokio::task::JoinHandle;

const PARTITIONS: i32 = 4;
const RECORDS: usize = 24_000;
const SITES: usize = 2_000;
/// Until a service must have noticed something; far beyond what it takes.
const NOTICED_MAX: Duration = Duration::from_secs(60);
/// Small batches, so that the drain outlasts the restarts.
const SLOW: [(&str, &str); 2] = [("WRITER_BATCH_RECORDS_MAX", "50"), ("WRITER_KEY_CHANGE_WAIT", "10m")];
/// Records that must have been applied between two restarts.
const STEP_RECORDS: i64 = 1000;
/// Answers that the reader must give while the primary is away.
const ANSWERS_WITHOUT_PRIMARY: u32 = 300;

/// How a server goes away.
#[derive(Debug, Clone, Copy)]
enum End {
    /// SIGKILL.
    Crash,
    /// In order, as an operator would.
    Stop,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_goes_on_by_itself_when_primary_and_broker_come_back() -> Result<()> {
    let tests = target_dir()?.join("devstack-tests").join("restarts");
    let options = Options::new([Part::Kafka, Part::Postgres], unused_state_dir(&tests)?)?;
    let stack = Devstack::start(options).await?;
    scenario(stack.endpoints(), PARTITIONS, async |system| {
        let records = Source::new(21, PARTITIONS, SITES).records(RECORDS);
        system.topic().produce(&records)?;
        let mut writer = system.writer(&SLOW)?;
        let mut reader = system.reader(&[])?;
        writer.ready().await?;
        reader.ready().await?;
        let drain = Drain { system, writer: &writer, ends: system.topic().ends()?.values().sum() };
        let mut done = drain.under_way(0).await?;
        system.replica_caught_up().await?;
        let load = Load::start(&reader, &records[0].site_id);

        let (primary, broker) = (stack.view_primary().context("a primary")?, stack.kafka().context("a broker")?);
        for end in [End::Crash, End::Stop] {
            drain.without_primary(primary, end, &load).await.with_context(|| format!("primary, {end:?}"))?;
            done = drain.under_way(done).await.with_context(|| format!("after the primary's {end:?}"))?;
        }
        for end in [End::Crash, End::Stop] {
            drain.without_broker(broker, end).await.with_context(|| format!("broker, {end:?}"))?;
            done = drain.under_way(done).await.with_context(|| format!("after the broker's {end:?}"))?;
        }
        assert_equal(system, &Model::of(&records)).await?;
        writer.ready().await?;
        ensure!(writer.is_running() && reader.is_running(), "both stay");
        load.end().await
    })
    .await
}

/// The drain that is disturbed.
struct Drain<'s> {
    system: &'s System,
    writer: &'s Service,
    /// Sum of the ends.
    ends: i64,
}

impl Drain<'_> {
    /// Waits until a step more is done, and makes sure that something is left. Gives the records done.
    async fn under_way(&self, done_before: i64) -> Result<i64> {
        let moved = async || {
            let positions = self.system.positions(&self.system.primary().await.ok()?).await.ok()?;
            let done: i64 = positions.values().map(|row| row.next_offset).sum();
            (done >= done_before + STEP_RECORDS).then_some(done)
        };
        let done = eventually(&format!("{STEP_RECORDS} records more than {done_before}"), NOTICED_MAX, moved).await?;
        ensure!(done < self.ends, "the drain is over at {done}; nothing is left to disturb");
        Ok(done)
    }

    /// Ends the primary until the writer says so and the reader has served from the replica, then starts it again.
    async fn without_primary(&self, primary: &Server, end: End, load: &Load) -> Result<()> {
        self.writer.condition("database", true, NOTICED_MAX).await?;
        match end {
            End::Crash => primary.kill(),
            End::Stop => primary.stop(),
        }
        let before = load.answered.load(Ordering::Relaxed);
        let why = self.writer.condition("database", false, NOTICED_MAX).await?;
        ensure!(!why.is_empty(), "/readyz says why");
        ensure!(!self.writer.is_ready().await, "a writer without its database is not ready");
        let served = async || (load.answered.load(Ordering::Relaxed) > before + ANSWERS_WITHOUT_PRIMARY).then_some(());
        eventually("the reader serves without the primary", NOTICED_MAX, served).await?;
        primary.start().await?;
        self.writer.condition("database", true, NOTICED_MAX).await?;
        load.has_not_failed()
    }

    async fn without_broker(&self, broker: &Server, end: End) -> Result<()> {
        match end {
            End::Crash => broker.kill(),
            End::Stop => broker.stop(),
        }
        let why = self.writer.condition("kafka", false, NOTICED_MAX).await?;
        ensure!(!why.is_empty(), "/readyz says why");
        broker.start().await?;
        self.writer.condition("kafka", true, NOTICED_MAX).await?;
        Ok(())
    }
}

/// A client that asks the reader all the time.
struct Load {
    answered: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    client: JoinHandle<Result<()>>,
}

impl Load {
    fn start(reader: &Service, site_id: &str) -> Self {
        let (answered, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let url = format!("{}/v1/installed-apps/batch-get", reader.url());
        let asked = serde_json::json!({"site_ids": [site_id, "never-seen"]});
        let client = tokio::spawn(ask_on(url, asked, Arc::clone(&answered), Arc::clone(&stop)));
        Self { answered, stop, client }
    }

    /// The client ends at the first request that fails.
    fn has_not_failed(&self) -> Result<()> {
        ensure!(!self.client.is_finished(), "a request failed");
        Ok(())
    }

    async fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.client.await?
    }
}

async fn ask_on(url: String, asked: Value, answered: Arc<AtomicU32>, stop: Arc<AtomicBool>) -> Result<()> {
    let http = reqwest::Client::new();
    while !stop.load(Ordering::Relaxed) {
        let answer = http.post(&url).json(&asked).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        let number = answered.fetch_add(1, Ordering::Relaxed);
        ensure!(status == 200, "request {number} is answered with {status}: {text}");
    }
    Ok(())
}
