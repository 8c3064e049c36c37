//! Freshness of partitions for which nothing comes: `as_of` moves with each sample of the log's ends, in one statement for all
//! partitions of this writer; and a writer that has nothing to store notices here that its claims are over.

use std::sync::{Arc, mpsc::Sender};

use tokio::sync::watch;

use crate::{
    batch::Tenure,
    board::Board,
    ends::Sample,
    error::StoreError,
    lane::{LaneEvent, RECLAIM_AFTER},
    standing::Standing,
    store::{Held, Stands, Store},
};

/// What it stands on.
pub struct AsOf {
    /// A connection of its own, so that it waits for no batch.
    pub store: Store,
    /// What the lanes hold.
    pub board: Arc<Board>,
    /// The newest ends.
    pub newest_sample: watch::Receiver<Arc<Sample>>,
    /// To the source, which claims again what was lost.
    pub events: Sender<LaneEvent>,
    /// What operators see.
    pub standing: Arc<Standing>,
}

impl AsOf {
    /// Works until it is dropped, or nothing samples any more.
    pub async fn run(mut self) {
        while self.newest_sample.changed().await.is_ok() {
            let sample = Arc::clone(&self.newest_sample.borrow_and_update());
            let held = self.held(&sample);
            if held.is_empty() {
                continue;
            }
            match self.store.move_as_of(&held).await {
                Ok(stands) => self.let_go(&held, &stands),
                Err(error) => self.failed(&error),
            }
        }
    }

    /// Claims with what the sample lets them say: its moment, where the position has reached its end.
    fn held(&self, sample: &Sample) -> Vec<Held> {
        let says = |(tenure, next_offset): (Arc<Tenure>, i64)| {
            let end = sample.ends.get(&tenure.partition).map(|ends| ends.high);
            if let Some(end) = end {
                self.standing.metrics().lag(tenure.partition, end - next_offset);
            }
            let as_of = sample.at.filter(|_| end.is_some_and(|end| end <= next_offset));
            Held { tenure, next_offset, as_of }
        };
        // Ends of a topic that was made anew say nothing of the one that was claimed; its lane lets go of it.
        let held = self.board.held().into_iter();
        held.filter(|(tenure, _)| !tenure.is_of_another(sample.topic_id.as_ref())).map(says).collect()
    }

    /// Ends claims under which nothing can be stored any more: another writer has the partition, or its position was moved back
    /// (by an operator, or by the promotion of a replica that lacked the last transactions).
    fn let_go(&self, held: &[Held], stands: &[Stands]) {
        for stored in stands {
            let Some(held) = held.iter().find(|held| held.tenure.partition == stored.partition) else { continue };
            let is_over = stored.epoch != held.tenure.epoch || stored.next_offset < held.next_offset;
            if is_over && !held.tenure.has_ended() {
                let partition = stored.partition;
                tracing::warn!(partition, "another writer has taken the partition, or its position was moved back");
                self.standing.metrics().fenced(1);
                held.tenure.end();
                // Without a source the process is ending.
                let _ = self.events.send(LaneEvent::LetGo { partition, retry_after: RECLAIM_AFTER });
            }
        }
    }

    fn failed(&mut self, error: &StoreError) {
        self.store.disconnect();
        self.standing.database_fails(error);
    }
}
