//! From what the group gave to what is fetched: the offset first, settled; then the work's consent; then the assignment.

use std::time::{Duration, Instant};

use rdkafka::{Offset, TopicPartitionList, consumer::Consumer, error::KafkaResult};

use super::Exchange;
use crate::transaction::{TransactionError, record::TopicPartition, work::Work};

/// How long the coordinator may take to tell offsets; while a predecessor's transaction is open it does not.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Pause before it is asked again.
const RETRY: Duration = Duration::from_millis(300);

/// A partition on its way.
#[derive(Debug, Clone, Copy)]
pub(super) enum Placing {
    /// The coordinator is to be asked for its offset from this moment on.
    Asks(Instant),
    /// It goes on from here, once the work admits it.
    Settled(Offset),
}

impl Placing {
    pub(super) fn new() -> Self {
        Self::Asks(Instant::now())
    }
}

impl<W: Work> Exchange<W> {
    /// Moves given partitions on.
    pub(super) fn place(&mut self) -> Result<(), TransactionError> {
        if self.placing.is_empty() {
            return Ok(());
        }
        let due = |placing: &Placing| matches!(placing, Placing::Asks(at) if *at <= Instant::now());
        let due: Vec<TopicPartition> =
            self.placing.iter().filter(|(_, placing)| due(placing)).map(|(given, _)| given.clone()).collect();
        if !due.is_empty() {
            self.settle(&due);
        }
        let mut admitted = TopicPartitionList::new();
        for (given, placing) in &self.placing {
            if let Placing::Settled(offset) = placing
                && self.work.admits(given)?
            {
                let added = admitted.add_partition_offset(&given.topic, given.partition, *offset);
                added.map_err(|error| self.fatal("naming offsets", error))?;
            }
        }
        self.fetch(&admitted);
        Ok(())
    }

    /// Asks for the offsets of the group. `read_committed` makes it a request for stable ones: the answer comes when no
    /// transaction is open that would move them.
    fn settle(&mut self, due: &[TopicPartition]) {
        let told = self.ask(due);
        for given in due {
            let placing = match &told {
                Ok(told) => told.find_partition(&given.topic, given.partition).map(|element| element.offset()),
                Err(_) => None,
            };
            let placing = match placing {
                Some(Offset::Offset(offset)) => Placing::Settled(Offset::Offset(offset)),
                // A group that has committed nothing begins at the log's start.
                Some(_) => Placing::Settled(Offset::Beginning),
                None => Placing::Asks(Instant::now() + RETRY),
            };
            self.placing.insert(given.clone(), placing);
        }
        if let Err(error) = told {
            tracing::debug!(error = %error, "the offsets of given partitions are not settled yet");
        }
    }

    fn ask(&self, due: &[TopicPartition]) -> KafkaResult<TopicPartitionList> {
        let mut asked = TopicPartitionList::new();
        for given in due {
            asked.add_partition(&given.topic, given.partition);
        }
        let told = self.consumer.committed_offsets(asked, ANSWER_MAX)?;
        told.elements().iter().try_for_each(|element| element.error())?;
        Ok(told)
    }

    fn fetch(&mut self, admitted: &TopicPartitionList) {
        if admitted.count() == 0 {
            return;
        }
        if let Err(error) = self.consumer.incremental_assign(admitted) {
            // As when a revocation is under way, which the next poll tells.
            tracing::warn!(error = %error, "given partitions could not be assigned; they are asked for again");
            return;
        }
        for element in admitted.elements() {
            let topic = self.batch.name(element.topic());
            self.placing.remove(&TopicPartition { topic, partition: element.partition() });
        }
    }
}
