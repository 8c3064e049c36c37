//! The thread that reads the topic: opens the consumer, polls, applies, looks after what can change under it.
//!
//! A consumer is used for one assignment and never moved: when a partition has to be read from another offset, a new consumer is
//! made. So no record, position or end of an earlier assignment can be taken for one of the present.

mod batch;
mod demands;
mod house;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, PoisonError, RwLock, RwLockWriteGuard, mpsc},
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaResult,
};
use tokio::sync::watch;

use super::{
    DecodeError, KvStoreConfig, Progress, State,
    contents::Contents,
    loading::{Goal, Partition},
    observe,
};
use crate::{
    client::{client, without_membership},
    log_ends,
    topic_id::{self, TopicId},
};
use batch::Batch;
use demands::Demands;
pub(super) use demands::Order;
use house::House;

/// Pause before the brokers are asked again when they did not answer, or have no such topic.
const RETRY: Duration = Duration::from_millis(200);
/// How often progress is told while it loads.
const TELL_INTERVAL: Duration = Duration::from_millis(100);

/// Settings of the consumer that reads. Names and meaning: librdkafka, CONFIGURATION.md.
const READS: [(&str, &str); 11] = [
    // What an aborted transaction wrote never was; what an open one wrote is not yet.
    ("isolation.level", "read_committed"),
    // Nothing is committed: a store begins at the log's start, always.
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    // A position outside the log means that updates are lost, tombstones among them: the partition is loaded anew.
    ("auto.offset.reset", "error"),
    // The only sign of a tail whose batches compaction has emptied; see `loading`.
    ("enable.partition.eof", "true"),
    ("allow.auto.create.topics", "false"),
    ("check.crcs", "true"),
    // Bounds the memory of records that wait in the client (default 64 MiB), and is deep enough to fetch while we decode.
    ("queued.max.messages.kbytes", "32768"),
    ("queued.min.messages", "1000000"),
    // With a small queue the default of 1 s stalls the fetcher each time the queue was full.
    ("fetch.queue.backoff.ms", "10"),
    ("fetch.wait.max.ms", "100"),
];
/// Settings of the one that asks where the log ends: it must see what is there, committed or not.
const ASKS: [(&str, &str); 3] =
    [("isolation.level", "read_uncommitted"), ("allow.auto.create.topics", "false"), ("enable.auto.commit", "false")];

/// Where the thread's work is seen.
pub(super) struct Told<V> {
    pub(super) contents: Arc<RwLock<Contents<V>>>,
    pub(super) progress: watch::Sender<Progress>,
    /// Sent after each change of contents or position.
    pub(super) applied: watch::Sender<()>,
}

/// The thread's state.
pub(super) struct Follower<V> {
    config: KvStoreConfig,
    settings: HashMap<String, String>,
    told: Told<V>,
    demands: Demands,
    observer: BaseConsumer,
    consumer: Option<BaseConsumer>,
    partitions: BTreeMap<i32, Partition>,
    /// Those whose load is not done.
    loading: BTreeSet<i32>,
    topic_id: Option<TopicId>,
    house: House,
    progress: Progress,
    told_at: Instant,
}

