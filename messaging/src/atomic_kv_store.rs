//! Values by key, changed by commands, exactly once (pattern 6).
//!
//! **Flow.** Senders write commands to a topic; their key is the key of the value. The members of a group share its partitions.
//! For each command a member calls `apply` with the value that the key has, and commits in one Kafka transaction: the new
//! value to a compacted store topic, `apply`'s outputs, and the command's offset. Every instance follows the store topic
//! ([`KvStore`]), so any of them answers queries by key.
//!
//! **Order.** Commands of a key are applied strictly one after another, each on the value that the one before left: they lie in
//! one partition, a partition has one owner, and a new owner first loads everything that its predecessor committed. The
//! value of a key lies in the store's partition of the same number, so both topics have the same number of them.
//!
//! **Duplication.** A command in the topic is applied exactly once. Who sends it twice has two commands: let `apply` see that by
//! the value (a set of what is done, not a count; correctness 19). `apply` may be called again with the same command after an
//! abort or a crash, and must be pure. [`AtomicKvStore::follow_updates`] calls back at least once for each new value, with an id
//! that repeats when the call does.
//!
//! **Durability.** As the transaction's: value, outputs and offset are on all in-sync replicas, or none of them. Queries see a
//! value soon after its commit, and never one that was not committed.
//!
//! **A crash**
//! - *before the commit was asked for*: the command is applied anew, by this member's next process or by the next owner.
//! - *while it is under way*: the next owner waits until it is decided, by asking for stable offsets; then it loads the store's
//!   partition to its end, the decided transaction included.
//! - *after it, before the callback*: the callback's own group has not committed the update's offset; it is called then.
//! - *in the callback*: it is called again, with the same id.
//!
//! **What stops it.** A stored value that can't be decoded: `apply` is never called on a guess, the loop ends with an error.
//! A store topic with fewer partitions than the commands. A command without a key changes nothing, is counted and logged.

mod apply;
mod observe;
mod overlay;
mod updates;

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;

pub use updates::{StoredUpdate, UpdatesError};

use crate::{
    kv_store::{self, KvStore, KvStoreConfig, KvStoreError},
    transaction::{self, Output, Record, TransactionConfig, TransactionError},
};

/// Which topics, who takes part, and the limits.
#[derive(Debug, Clone)]
pub struct AtomicKvStoreConfig {
    /// Commands; their key is the value's.
    pub commands_topic: String,
    /// Values: compacted, with as many partitions as the commands.
    pub store_topic: String,
    /// Group that shares the commands. The callbacks' group is this one with `-updates` behind it.
    pub group: String,
    /// Name of this instance, the same after each restart and no other's.
    pub member: String,
    /// See [`TransactionConfig::batch_records_max`].
    pub batch_records_max: usize,
    /// See [`TransactionConfig::transaction_timeout`]; so long a new owner may have to wait for a frozen one.
    pub transaction_timeout: Duration,
    /// See [`KvStoreConfig::memory_bytes_max`].
    pub memory_bytes_max: usize,
}

impl AtomicKvStoreConfig {
    /// With the limits of [`TransactionConfig::new`] and [`KvStoreConfig::new`].
    pub fn new(commands_topic: &str, store_topic: &str, group: &str, member: &str) -> Self {
        let transaction = TransactionConfig::new(&[commands_topic], group, member);
        Self {
            commands_topic: commands_topic.to_owned(),
            store_topic: store_topic.to_owned(),
            group: group.to_owned(),
            member: member.to_owned(),
            batch_records_max: transaction.batch_records_max,
            transaction_timeout: transaction.transaction_timeout,
            memory_bytes_max: KvStoreConfig::new(store_topic, group).memory_bytes_max,
        }
    }
}

/// What a command does: to the value of its key, and beside it.
#[derive(Debug)]
pub struct Decision<V> {
    change: Change<V>,
    outputs: Vec<Output>,
}

#[derive(Debug)]
enum Change<V> {
    Keep,
    Put(V),
    Remove,
}

