//! What operators see of a running writer: the conditions of `/readyz`, and which partitions stand.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use rdkafka::error::KafkaError;
use shared::admin::{Condition, Readiness};

use crate::{
    error::StoreError,
    observe::Metrics,
    rejection::Rejection,
    store::{Blocked, BlockedState},
};

/// The writer's conditions. Having partitions is none of them: a standby is ready.
#[derive(Debug)]
pub struct Standing {
    metrics: Metrics,
    kafka: Condition,
    database: Condition,
    partitions: Condition,
    accepting: Condition,
    blocked: Mutex<BTreeMap<i32, String>>,
}

impl Standing {
    /// Adds the conditions.
    pub fn new(readiness: &Readiness, metrics: Metrics) -> Self {
        let condition = |name: &str| readiness.condition(name);
        let (kafka, database, partitions) = (condition("kafka"), condition("database"), condition("partitions"));
        partitions.set(true, "none is blocked");
        let accepting = condition("accepting");
        accepting.set(true, "not draining");
        Self { metrics, kafka, database, partitions, accepting, blocked: Mutex::default() }
    }

    /// The metrics of the writer's topic.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// A generation is being fed, from the start or after a move.
    pub fn feeding(&self) {
        self.accepting.set(true, "not draining");
    }

    /// SIGTERM has come: what is in hand is finished, nothing more is taken.
    pub fn draining(&self) {
        self.accepting.set(false, "draining");
    }

    /// The topic is there and its broker answers, or not.
    pub fn kafka(&self, reachable: Result<(), String>) {
        match reachable {
            Ok(()) => self.kafka.set(true, "the topic's brokers answer"),
            Err(why) => self.kafka.set(false, why),
        }
    }

    /// The newest heartbeat of the source, where heartbeats are followed and one has come.
    pub fn heartbeat(&self, at: Option<Timestamp>) {
        if let Some(at) = at {
            let age = Timestamp::now().duration_since(at);
            self.metrics.heartbeat_age(Duration::try_from(age).unwrap_or_default());
        }
    }

    /// An error that the client recovers from by itself.
    pub fn client_error(&self, error: KafkaError) {
        tracing::warn!(error = %error, "kafka client");
    }

    /// Postgres took what it was given.
    pub fn database_answers(&self) {
        if !self.database.holds() {
            self.database.set(true, "the view's primary takes writes");
        }
    }

    /// Postgres did not; the caller waits and tries again.
    pub fn database_fails(&self, error: &StoreError) {
        self.metrics.store_retry();
        self.database.set(false, error.to_string());
    }

    /// The group gave partitions.
    pub fn assigned(&self, count: usize) {
        tracing::debug!(count, "claiming positions");
    }

    /// A partition stands at a record that cannot be applied.
    pub fn rejected(&self, topic: &str, partition: i32, offset: i64, rejection: &Rejection) {
        let (reason, detail) = (rejection.reason, &rejection.detail);
        tracing::error!(topic, partition, offset, %reason, detail, "partition blocked: the record cannot be applied");
        self.blocked(partition, format!("partition {partition} at offset {offset}: {rejection}"));
    }

    /// A claim found that the partition stands.
    pub fn stands(&self, topic: &str, partition: i32, blocked: &Blocked) {
        let (state, offset, reason) = (blocked.state.as_str(), blocked.offset, &blocked.reason);
        tracing::error!(topic, partition, offset, state, reason, "partition stands until an operator moves it");
        self.blocked(partition, format!("partition {partition} at offset {offset}: {state}: {reason}"));
    }

    /// The brake has stopped a partition, now or before it was claimed.
    pub fn braked(&self, topic: &str, partition: i32, offset: i64, why: &str) {
        tracing::error!(topic, partition, offset, why, "partition braked: too many dead letters");
        self.blocked(
            partition,
            format!("partition {partition} at offset {offset}: {}: {why}", BlockedState::Braked.as_str()),
        );
    }

    /// A partition waits until its dead letter can be written; `first` when it did not wait before.
    pub fn awaits_dead_letter(&self, topic: &str, partition: i32, offset: i64, why: &str, first: bool) {
        self.metrics.dead_letter_failure();
        if first {
            tracing::error!(topic, partition, offset, why, "partition waits: its dead letter cannot be written");
        }
        self.blocked(partition, format!("partition {partition} at offset {offset}: {why}"));
    }

    /// A partition's dead letters are written again.
    pub fn dead_letters_written(&self, topic: &str, partition: i32) {
        tracing::info!(topic, partition, "partition goes on: its dead letters are written");
        self.gone(partition);
    }

    /// A partition went to another member, or is claimed anew.
    pub fn gone(&self, partition: i32) {
        let mut blocked = self.lock();
        // Always, so that the series is there before it is 1 for the first time.
        self.metrics.blocked(partition, false);
        if blocked.remove(&partition).is_some() {
            self.tell(&blocked);
        }
    }

    fn blocked(&self, partition: i32, why: String) {
        let mut blocked = self.lock();
        blocked.insert(partition, why);
        self.metrics.blocked(partition, true);
        self.tell(&blocked);
    }

    fn tell(&self, blocked: &BTreeMap<i32, String>) {
        match blocked.is_empty() {
            true => self.partitions.set(true, "none is blocked"),
            false => self.partitions.set(false, blocked.values().cloned().collect::<Vec<_>>().join("; ")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, String>> {
        // Each change is one insertion or removal, so a panic elsewhere leaves the map whole.
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
