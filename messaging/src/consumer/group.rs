//! What the group gives and takes. Rebalances arrive inside `poll`, so nothing here waits: a partition that is asked back is
//! given back later, by the loop, when what is in hand of it is done.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use rdkafka::{
    ClientContext, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaResult,
    types::RDKafkaRespErr,
};

/// A topic and a partition of it.
pub(super) type TopicPartition = (Arc<str>, i32);

/// A change of the assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rebalance {
    /// These are this member's; they are fetched once it is known from where.
    Assigned(Vec<TopicPartition>),
    /// These are asked back; the group waits until they are given.
    Revoking(Vec<TopicPartition>),
    /// These belong to others already.
    Lost(Vec<TopicPartition>),
}

/// The consumer's context.
#[derive(Default)]
pub(super) struct Group {
    rebalances: Mutex<Vec<Rebalance>>,
    /// The consumer is being closed: nobody will answer later.
    closing: AtomicBool,
    commit_failed: AtomicBool,
}

impl Group {
    /// What changed since the last call, in order.
    pub(super) fn take(&self) -> Vec<Rebalance> {
        std::mem::take(&mut *self.rebalances.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on partitions are given back at once.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    /// Whether a commit has failed since the last call.
    pub(super) fn take_commit_failure(&self) -> bool {
        self.commit_failed.swap(false, Ordering::Relaxed)
    }

    fn note(&self, rebalance: Rebalance) {
        self.rebalances.lock().unwrap_or_else(PoisonError::into_inner).push(rebalance);
    }
}

impl ClientContext for Group {}

impl ConsumerContext for Group {
    /// Answers an assignment with nothing: partitions join one by one, when it is known where they continue (a seek after an
    /// assignment would not be reliable). The cooperative protocol allows that.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let listed = partitions.elements();
        let listed: Vec<TopicPartition> = listed.iter().map(|of| (of.topic().into(), of.partition())).collect();
        let answered = match err {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                tracing::info!(partitions = ?listed, "partitions assigned");
                self.note(Rebalance::Assigned(listed));
                consumer.incremental_assign(&TopicPartitionList::new())
            }
            _ if consumer.assignment_lost() || self.closing.load(Ordering::Relaxed) => {
                tracing::info!(partitions = ?listed, "partitions lost");
                self.note(Rebalance::Lost(listed.clone()));
                give_back(consumer, &listed)
            }
            _ => {
                tracing::info!(partitions = ?listed, "partitions asked back");
                self.note(Rebalance::Revoking(listed));
                Ok(())
            }
        };
        if let Err(error) = answered {
            tracing::error!(error = %error, "the client refused to answer a rebalance");
        }
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            self.commit_failed.store(true, Ordering::Relaxed);
            tracing::warn!(error = %error, "offsets were not committed; they are with the next commit");
        }
    }
}

/// Answers a revocation: stops fetching those that are fetched. Some may not have been yet.
pub(super) fn give_back(consumer: &impl Consumer<Group>, revoked: &[TopicPartition]) -> KafkaResult<()> {
    consumer.incremental_unassign(&fetched(&consumer.assignment()?, revoked))
}

/// Those of the partitions that are fetched.
fn fetched(assigned: &TopicPartitionList, revoked: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in revoked {
        if assigned.find_partition(topic, *partition).is_some() {
            list.add_partition(topic, *partition);
        }
    }
    list
}
