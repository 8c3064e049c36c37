//! What the group gives and takes. Rebalances arrive inside `poll`, so nothing here waits.

use std::sync::{Mutex, PoisonError};

use rdkafka::{
    ClientContext, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaResult,
    types::RDKafkaRespErr,
};

/// A change of what this member has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// To be fetched once their offsets are settled.
    Given(Vec<(String, i32)>),
    Taken(Vec<(String, i32)>),
}

/// The consumer's context: answers the group at once and notes what changed.
#[derive(Debug, Default)]
pub(super) struct Membership(Mutex<Vec<Change>>);

impl Membership {
    /// What changed since the last call, in order.
    pub(super) fn take_changes(&self) -> Vec<Change> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, change: Change) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(change);
    }
}

impl ClientContext for Membership {}

impl ConsumerContext for Membership {
    /// Acknowledges an assignment without fetching anything: first the offsets of a predecessor's transaction have to be
    /// settled, which takes the brokers, and a callback never waits for them. The partitions are added later, with their
    /// offsets, by `incremental_assign`, which librdkafka takes at any time under the cooperative protocol (rdkafka_cgrp.c,
    /// `rd_kafka_cgrp_incremental_assign`).
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let listed: Vec<(String, i32)> =
            partitions.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect();
        let answered = match err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                tracing::info!(partitions = ?listed, "partitions given");
                self.note(Change::Given(listed));
                consumer.incremental_assign(&TopicPartitionList::new())
            }
            _ => {
                tracing::info!(partitions = ?listed, "partitions taken");
                self.note(Change::Taken(listed));
                release(consumer, partitions)
            }
        };
        if let Err(error) = answered {
            tracing::error!(error = %error, "the client refused to answer a rebalance");
        }
    }
}

/// Stops fetching those of the taken partitions that are fetched; some may not have been settled yet.
fn release(consumer: &BaseConsumer<Membership>, taken: &TopicPartitionList) -> KafkaResult<()> {
    let assigned = consumer.assignment()?;
    let mut fetched = TopicPartitionList::new();
    for element in taken.elements() {
        if assigned.find_partition(element.topic(), element.partition()).is_some() {
            fetched.add_partition(element.topic(), element.partition());
        }
    }
    consumer.incremental_unassign(&fetched)
}
