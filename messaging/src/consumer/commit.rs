//! What is told to the group: offsets with their gaps.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _},
    error::KafkaResult,
};
use tokio::task::JoinError;

use super::{handler::RecordHandler, run::Loop};

/// Pause before the last commit is tried again.
const COMMIT_AGAIN: Duration = Duration::from_millis(100);

impl<H: RecordHandler> Loop<H> {
    /// Tells the group what is done. What it does not take is with the next commit.
    pub(super) fn commit(&mut self, mode: CommitMode) -> KafkaResult<()> {
        if self.consumer.client().context().take_commit_failure() {
            self.held.values_mut().for_each(|held| held.committed = (-1, String::new()));
        }
        self.pass_markers();
        let mut list = TopicPartitionList::new();
        for (of, held) in &mut self.held {
            let commit = held.partition.offsets.commit();
            if commit == held.committed {
                continue;
            }
            let mut element = list.add_partition(&of.0, of.1);
            if element.set_offset(Offset::Offset(commit.0)).is_ok() {
                element.set_metadata(&commit.1);
                held.committed = commit;
            }
        }
        if list.count() == 0 {
            return Ok(());
        }
        self.consumer.commit(&list, mode).inspect_err(|error| {
            self.held.values_mut().for_each(|held| held.committed = (-1, String::new()));
            tracing::warn!(error = %error, "offsets were not committed; they are with the next commit");
        })
    }

    /// The last commit of a member that leaves. While a rebalance is under way the broker takes no offsets, and the rebalance
    /// does not end unless this member goes on polling; what it polls is not begun any more.
    pub(super) async fn commit_last(mut self, deadline: Instant) -> Result<Self, JoinError> {
        loop {
            let (this, committed) = tokio::task::spawn_blocking(move || {
                let committed = self.commit(CommitMode::Sync);
                (self, committed)
            })
            .await?;
            self = this;
            if committed.is_ok() || Instant::now() >= deadline {
                return Ok(self);
            }
            let consumer = Arc::clone(&self.consumer);
            let again_at = (Instant::now() + COMMIT_AGAIN).min(deadline);
            while let Ok(message) = tokio::time::timeout_at(again_at.into(), consumer.recv()).await {
                if let Ok(message) = message {
                    self.accept(&message);
                }
                self.pause_and_resume();
            }
            self.follow_rebalances();
            self.claiming.clear();
            self.give_back_done();
        }
    }

    /// Moves partitions with nothing in hand behind transaction markers and aborted records, so that a drained topic has no lag.
    fn pass_markers(&mut self) {
        let Ok(positions) = self.consumer.position() else { return };
        for element in positions.elements() {
            let of = (Arc::<str>::from(element.topic()), element.partition());
            let Some(held) = self.held.get_mut(&of) else { continue };
            if let Offset::Offset(position) = element.offset()
                && held.partition.is_idle()
                && held.partition.offsets.has_begun(held.start)
            {
                held.partition.pass(position);
            }
        }
    }
}
