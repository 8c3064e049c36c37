//! The relay, over a log of the test's own: interruptions, a successor, positions that are lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use devstack::eventually;
use messaging::{
    relay::{
        Positions, RelayConfig, RelayEvent, RelayPosition, RelaySource, Stretch, StretchLimits, TransactionalRelay,
        set_positions,
    },
    transaction::{Output, TransactionError},
};
use rdkafka::admin::AdminOptions;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    DEADLINE, broker,
    stage::{self, Broker, Stored},
};

const PARTITIONS: i32 = 2;
const KEYS: i64 = 10;

/// A log outside Kafka, numbered like a topic of two partitions. Clones are the same.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Contents>>);

#[derive(Default)]
struct Contents {
    /// How many records each partition has.
    length: i64,
    /// So many reads fail.
    unreadable: u32,
    begun: u32,
    /// From where it was read first, by each relay.
    firsts: Vec<Positions>,
}

impl Log {
    fn with<T>(&self, what: impl FnOnce(&mut Contents) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn append(&self, records: i64) {
        self.with(|log| log.length += records / i64::from(PARTITIONS));
    }
}

/// What a relay has told.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Opened(i32),
    Runs,
    Unread,
    PositionsLost,
    Committed(usize),
}

/// The log as one relay reads it.
struct Source {
    log: Log,
    topic: String,
    is_first: bool,
    /// While it is false, what was read is held back.
    passes: watch::Receiver<bool>,
    /// Something was read.
    has_read: watch::Sender<bool>,
    told: mpsc::UnboundedSender<Told>,
}

impl RelaySource for Source {
    type Error = String;

    async fn begin(&mut self) -> Result<Positions, String> {
        self.log.with(|log| log.begun += 1);
        let start = RelayPosition { next_offset: 0, detail: "begun".to_owned() };
        Ok((0..PARTITIONS).map(|partition| (partition, start.clone())).collect())
    }

    async fn read(&mut self, after: &Positions, limits: StretchLimits) -> Result<Stretch, String> {
        let is_first = std::mem::take(&mut self.is_first);
        let length = self.log.with(|log| {
            if is_first {
                log.firsts.push(after.clone());
            }
            match log.unreadable.checked_sub(1) {
                Some(left) => {
                    log.unreadable = left;
                    Err("the log is away".to_owned())
                }
                None => Ok(log.length),
            }
        })?;
        let stretch = stretch(&self.topic, after, length, limits);
        if !stretch.outputs.is_empty() {
            self.has_read.send_replace(true);
            self.passes.wait_for(|passes| *passes).await.map_err(|error| error.to_string())?;
        }
        Ok(stretch)
    }

    fn observe(&mut self, event: RelayEvent<'_, String>) {
        let told = match event {
            RelayEvent::Opened { partitions } => Told::Opened(partitions),
            RelayEvent::Runs => Told::Runs,
            RelayEvent::Unread(_) => Told::Unread,
            RelayEvent::PositionsLost => Told::PositionsLost,
            RelayEvent::Committed { outputs, .. } => Told::Committed(outputs),
            RelayEvent::Waits(_) => return,
        };
        // The test may have heard enough.
        let _ = self.told.send(told);
    }
}

/// What comes after these positions, partition by partition.
fn stretch(topic: &str, after: &Positions, length: i64, limits: StretchLimits) -> Stretch {
    let (mut outputs, mut to) = (Vec::new(), after.clone());
    for (partition, position) in &mut to {
        while position.next_offset < length && outputs.len() < limits.records_max {
            let offset = position.next_offset;
            let (key, value) = (format!("key-{partition}-{}", offset % KEYS), format!("{partition}/{offset}"));
            outputs.push(Output::new(topic, key, value));
            *position = RelayPosition { next_offset: offset + 1, detail: format!("behind {offset}") };
        }
    }
    let is_last = to.values().all(|position| position.next_offset >= length);
    Stretch { outputs, to, is_last }
}

/// A relay that runs.
struct Running {
    task: JoinHandle<Result<(), TransactionError>>,
    told: mpsc::UnboundedReceiver<Told>,
    passes: watch::Sender<bool>,
    has_read: watch::Receiver<bool>,
    shutdown: CancellationToken,
}

impl Running {
    async fn until(&mut self, wanted: Told) -> Result<()> {
        loop {
            let told = timeout(DEADLINE, self.told.recv()).await.with_context(|| format!("{wanted:?}"))?;
            if told.with_context(|| format!("it ended before {wanted:?}"))? == wanted {
                return Ok(());
            }
        }
    }

    /// Waits until so many records more are committed.
    async fn until_committed(&mut self, records: usize) -> Result<()> {
        let mut committed = 0;
        while committed < records {
            let told = timeout(DEADLINE, self.told.recv()).await.context("the relay gets on")?;
            if let Told::Committed(outputs) = told.context("it ended")? {
                committed += outputs;
            }
        }
        Ok(())
    }

    async fn ended(self) -> Result<Result<(), TransactionError>> {
        Ok(timeout(DEADLINE, self.task).await.context("the relay ends")??)
    }

    async fn stop(self) -> Result<()> {
        self.shutdown.cancel();
        Ok(self.ended().await??)
    }
}

/// One test's topics, group and log.
struct Scene {
    broker: Broker,
    config: RelayConfig,
    log: Log,
}

impl Scene {
    async fn new(records_max: usize) -> Result<Self> {
        let (broker, run) = (broker()?, format!("relays-{}", stage::tag()));
        let config = RelayConfig {
            source_topic: format!("{run}.in"),
            topic: format!("{run}.out"),
            group: format!("{run}-relay"),
            limits: StretchLimits { records_max, bytes_max: 1 << 20 },
            idle: Duration::from_millis(20),
            transaction_timeout: Duration::from_secs(10),
        };
        broker.create(&config.source_topic, PARTITIONS, &[]).await?;
        Ok(Self { broker, config, log: Log::default() })
    }

