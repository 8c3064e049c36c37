//! A partition that waits for another: the create of a key change, for the delete of its old key.
//!
//! The wait is said once when it begins and once when it ends, in the log and beside the position; between the two the partition
//! is claimed again at growing intervals, quietly.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use shared::ids::SiteId;

use super::{Lane, LaneEvent};
use crate::{batch::Tenure, error::StoreError};

/// Shortest and longest pause before the waiting record is looked at again; it waits longer the longer it has waited, since
/// each look is a claim.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// What a partition waits at.
#[derive(Debug)]
pub(super) struct Wait {
    offset: i64,
    since: Instant,
}

impl Lane {
    /// Creates of key changes that have waited long enough, as (partition, offset).
    pub(super) fn waited_enough(&self) -> HashSet<(i32, i64)> {
        let long = self.waits.iter().filter(|(_, wait)| wait.since.elapsed() >= self.shared.key_change_wait);
        long.map(|(partition, wait)| (*partition, wait.offset)).collect()
    }

    /// The record at this offset waits for the delete of this key.
    pub(super) async fn wait_for(&mut self, tenure: &Arc<Tenure>, offset: i64, old_key: &SiteId) {
        let partition = tenure.partition;
        if self.waits.get(&partition).is_none_or(|wait| wait.offset != offset) {
            tracing::info!(partition, offset, %old_key, "a key change waits for its delete");
            self.waits.insert(partition, Wait { offset, since: Instant::now() });
            let waits_for = format!("the key change at offset {offset} waits for the delete of {old_key}");
            self.note(tenure, Some(&waits_for)).await;
        }
        let waited = self.waits.get(&partition).map_or(Duration::ZERO, |wait| wait.since.elapsed());
        self.tell(LaneEvent::LetGo { partition, retry_after: waited.clamp(RETRY.0, RETRY.1) });
    }

    /// The partition has passed the record that it waited at, or stands at it.
    pub(super) async fn end_wait(&mut self, tenure: &Arc<Tenure>, next_offset: i64, stands: bool) {
        let partition = tenure.partition;
        let is_over = |wait: &mut Wait| wait.offset < next_offset || stands;
        if self.waits.get_mut(&partition).is_some_and(is_over)
            && let Some(wait) = self.waits.remove(&partition)
        {
            tracing::info!(partition, offset = wait.offset, waited = ?wait.since.elapsed(), "a key change waits no longer");
            self.note(tenure, None).await;
        }
    }

    /// For people only, so what fails is left out.
    async fn note(&mut self, tenure: &Tenure, waits_for: Option<&str>) {
        if let Err(error) = self.try_note(tenure, waits_for).await {
            self.store.disconnect();
            tracing::debug!(partition = tenure.partition, error = %error, "what the partition waits for was not noted");
        }
    }

    async fn try_note(&mut self, tenure: &Tenure, waits_for: Option<&str>) -> Result<(), StoreError> {
        let mut transaction = self.store.begin().await?;
        transaction.note_wait(tenure, waits_for).await?;
        transaction.commit().await
    }
}
