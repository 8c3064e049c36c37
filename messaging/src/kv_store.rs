//! A compacted topic in memory (pattern 3): loaded completely before it says so, then kept current.
//!
//! **Flow.** One thread (`follow`) reads every partition from its start with a `BaseConsumer` that commits nothing and joins
//! no group; `loading` decides when a partition is loaded; `contents` holds what was read; readers look into memory.
//!
//! **Order.** The updates of a partition take effect in offset order. Between partitions there is none, so a key has to stay in
//! one: the number of partitions of a compacted topic does not change under living keys. Added partitions are found and loaded.
//!
//! **Duplication.** A store is a function of the topic: reading a record twice changes nothing. Watchers get each update once,
//! or are told that they missed some; a partition that has to be loaded again tells its updates again.
//!
//! **Durability.** None of its own: the topic is the truth. A crash at any step costs a load.
//!
//! **Isolation.** Only committed records count (`read_committed`). A store that says that it has caught up contains everything
//! that the log held when it began to load, transactions that were open then included.
//!
//! **What goes wrong, and what is seen of it.** Brokers away or topic missing: it waits and says so in [`Progress`]; what it
//! holds is served, and grows older. Log start past the position (retention, deleted records), a log cut back, a topic deleted
//! and made anew (by its id): loaded again; meanwhile it is not ready, serves what it has, and what the new load does
//! not find is removed at its end. More than [`KvStoreConfig::memory_bytes_max`]: it stops where it is, is never ready, and the
//! process lives. A value that can't be decoded is no value: its key is quarantined and counted.

mod contents;
mod follow;
mod loading;
mod observe;
mod progress;
mod watch;

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    sync::{Arc, RwLock, RwLockReadGuard, mpsc},
};

use bytes::Bytes;
use rdkafka::error::KafkaError;
use tokio::sync::{broadcast, oneshot, watch as state};

use contents::Contents;
use follow::{Follower, Order};
pub use progress::{Progress, State};
pub use watch::{Watch, Watched};

/// Next offsets by partition: everything below them is contained.
pub type Position = BTreeMap<i32, i64>;

/// Why a value can't be decoded, in words for an operator.
pub type DecodeError = Box<dyn Error + Send + Sync>;

/// What a store follows, and its limits.
#[derive(Debug, Clone)]
pub struct KvStoreConfig {
    /// The compacted topic. It may be created later; until then the store waits.
    pub topic: String,
    /// The name of a group for the brokers' access rules and the client's needs. It is never joined.
    pub group: String,
    /// Estimated bytes of keys, values and what an entry costs beside them; beyond it the store refuses to be ready.
    pub memory_bytes_max: usize,
    /// Updates that a watcher may be behind before it misses some.
    pub watch_backlog_max: usize,
}

impl KvStoreConfig {
    /// With a gigabyte and a thousand updates.
    pub fn new(topic: &str, group: &str) -> Self {
        let (memory_bytes_max, watch_backlog_max) = (1 << 30, 1024);
        Self { topic: topic.to_owned(), group: group.to_owned(), memory_bytes_max, watch_backlog_max }
    }
}

/// Why there is no store, or none that will be ready.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KvStoreError {
    /// The client refuses its settings.
    #[error("the Kafka client refuses its settings for the store of topic {topic}: {error}")]
    Settings {
        /// The topic.
        topic: String,
        /// Why.
        error: KafkaError,
    },
    /// The thread can't be started.
    #[error("the thread of the store of topic {topic} can't be started: {error}")]
    Thread {
        /// The topic.
        topic: String,
        /// Why.
        error: Arc<std::io::Error>,
    },
    /// The memory is used up; a restart with more of it is the way out.
    #[error("the store of topic {topic} needs more than its {memory_bytes_max} bytes of memory")]
    Full {
        /// The topic.
        topic: String,
        /// The limit.
        memory_bytes_max: usize,
    },
    /// Its thread has ended.
    #[error("the store of topic {topic} has stopped")]
    Stopped {
        /// The topic.
        topic: String,
    },
}

/// A change of one key, as watchers get it.
#[derive(Debug)]
pub struct Update<V> {
    /// The record's key.
    pub key: Bytes,
    /// The new value; `None` when the key is gone, or its value can't be read.
    pub value: Option<Arc<V>>,
    /// The record's partition.
    pub partition: i32,
    /// The record's offset; of a key that a new load did not find, the offset of its last value.
    pub offset: i64,
}

impl<V> Clone for Update<V> {
    fn clone(&self) -> Self {
        Self { key: self.key.clone(), value: self.value.clone(), ..*self }
    }
}

/// A value that can't be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// The record's key.
    pub key: Bytes,
    /// Where the record lies.
    pub partition: i32,
    /// Where the record lies.
    pub offset: i64,
    /// What the decoder said.
    pub reason: String,
}

/// The topic's values by key. All clones are the same store; the last one to go stops its thread.
pub struct KvStore<V> {
    inner: Arc<Inner<V>>,
}

impl<V> Clone for KvStore<V> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<V> {
    topic: String,
    contents: Arc<RwLock<Contents<V>>>,
    progress: state::Receiver<Progress>,
    applied: state::Receiver<()>,
    /// The thread ends when this is gone.
    orders: mpsc::Sender<Order>,
}