    fn start(&self) -> Result<Running> {
        let (shutdown, (tell, told)) = (CancellationToken::new(), mpsc::unbounded_channel());
        let ((passes, passing), (reads, has_read)) = (watch::channel(true), watch::channel(false));
        let (log, topic) = (self.log.clone(), self.config.topic.clone());
        let source = Source { log, topic, is_first: true, passes: passing, has_read: reads, told: tell };
        let relay = TransactionalRelay::new(&self.broker.settings(), self.config.clone(), source, &shutdown)?;
        Ok(Running { task: tokio::spawn(relay.run()), told, passes, has_read, shutdown })
    }

    fn relayed(&self) -> Result<Vec<Stored>> {
        self.broker.read(&self.config.topic)
    }

    async fn until_relayed(&self, records: usize) -> Result<()> {
        let all = async || self.relayed().ok().filter(|found| found.len() >= records).map(drop);
        eventually(&format!("{records} records are relayed"), DEADLINE, all).await
    }

    /// Readers see the whole log, each record once, those of a key in order.
    fn ensure_exact(&self) -> Result<()> {
        let (records, length) = (self.relayed()?, self.log.with(|log| log.length));
        let values: BTreeSet<&str> = records.iter().filter_map(|record| record.value.as_deref()).collect();
        ensure!(values.len() == records.len(), "{} are told twice", records.len() - values.len());
        ensure!(records.len() as i64 == length * i64::from(PARTITIONS), "{} of {length} each", records.len());
        let mut last = BTreeMap::<&str, i64>::new();
        for record in &records {
            let value = record.value.as_deref().context("a value")?;
            let offset: i64 = value.split_once('/').context("a place")?.1.parse()?;
            let before = last.insert(&record.key, offset);
            ensure!(before < Some(offset), "{value} comes after {before:?}");
        }
        Ok(())
    }
}

/// Relays are dropped in the middle of their work, wherever they are: the next one goes on behind the last record that readers see.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_relayed_once_whatever_becomes_of_relays() -> Result<()> {
    let scene = Scene::new(7).await?;
    scene.log.append(1_000);
    scene.log.with(|log| log.unreadable = 2);
    let mut relay = scene.start()?;
    relay.until(Told::Opened(PARTITIONS)).await?;
    relay.until(Told::Unread).await?;
    for round in 0..8 {
        relay.until_committed(20 + round).await?;
        relay.task.abort();
        relay = scene.start()?;
        scene.log.append(20);
    }
    scene.until_relayed(1_160).await?;
    relay.stop().await?;
    scene.ensure_exact()?;
    let (begun, firsts) = scene.log.with(|log| (log.begun, std::mem::take(&mut log.firsts)));
    ensure!(begun == 1, "it begins once: {begun}");
    let behind = |positions: &Positions| {
        positions.values().all(|at| at.next_offset == 0 || at.detail == format!("behind {}", at.next_offset - 1))
    };
    ensure!(firsts.iter().skip(1).all(behind), "positions come back with what belongs to them: {firsts:?}");
    ensure!(firsts.last().is_some_and(|last| last[&0].next_offset > 100), "the last one goes on: {firsts:?}");
    Ok(())
}

/// A relay that stood still between reading and committing finds that another one has come, and commits nothing of what it holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_was_frozen_is_fenced() -> Result<()> {
    let scene = Scene::new(100).await?;
    let mut elder = scene.start()?;
    elder.until(Told::Runs).await?;
    elder.passes.send_replace(false);
    scene.log.append(50);
    timeout(DEADLINE, elder.has_read.wait_for(|has_read| *has_read)).await.context("it reads")??;
    let younger = scene.start()?;
    scene.until_relayed(50).await?;
    elder.passes.send_replace(true);
    let end = elder.ended().await?;
    ensure!(matches!(end, Err(TransactionError::Fenced { .. })), "{end:?}");
    scene.log.append(10);
    scene.until_relayed(60).await?;
    younger.stop().await?;
    scene.ensure_exact()
}

/// Positions that are gone are no first start: nothing is told again until a person says where to go on.
#[tokio::test(flavor = "multi_thread")]
async fn lost_positions_are_waited_for_until_somebody_sets_them() -> Result<()> {
    let scene = Scene::new(100).await?;
    scene.log.append(20);
    let mut relay = scene.start()?;
    relay.until_committed(20).await?;
    relay.stop().await?;
    for deleted in scene.broker.admin()?.delete_groups(&[&scene.config.group], &AdminOptions::new()).await? {
        deleted.map_err(|(group, code)| anyhow::anyhow!("{group}: {code}"))?;
    }
    scene.log.append(6);
    let mut waiting = scene.start()?;
    waiting.until(Told::PositionsLost).await?;
    ensure!(scene.relayed()?.len() == 20 && scene.log.with(|log| log.begun) == 1, "it does not begin anew");
    let at = |offset: i64| RelayPosition { next_offset: offset, detail: "set".to_owned() };
    set_positions(&scene.broker.settings(), &scene.config, [(0, at(10)), (1, at(10))].into()).await?;
    let end = waiting.ended().await?;
    ensure!(matches!(end, Err(TransactionError::Fenced { .. })), "who waits is fenced by it: {end:?}");
    let next = scene.start()?;
    scene.until_relayed(26).await?;
    next.stop().await?;
    scene.ensure_exact()
}
