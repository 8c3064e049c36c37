//! What is done beside batches, by time: the change log's parts and floor.
//!
//! One task per writer, with a connection of its own; of several writers one at a time does the work. What fails is tried
//! again with the next tick, visibly; batches go on meanwhile: while parts are missing they write into the default part.
//!
//! Contract for readers of the change log. `change_floor` holds one row per partition, written no later than
//! [`EXPIRY_LATE_MAX`] after a change has become older than the retention: changes with an offset below `"offset"` are gone,
//! whether or not their part still stands. A token below it has expired; the oldest kept begins at it. A partition without a
//! row has lost nothing. Read the floor in the same snapshot as the changes, or after them, and on the same server.

mod as_of;
mod schedule;

use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::{
    error::StoreError,
    observe::{Metrics, UpkeepTask},
    store::Store,
};
pub use as_of::AsOf;
use schedule::Schedule;

/// A change is gone for readers at most so long after its retention.
pub const EXPIRY_LATE_MAX: Duration = Duration::from_secs(60);
/// Rows of the default part that one tick removes.
const DEFAULT_ROWS_MAX: i64 = 5000;

/// The change log of one generation and how long it is kept.
pub struct ChangeLog {
    store: Store,
    generation: i32,
    retention: Duration,
    schedule: Schedule,
    metrics: Metrics,
}

impl ChangeLog {
    /// Upkeep over a connection of its own.
    pub fn new(store: Store, generation: i32, retention: Duration, metrics: Metrics) -> Self {
        Self { store, generation, retention, schedule: Schedule::of(retention), metrics }
    }

    /// Ticks until it is dropped.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(self.schedule.tick);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let floor = self.store.move_floor(self.generation, self.retention, self.schedule.mark_interval).await;
            self.tell(UpkeepTask::Floor, floor.err());
            let parts = self.change_parts().await;
            self.tell(UpkeepTask::Parts, parts.err());
        }
    }

    async fn change_parts(&mut self) -> Result<(), StoreError> {
        let Schedule { width, ahead, .. } = self.schedule;
        let parts = self.store.change_parts(self.generation, (width, ahead), self.retention, DEFAULT_ROWS_MAX).await?;
        self.metrics.change_parts(parts.made, parts.dropped);
        if parts.made > 0 || parts.dropped > 0 {
            let (made, dropped) = (parts.made, parts.dropped);
            tracing::debug!(made, dropped, "parts of the change log");
        }
        if parts.expired_rows > 0 {
            let rows = parts.expired_rows;
            tracing::info!(rows, "expired changes that no part had taken in were removed one by one");
        }
        Ok(())
    }

    fn tell(&mut self, task: UpkeepTask, failed: Option<StoreError>) {
        let Some(error) = failed else { return };
        self.store.disconnect();
        self.metrics.upkeep_failed(task);
        tracing::warn!(task = task.as_str(), error = %error, "upkeep of the change log failed; it is tried again");
    }
}