impl<V: Send + Sync + 'static> Follower<V> {
    pub(super) fn new(
        settings: &HashMap<String, String>,
        config: KvStoreConfig,
        told: Told<V>,
        orders: mpsc::Receiver<Order>,
    ) -> KafkaResult<Self> {
        observe::describe();
        let mut settings = without_membership(settings);
        settings.insert("group.id".to_owned(), config.group.clone());
        let observer: BaseConsumer = client(&settings, &ASKS).create()?;
        // Refused settings are an error here, not later on the thread.
        client(&settings, &READS).create_native_config()?;
        let progress = Progress { memory_bytes_max: config.memory_bytes_max, ..Progress::default() };
        Ok(Self {
            config,
            settings,
            told,
            demands: Demands::new(orders),
            observer,
            consumer: None,
            partitions: BTreeMap::new(),
            loading: BTreeSet::new(),
            topic_id: None,
            house: House::new(),
            progress,
            told_at: Instant::now(),
        })
    }

    /// Reads until the store's last handle is gone.
    pub(super) fn run(mut self, decode: impl Fn(&[u8]) -> Result<V, DecodeError>) {
        let mut batch = Batch::default();
        while self.demands.receive() {
            let goes_on = match &self.consumer {
                _ if self.progress.state == State::Full => self.demands.wait(house::INTERVAL),
                None => self.open_or_wait(),
                Some(consumer) => {
                    batch.poll(consumer, &decode);
                    self.apply(&mut batch);
                    self.keep_house();
                    true
                }
            };
            if !goes_on {
                return;
            }
        }
    }

    fn open_or_wait(&mut self) -> bool {
        let Err(error) = self.open() else { return true };
        tracing::debug!(topic = self.config.topic, error = %error, "the topic of a store cannot be opened yet");
        self.progress.detail = format!("the topic cannot be opened: {error}");
        self.tell();
        self.demands.wait(RETRY)
    }

    /// Makes the consumer, with every partition at its position, or at its start if it has none in this log.
    fn open(&mut self) -> KafkaResult<()> {
        let (topic, observer) = (self.config.topic.as_str(), &self.observer);
        let numbers = log_ends::partitions(observer, topic)?;
        let topic_id = topic_id::fetch(observer, topic)?;
        let starts = log_ends::starts(observer, topic, &numbers)?;
        // In this order: first how far the log reaches, then which of it is settled.
        let highs = log_ends::ends(observer, topic, &numbers)?;
        let consumer: BaseConsumer = client(&self.settings, &READS).create()?;
        let stable = log_ends::ends(&consumer, topic, &numbers)?;
        let same_topic = !topic_id::differ(self.topic_id.as_ref().map(TopicId::as_str), topic_id.as_ref());
        self.partitions.retain(|number, _| {
            let stays = numbers.contains(number);
            if !stays {
                write(&self.told.contents).forget(*number);
            }
            stays
        });
        let mut assigned = TopicPartitionList::new();
        for number in numbers {
            let (start, high, stable) = (starts[&number], highs[&number], stable[&number]);
            let position = match self.partitions.get_mut(&number) {
                Some(known) if same_topic && (start..=high).contains(&known.position()) => {
                    known.reopened(stable);
                    known.position()
                }
                known => {
                    let epoch = known.map_or(0, |known| known.epoch() + 1);
                    tracing::info!(topic, partition = number, start, high, epoch, "loading a partition of a store");
                    self.partitions.insert(number, Partition::new(start, epoch, Goal::new(high, Some(stable))));
                    self.loading.insert(number);
                    start
                }
            };
            assigned.add_partition_offset(topic, number, Offset::Offset(position))?;
        }
        // Explicit offsets: a seek after an assignment is not reliable, and a stored offset of the group is nobody's.
        consumer.assign(&assigned)?;
        (self.consumer, self.topic_id) = (Some(consumer), topic_id);
        self.house.opened();
        self.progress.detail.clear();
        self.settle();
        Ok(())
    }

    /// Takes a batch over: contents, then positions, then what the client said beside them.
    fn apply(&mut self, batch: &mut Batch<V>) {
        self.progress.records += batch.records.len() as u64;
        self.progress.unreadable += std::mem::take(&mut batch.unreadable);
        if !batch.records.is_empty() {
            let mut contents = write(&self.told.contents);
            for record in batch.records.drain(..) {
                if let Some(partition) = self.partitions.get_mut(&record.partition) {
                    partition.advance(record.offset + 1);
                    contents.apply(record, partition.epoch());
                }
            }
        }
        if batch.drained {
            self.advance_to_client();
        }
        for number in batch.ended.drain(..) {
            self.partitions.get_mut(&number).into_iter().for_each(Partition::reached_end);
        }
        if let Some(error) = batch.error.take() {
            self.hear(error);
        }
        self.demands.ask(&self.observer, &self.config.topic, &mut self.partitions);
        self.settle();
    }

    /// Moves positions to the client's, which pass transaction markers and, with them, aborted records. Only between polls, when
    /// everything that was polled is applied.
    fn advance_to_client(&mut self) {
        let Some(position) = self.consumer.as_ref().and_then(|consumer| consumer.position().ok()) else { return };
        for element in position.elements() {
            let partition = self.partitions.get_mut(&element.partition());
            if let (Offset::Offset(offset), Some(partition)) = (element.offset(), partition) {
                partition.advance(offset);
            }
        }
    }

    /// Ends loads that are done, shows positions, answers demands, tells how far it is.
    fn settle(&mut self) {
        let mut contents = write(&self.told.contents);
        let partitions = &self.partitions;
        self.loading.retain(|number| {
            let Some(partition) = partitions.get(number).filter(|partition| partition.is_loaded()) else { return true };
            contents.sweep(*number, partition.epoch());
            false
        });
        let mut moved = false;
        for (number, partition) in partitions {
            if contents.position().get(number) != Some(&partition.position()) {
                contents.advance(*number, partition.position());
                moved = true;
            }
        }
        (self.progress.keys, self.progress.memory_bytes) = (contents.len(), contents.bytes());
        drop(contents);
        if moved {
            self.told.applied.send_replace(());
        }
        self.demands.answer(&self.partitions);
        self.judge();
    }

    /// Decides which state this is, and tells it when it is another one or has not been told for a while.
    fn judge(&mut self) {
        let state = match self.progress.state {
            State::Full => State::Full,
            _ if self.progress.memory_bytes > self.config.memory_bytes_max => State::Full,
            _ if self.partitions.is_empty() => State::Waiting,
            _ if self.loading.is_empty() => State::Ready,
            _ => State::Loading,
        };
        if state != self.progress.state {
            self.enter(state);
        } else if self.told_at.elapsed() >= TELL_INTERVAL {
            self.tell();
        }
    }

    fn enter(&mut self, state: State) {
        self.progress.state = state;
        let (topic, keys, bytes) = (&self.config.topic, self.progress.keys, self.progress.memory_bytes);
        match state {
            State::Full => {
                // What it holds stays; the memory that waits in the client is given back.
                self.consumer = None;
                self.progress.detail = "the memory is used up".to_owned();
                tracing::error!(topic, keys, bytes, "a store needs more memory than it may take; it is not ready");
            }
            State::Ready => tracing::info!(topic, keys, bytes, records = self.progress.records, "a store is loaded"),
            State::Loading | State::Waiting => {}
        }
        self.tell();
    }

    fn tell(&mut self) {
        self.told_at = Instant::now();
        self.progress.partitions = self.partitions.len();
        self.progress.partitions_loaded = self.partitions.len() - self.loading.len();
        self.progress.remaining_offsets = self.partitions.values().map(Partition::remaining).sum();
        observe::told(&self.config.topic, &self.progress);
        let told = self.progress.clone();
        self.told.progress.send_if_modified(|progress| {
            let differs = *progress != told;
            *progress = told;
            differs
        });
    }
}

/// The lock, for changes; see `KvStore::read` for why a panic elsewhere does not matter.
fn write<V>(contents: &RwLock<Contents<V>>) -> RwLockWriteGuard<'_, Contents<V>> {
    contents.write().unwrap_or_else(PoisonError::into_inner)
}
