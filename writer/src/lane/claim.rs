//! Taking partitions over: their positions decide where to go on.

use std::{collections::HashMap, sync::Arc};

use super::{Lane, LaneEvent, RECLAIM_AFTER, pauses};
use crate::{
    batch::Tenure,
    ends::{self, Ends},
    error::StoreError,
    store::{Blocked, BlockedState, Claim, NextPosition},
};

impl Lane {
    /// Tries until the partitions are taken. A claim of a partition that was revoked meanwhile does no harm: its new owner
    /// finds its own claim over and takes it again.
    pub(super) async fn claim(&mut self, partitions: Vec<i32>) {
        let mut pauses = pauses();
        loop {
            match self.try_claim(&partitions).await {
                Ok(()) => break,
                Err(error) => self.pause(&error, pauses.next()).await,
            }
        }
        self.tell(LaneEvent::ClaimsDone { lane: self.number });
    }

    async fn try_claim(&mut self, partitions: &[i32]) -> Result<(), StoreError> {
        let ends = self.ends_of(partitions).await;
        let starts: Vec<_> = partitions.iter().map(|p| (*p, ends.get(p).map(|ends| ends.low))).collect();
        let mut transaction = self.store.begin().await?;
        let claims = transaction.claim(&starts).await?;
        transaction.commit().await?;
        self.shared.standing.database_answers();
        for (claim, (partition, _)) in claims.into_iter().zip(&starts) {
            self.shared.standing.gone(*partition);
            match (claim, ends.get(partition)) {
                (Claim::Taken { partition, next_offset, epoch, source_epoch }, Some(ends)) => {
                    let tenure = Arc::new(Tenure::new(partition, epoch, source_epoch));
                    self.begin(tenure, next_offset, *ends).await?;
                }
                // The broker did not tell where the partition begins and ends.
                _ => self.tell(LaneEvent::LetGo { partition: *partition, retry_after: RECLAIM_AFTER }),
            }
        }
        Ok(())
    }

    async fn ends_of(&self, partitions: &[i32]) -> HashMap<i32, Ends> {
        let (shared, partitions) = (Arc::clone(&self.shared), partitions.to_vec());
        let fetched =
            tokio::task::spawn_blocking(move || ends::fetch_all(&shared.consumer, &shared.topic, &partitions));
        fetched.await.unwrap_or_default()
    }

    /// Starts a tenure, unless the position lies outside the log: that is an operator's decision, never a silent jump.
    async fn begin(&mut self, tenure: Arc<Tenure>, next_offset: i64, ends: Ends) -> Result<(), StoreError> {
        let partition = tenure.partition;
        let position = NextPosition { tenure: Arc::clone(&tenure), next_offset, as_of: None, blocked: None };
        if (ends.low..=ends.high).contains(&next_offset) {
            self.positions.insert(partition, position);
            self.tell(LaneEvent::Claimed { tenure, next_offset });
            return Ok(());
        }
        let why = format!("the log holds {} to {}", ends.low, ends.high);
        self.shared.standing.out_of_range(&self.shared.topic, partition, next_offset, &why);
        self.tell(LaneEvent::Blocked { partition });
        let blocked = Blocked { state: BlockedState::OutOfRange, offset: next_offset, reason: why };
        self.save(vec![NextPosition { blocked: Some(blocked), ..position }]).await
    }
}