impl<V: Send + Sync + 'static> KvStore<V> {
    /// Starts the thread that follows the topic; returns at once. `decode` makes a value of a record's bytes.
    pub fn start(
        settings: &HashMap<String, String>,
        config: KvStoreConfig,
        decode: impl Fn(&[u8]) -> Result<V, DecodeError> + Send + 'static,
    ) -> Result<Self, KvStoreError> {
        let (updates, _) = broadcast::channel(config.watch_backlog_max.max(1));
        let contents = Arc::new(RwLock::new(Contents::new(updates)));
        let (tell_progress, progress) = state::channel(Progress::default());
        let (tell_applied, applied) = state::channel(());
        let (orders, received) = mpsc::channel();
        let topic = config.topic.clone();
        let told = follow::Told { contents: Arc::clone(&contents), progress: tell_progress, applied: tell_applied };
        let follower = Follower::new(settings, config, told, received)
            .map_err(|error| KvStoreError::Settings { topic: topic.clone(), error })?;
        std::thread::Builder::new()
            .name("kv-store".to_owned())
            .spawn(move || follower.run(decode))
            .map_err(|error| KvStoreError::Thread { topic: topic.clone(), error: Arc::new(error) })?;
        Ok(Self { inner: Arc::new(Inner { topic, contents, progress, applied, orders }) })
    }

    /// Waits until everything is contained that the log held when the load began. At once when that is so already.
    ///
    /// Errors: the memory is used up, or the thread has died. While the brokers are away or the topic is missing it waits.
    pub async fn caught_up(&self) -> Result<(), KvStoreError> {
        let mut progress = self.inner.progress.clone();
        let settled = progress.wait_for(|progress| matches!(progress.state, State::Ready | State::Full)).await;
        let topic = self.inner.topic.clone();
        match settled.map(|progress| (progress.state, progress.memory_bytes_max)) {
            Ok((State::Full, memory_bytes_max)) => Err(KvStoreError::Full { topic, memory_bytes_max }),
            Ok(_) => Ok(()),
            Err(_) => Err(KvStoreError::Stopped { topic }),
        }
    }

    /// How far the load is, and what holds it up.
    pub fn progress(&self) -> Progress {
        self.inner.progress.borrow().clone()
    }

    /// The progress as it changes: for a condition of `/readyz`, or a line on a screen.
    pub fn watch_progress(&self) -> state::Receiver<Progress> {
        self.inner.progress.clone()
    }

    /// The value of a key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<Arc<V>> {
        self.read().get(key)
    }

    /// The keys that begin with a prefix, in order, with their values.
    pub fn scan(&self, prefix: impl AsRef<[u8]>) -> Vec<(Bytes, Arc<V>)> {
        self.read().scan(prefix)
    }

    /// Several reads of one moment, with the position that they are of. Updates wait while it is held: keep it short.
    pub fn read(&self) -> Reading<'_, V> {
        // Under the lock are insertions and removals only; the decoder runs outside, so a panic can't leave it half done.
        Reading(self.inner.contents.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// The values of a prefix, and every update of it from then on: none is missed between the two, and none is in both.
    pub fn watch(&self, prefix: impl AsRef<[u8]>) -> (Vec<(Bytes, Arc<V>)>, Watch<V>) {
        let reading = self.read();
        (reading.scan(prefix.as_ref()), Watch::new(prefix.as_ref(), reading.0.subscribe()))
    }

    /// Waits until the store contains everything below a position: what another has written is seen then.
    pub async fn reached(&self, position: &Position) -> Result<(), KvStoreError> {
        let mut applied = self.inner.applied.clone();
        let reached = |contents: &Contents<V>| {
            position.iter().all(|(partition, offset)| contents.position().get(partition).is_some_and(|at| at >= offset))
        };
        loop {
            applied.borrow_and_update();
            if reached(&self.read().0) {
                return Ok(());
            }
            applied.changed().await.map_err(|_| KvStoreError::Stopped { topic: self.inner.topic.clone() })?;
        }
    }

    /// Waits until everything is contained that the topic holds now: what was committed before this call is seen after it.
    pub async fn contains_now(&self) -> Result<(), KvStoreError> {
        self.caught_up().await?;
        let partitions: Vec<i32> = self.read().position().into_keys().collect();
        let ends: Vec<_> = partitions.into_iter().map(|partition| self.end_of(partition)).collect();
        for end in ends {
            end.await.map_err(|_| KvStoreError::Stopped { topic: self.inner.topic.clone() })?;
        }
        Ok(())
    }

    /// The keys whose newest value can't be read; the first thousand of them.
    pub fn quarantined(&self) -> Vec<Quarantined> {
        self.read().0.quarantine().cloned().collect()
    }

    /// Answers when everything is contained that the partition's log holds now.
    pub(crate) fn end_of(&self, partition: i32) -> oneshot::Receiver<()> {
        let (reply, answer) = oneshot::channel();
        // Without the thread the reply is dropped, which its receiver sees.
        let _ = self.inner.orders.send(Order { partition, reply });
        answer
    }
}

/// The store at one moment.
pub struct Reading<'a, V>(RwLockReadGuard<'a, Contents<V>>);

impl<V> Reading<'_, V> {
    /// The value of a key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<Arc<V>> {
        self.0.get(key.as_ref()).map(Arc::clone)
    }

    /// The keys that begin with a prefix, in order, with their values.
    pub fn scan(&self, prefix: impl AsRef<[u8]>) -> Vec<(Bytes, Arc<V>)> {
        self.0.scan(prefix.as_ref()).map(|(key, value)| (key.clone(), Arc::clone(value))).collect()
    }

    /// Everything below it is contained, and nothing else.
    pub fn position(&self) -> Position {
        self.0.position().clone()
    }

    /// Why the newest value of a key can't be read, if that is so.
    pub fn quarantined(&self, key: impl AsRef<[u8]>) -> Option<Quarantined> {
        self.0.quarantined(key.as_ref()).cloned()
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Decodes JSON, for [`KvStore::start`].
pub fn json<V: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<V, DecodeError> {
    Ok(serde_json::from_slice(bytes)?)
}
