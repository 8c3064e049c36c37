//! Delete markers that have done their time: swept by the lane that owns their partition, between batches.
//!
//! Under its claim the lane is the only one that writes its partitions, so no batch that has read a marker can meet its
//! removal. Where keys have moved (partitions were added), a batch of another lane can: the table refuses a site without its
//! document, and that batch reads again (see `error.rs`).

use std::time::{Duration, Instant};

use super::Lane;
use crate::{
    batch::Part,
    error::Disposition,
    observe::UpkeepTask,
    store::{NextPosition, TRANSACTION_MAX},
};

/// Markers that one transaction removes: a few milliseconds during which the lane stores no batch.
const CHUNK_ROWS: i64 = 500;
/// Pause between chunks while there are more.
const CHUNK_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause between looks for expired markers.
const LOOK_INTERVAL_MAX: Duration = Duration::from_secs(60);
const LOOK_INTERVAL_MIN: Duration = Duration::from_secs(1);

impl Lane {
    /// When the sweep is due.
    pub(super) fn sweep_due(&self) -> tokio::time::Instant {
        self.sweep_at.into()
    }

    /// Removes one chunk and says when the next is due. What fails is done with the next.
    pub(super) async fn sweep(&mut self) {
        let retention = self.shared.marker_retention;
        let look_interval = (retention / 100).clamp(LOOK_INTERVAL_MIN, LOOK_INTERVAL_MAX);
        self.sweep_at = Instant::now() + look_interval;
        let mut parts: Vec<Part> = self.positions.values().map(NextPosition::as_part).collect();
        parts.retain(|part| !part.tenure.has_ended());
        parts.sort_by_key(|part| part.tenure.partition);
        if parts.is_empty() {
            return;
        }
        let tenures: Vec<_> = parts.iter().map(|part| part.tenure.clone()).collect();
        let sweeping = self.store.sweep_markers(&tenures, retention, CHUNK_ROWS);
        match tokio::time::timeout(TRANSACTION_MAX, sweeping).await {
            Ok(Ok(swept)) => {
                self.shared.metrics.markers_swept(swept);
                if swept > 0 {
                    tracing::debug!(lane = self.number, swept, "expired delete markers swept");
                }
                if swept == CHUNK_ROWS.unsigned_abs() {
                    self.sweep_at = Instant::now() + CHUNK_PAUSE;
                }
            }
            Ok(Err(error)) => {
                self.store.disconnect();
                match error.disposition() {
                    Disposition::LetGo => self.let_go(&error, &parts),
                    Disposition::Again | Disposition::Retry | Disposition::Reject => {
                        self.shared.metrics.upkeep_failed(UpkeepTask::Markers);
                        tracing::warn!(lane = self.number, error = %error, "delete markers were not swept");
                    }
                }
            }
            Err(_) => self.store.disconnect(),
        }
    }
}
