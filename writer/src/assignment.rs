//! What the group gives and takes. Rebalances arrive inside `poll`, so nothing here waits.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rdkafka::{
    ClientContext, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaResult,
    types::RDKafkaRespErr,
};

use crate::{batch::Tenure, observe::Metrics};

/// The consumer, shared with what asks the broker for the ends of partitions.
pub type TopicConsumer = BaseConsumer<Assignment>;

/// A change of the group's assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rebalance {
    /// These partitions are this member's; they are fetched once their positions are claimed.
    Assigned(Vec<i32>),
    /// These are no longer; their tenures have ended already.
    Revoked(Vec<i32>),
}

/// The consumer's context: answers the group at once and notes what changed.
pub struct Assignment {
    metrics: Metrics,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    rebalances: Vec<Rebalance>,
    assigned: BTreeSet<i32>,
    tenures: HashMap<i32, Arc<Tenure>>,
}

impl Assignment {
    /// An empty assignment.
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, inner: Mutex::default() }
    }

    /// What changed since the last call, in order.
    pub fn take_rebalances(&self) -> Vec<Rebalance> {
        std::mem::take(&mut self.inner().rebalances)
    }

    /// Notes a tenure, so that a revocation can end it at once.
    pub fn begin(&self, tenure: &Arc<Tenure>) {
        self.inner().tenures.insert(tenure.partition, Arc::clone(tenure));
    }

    /// Ends the tenure of a partition.
    pub fn end(&self, partition: i32) {
        if let Some(tenure) = self.inner().tenures.remove(&partition) {
            tenure.end();
        }
    }

    /// The partitions that the group gives, those that stand among them.
    pub fn partitions(&self) -> Vec<i32> {
        self.inner().assigned.iter().copied().collect()
    }

    fn assign(&self, partitions: Vec<i32>) {
        let mut inner = self.inner();
        inner.assigned.extend(&partitions);
        inner.rebalances.push(Rebalance::Assigned(partitions));
    }

    fn revoke(&self, partitions: Vec<i32>) {
        partitions.iter().for_each(|partition| self.end(*partition));
        let mut inner = self.inner();
        inner.assigned.retain(|partition| !partitions.contains(partition));
        inner.rebalances.push(Rebalance::Revoked(partitions));
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Each change is one insertion or removal, so a panic elsewhere leaves the lists whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Assignment {}

impl ConsumerContext for Assignment {
    /// Acknowledges an assignment without fetching anything: positions must be claimed first, which takes a database, and a
    /// rebalance callback never waits for one. The claimed partitions are added later, with their offsets, by
    /// `incremental_assign`, which librdkafka takes at any time under the cooperative protocol (rdkafka_cgrp.c,
    /// `rd_kafka_cgrp_incremental_assign`); the eager one refuses it. A seek after an assignment would not be reliable.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let listed: Vec<i32> = partitions.elements().iter().map(|element| element.partition()).collect();
        self.metrics.rebalance();
        let answered = match err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                tracing::info!(partitions = ?listed, "partitions assigned");
                self.assign(listed);
                consumer.incremental_assign(&TopicPartitionList::new())
            }
            _ => {
                tracing::info!(partitions = ?listed, "partitions revoked");
                self.revoke(listed);
                release(consumer, partitions)
            }
        };
        if let Err(error) = answered {
            tracing::error!(error = %error, "the client refused to answer a rebalance");
        }
    }
}

/// Stops fetching those of the revoked partitions that are fetched; some may not have been claimed yet.
fn release(consumer: &BaseConsumer<Assignment>, revoked: &TopicPartitionList) -> KafkaResult<()> {
    let assigned = consumer.assignment()?;
    let mut fetched = TopicPartitionList::new();
    for element in revoked.elements() {
        if assigned.find_partition(element.topic(), element.partition()).is_some() {
            fetched.add_partition(element.topic(), element.partition());
        }
    }
    consumer.incremental_unassign(&fetched)
}
