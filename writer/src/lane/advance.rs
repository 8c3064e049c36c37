//! Positions that move without a batch: `as_of` of partitions that have reached the end of the log.

use std::sync::Arc;

use super::Lane;
use crate::{
    batch::Part,
    ends::Sample,
    error::{Disposition, StoreError},
    store::{NextPosition, TRANSACTION_MAX},
};

impl Lane {
    /// Moves `as_of` of partitions that have reached the newest ends, and tells their lag. What fails here is done with the
    /// next sample.
    pub(super) async fn advance_as_of(&mut self) {
        let sample = self.take_sample();
        self.positions.retain(|_, position| !position.tenure.has_ended());
        if !sample.ends.is_empty() {
            let parts: Vec<Part> = self.positions.values().map(NextPosition::as_part).collect();
            self.let_go_of_another_topic(&parts, sample.topic_id.as_ref());
        }
        let mut advanced = Vec::new();
        for (partition, position) in &self.positions {
            if let Some(ends) = sample.ends.get(partition) {
                self.shared.metrics.lag(*partition, ends.high - position.next_offset);
            }
            let as_of = self.samples.as_of(*partition, position.next_offset);
            if as_of > position.as_of {
                advanced.push(NextPosition { as_of, ..position.clone() });
            }
        }
        advanced.sort_by_key(|position| position.tenure.partition);
        if !advanced.is_empty() {
            self.try_save(advanced).await;
        }
        let positions = self.positions.iter().map(|(partition, position)| (*partition, position.next_offset)).collect();
        self.samples.forget_reached(&positions);
    }

    pub(super) fn take_sample(&mut self) -> Arc<Sample> {
        let sample = Arc::clone(&self.newest_sample.borrow_and_update());
        self.samples.push(Arc::clone(&sample));
        sample
    }

    async fn try_save(&mut self, positions: Vec<NextPosition>) {
        let parts: Vec<Part> = positions.iter().map(NextPosition::as_part).collect();
        match self.save(positions).await {
            Ok(()) => self.shared.standing.database_answers(),
            Err(error) => {
                self.store.disconnect();
                match error.disposition() {
                    Disposition::LetGo => self.let_go(&error, &parts),
                    Disposition::Retry | Disposition::Reject => self.shared.standing.database_fails(&error),
                }
            }
        }
    }

    /// Writes positions that have no batch. Where the stored one is another, somebody has moved it, and the claim is over.
    pub(super) async fn save(&mut self, positions: Vec<NextPosition>) -> Result<(), StoreError> {
        let tenures: Vec<_> = positions.iter().map(|position| Arc::clone(&position.tenure)).collect();
        let saving = async {
            let mut transaction = self.store.begin().await?;
            let stored = transaction.lock_positions(&tenures).await?;
            let is_moved = |p: &&NextPosition| stored[&p.tenure.partition] != p.next_offset;
            let moved: Vec<i32> = positions.iter().filter(is_moved).map(|p| p.tenure.partition).collect();
            if !moved.is_empty() {
                return Err(StoreError::ClaimsOver(moved));
            }
            transaction.advance(&positions).await?;
            transaction.commit().await
        };
        tokio::time::timeout(TRANSACTION_MAX, saving).await.unwrap_or(Err(StoreError::TimedOut(TRANSACTION_MAX)))?;
        for position in positions.into_iter().filter(|position| position.blocked.is_none()) {
            self.positions.insert(position.tenure.partition, position);
        }
        Ok(())
    }
}
