//! Taking partitions over: their positions decide where to go on, or that they stand.

use std::{sync::Arc, time::Duration};

use super::{Lane, LaneEvent, RECLAIM_AFTER, pauses};
use crate::{
    batch::{Part, Tenure},
    ends::{self, Ends, Sample},
    error::StoreError,
    store::{BlockedState, Claim, NextPosition, PositionRow},
    topic_id::{self, TopicId},
};

impl Lane {
    /// Tries until the partitions are taken or found to stand. A claim of a partition that was revoked meanwhile does no
    /// harm: its new owner finds its own claim over and takes it again.
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
        let sample = self.sample(partitions).await;
        let told: Vec<(i32, Ends)> =
            partitions.iter().filter_map(|partition| Some((*partition, *sample.ends.get(partition)?))).collect();
        let mut claims = Vec::new();
        if !told.is_empty() {
            let mut transaction = self.store.begin().await?;
            claims = transaction.claim(&told, sample.topic_id.as_ref()).await?;
            transaction.commit().await?;
            self.shared.standing.database_answers();
        }
        // One that waits for its dead letters goes on waiting in the eyes of operators until it has moved.
        for partition in partitions.iter().filter(|partition| !self.letter_waits.contains_key(partition)) {
            self.shared.standing.gone(*partition);
        }
        claims.into_iter().for_each(|claim| self.follow_claim(claim, sample.topic_id.as_ref()));
        // The broker did not tell where these begin and end, or which topic they are of.
        for partition in partitions.iter().filter(|partition| !sample.ends.contains_key(partition)) {
            self.tell(LaneEvent::LetGo { partition: *partition, retry_after: RECLAIM_AFTER });
        }
        Ok(())
    }

    async fn sample(&self, partitions: &[i32]) -> Sample {
        let (shared, partitions) = (Arc::clone(&self.shared), partitions.to_vec());
        let fetched =
            tokio::task::spawn_blocking(move || ends::fetch_all(&shared.consumer, &shared.topic, &partitions));
        fetched.await.unwrap_or_default()
    }

    fn follow_claim(&mut self, claim: Claim, topic_id: Option<&TopicId>) {
        match claim {
            Claim::Taken { partition, next_offset, epoch, source_epoch } => {
                // A partition that waits is claimed again and again; that it waits has been said.
                match self.waits.contains_key(&partition) {
                    true => tracing::debug!(partition, next_offset, epoch, "partition taken"),
                    false => tracing::info!(partition, next_offset, epoch, "partition taken"),
                }
                self.forget_before(partition, next_offset);
                self.resume_brake(partition, next_offset);
                let tenure = Arc::new(Tenure::new(partition, epoch, source_epoch, topic_id.cloned()));
                let position = NextPosition { tenure: Arc::clone(&tenure), next_offset, as_of: None, blocked: None };
                self.positions.insert(partition, position);
                self.tell(LaneEvent::Claimed { tenure, next_offset });
            }
            Claim::Stands { partition, blocked } => {
                self.waits.remove(&partition);
                self.letter_waits.remove(&partition);
                self.shared.standing.stands(&self.shared.topic, partition, &blocked);
                self.tell(LaneEvent::Blocked { partition });
            }
            Claim::Settles { partition, left } => {
                tracing::info!(partition, ?left, "readers have only just left this generation; it goes on in a moment");
                self.tell(LaneEvent::LetGo { partition, retry_after: left });
            }
        }
    }

    /// Looks whether partitions that stand may be claimed again, and lets those go on. What fails is done with the next look.
    pub(super) async fn look(&mut self, partitions: Vec<i32>) {
        match self.try_look(&partitions).await {
            Ok(due) => {
                for partition in due {
                    self.tell(LaneEvent::LetGo { partition, retry_after: Duration::ZERO });
                }
            }
            Err(error) => {
                self.store.disconnect();
                self.shared.standing.database_fails(&error);
            }
        }
        self.tell(LaneEvent::ClaimsDone { lane: self.number });
    }

    async fn try_look(&mut self, partitions: &[i32]) -> Result<Vec<i32>, StoreError> {
        let topic = Arc::clone(&self.shared.topic);
        let rows = PositionRow::of(self.store.connect().await?, &topic, partitions).await?;
        self.shared.standing.database_answers();
        let sample = Arc::clone(&self.newest_sample.borrow());
        Ok(rows.iter().filter(|row| may_go_on(row, &sample)).map(|row| row.partition).collect())
    }

    /// Lets go of partitions whose topic is another than the one they were claimed in. The claim that follows says so where
    /// operators see it.
    pub(super) fn let_go_of_another_topic(&mut self, parts: &[Part], topic_id: Option<&TopicId>) {
        for part in parts.iter().filter(|part| part.tenure.is_of_another(topic_id)) {
            let partition = part.tenure.partition;
            tracing::warn!(partition, "the topic was deleted and made anew; nothing of the new one is applied");
            part.tenure.end();
            self.end(partition);
            self.tell(LaneEvent::LetGo { partition, retry_after: Duration::ZERO });
        }
    }
}

/// Whether a claim would take a partition that stands, as far as the newest sample tells. A plain block waits for an operator.
fn may_go_on(row: &PositionRow, sample: &Sample) -> bool {
    let Some(ends) = sample.ends.get(&row.partition) else { return false };
    match row.blocked_state.as_deref().and_then(BlockedState::of) {
        None => true,
        Some(BlockedState::Blocked | BlockedState::Braked) => false,
        Some(BlockedState::OutOfRange) => ends.hold(row.next_offset),
        Some(BlockedState::TopicChanged) => !topic_id::differ(row.topic_id.as_deref(), sample.topic_id.as_ref()),
    }
}