impl<V> Decision<V> {
    /// The value stays as it is: no update, no callback.
    pub fn keep() -> Self {
        Self { change: Change::Keep, outputs: Vec::new() }
    }

    /// The key has this value now.
    pub fn put(value: V) -> Self {
        Self { change: Change::Put(value), outputs: Vec::new() }
    }

    /// The key has no value any more.
    pub fn remove() -> Self {
        Self { change: Change::Remove, outputs: Vec::new() }
    }

    /// Also produces this record, in the same transaction.
    pub fn output(mut self, output: Output) -> Self {
        self.outputs.push(output);
        self
    }
}

/// Why there is no store.
#[derive(Debug, thiserror::Error)]
pub enum AtomicKvStoreError {
    /// The store topic can't be followed.
    #[error(transparent)]
    Store(#[from] KvStoreError),
}

/// One instance. All clones are the same.
pub struct AtomicKvStore<V> {
    settings: Arc<HashMap<String, String>>,
    config: Arc<AtomicKvStoreConfig>,
    store: KvStore<V>,
}

impl<V> Clone for AtomicKvStore<V> {
    fn clone(&self) -> Self {
        Self { settings: Arc::clone(&self.settings), config: Arc::clone(&self.config), store: self.store.clone() }
    }
}

impl<V: Serialize + DeserializeOwned + Send + Sync + 'static> AtomicKvStore<V> {
    /// Starts to follow the store topic, whose values are JSON. Commands are applied by [`Self::run`]; an instance that only
    /// answers queries does without it.
    pub fn start(settings: &HashMap<String, String>, config: AtomicKvStoreConfig) -> Result<Self, AtomicKvStoreError> {
        let memory_bytes_max = config.memory_bytes_max;
        let follow = KvStoreConfig { memory_bytes_max, ..KvStoreConfig::new(&config.store_topic, &config.group) };
        let store = KvStore::start(settings, follow, kv_store::json::<V>)?;
        Ok(Self { settings: Arc::new(settings.clone()), config: Arc::new(config), store })
    }

    /// The values, for queries: what is committed, a moment behind.
    pub fn store(&self) -> &KvStore<V> {
        &self.store
    }

    /// Applies commands until shutdown, as one of the group. `apply` gets a command and the value of its key, and must be pure.
    ///
    /// Errors: fatal ones alone; the process should end.
    pub fn run(
        &self,
        apply: impl FnMut(&Record, Option<&V>) -> Decision<V> + Send + 'static,
        shutdown: CancellationToken,
    ) -> impl Future<Output = Result<(), TransactionError>> + Send + 'static {
        let (settings, own) = (Arc::clone(&self.settings), Arc::clone(&self.config));
        let work = apply::Apply::new(&own, self.store.clone(), apply);
        let config = TransactionConfig {
            batch_records_max: own.batch_records_max,
            transaction_timeout: own.transaction_timeout,
            ..TransactionConfig::new(&[&own.commands_topic], &own.group, &own.member)
        };
        async move { transaction::run_work(&settings, config, work, shutdown).await }
    }

    /// Calls back for each new value until shutdown, at least once, after its commit; the instances share this work by
    /// partition. Updates of a key come in order; of a key that changes faster than it is called back, compaction may leave the
    /// later ones only. An error of the callback is retried with backoff, and holds up the updates behind it.
    ///
    /// Errors: fatal ones of the client; the process should end.
    pub fn follow_updates<F, E>(
        &self,
        on_update: impl FnMut(StoredUpdate<V>) -> F + Send + 'static,
        shutdown: CancellationToken,
    ) -> impl Future<Output = Result<(), UpdatesError>> + Send + 'static
    where
        F: Future<Output = Result<(), E>> + Send,
        E: std::fmt::Display + Send,
    {
        let (settings, config) = (Arc::clone(&self.settings), Arc::clone(&self.config));
        async move { updates::follow(&settings, &config, on_update, shutdown).await }
    }
}
