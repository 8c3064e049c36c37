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

use super::{
    group::TopicPartition,
    handler::RecordHandler,
    run::{Leaving, Loop},
};

/// Pause before a commit without which nothing is given back is tried again.
const COMMIT_AGAIN: Duration = Duration::from_millis(100);

/// Adds what the group is to be told of a partition: the offset, and the gaps above it.
fn add(list: &mut TopicPartitionList, of: &TopicPartition, (offset, gaps): &(i64, String)) -> bool {
    let mut element = list.add_partition(&of.0, of.1);
    element.set_metadata(gaps);
    element.set_offset(Offset::Offset(*offset)).is_ok()
}

impl<H: RecordHandler> Loop<H> {
    /// Tells the group what is done. What it does not take is with the next commit.
    pub(super) fn commit(&mut self, mode: CommitMode) -> KafkaResult<()> {
        if self.consumer.client().context().take_commit_failure() {
            self.forget_committed();
        }
        self.pass_markers();
        let mut list = TopicPartitionList::new();
        for (of, held) in &mut self.held {
            let commit = held.partition.offsets.commit();
            if commit != held.committed && add(&mut list, of, &commit) {
                held.committed = commit;
            }
        }
        if list.count() == 0 {
            return Ok(());
        }
        self.consumer.commit(&list, mode).inspect_err(|error| {
            self.forget_committed();
            tracing::warn!(error = %error, "offsets were not committed; they are with the next commit");
        })
    }

    /// The next commit tells all.
    fn forget_committed(&mut self) {
        self.held.values_mut().for_each(|held| held.committed = (-1, String::new()));
    }

    /// Tells the group all of the partitions that are asked back and of which nothing is running. It may refuse: while a
    /// rebalance is being completed it takes no offsets; a partition that was given back then would be repeated.
    pub(super) fn commit_leaving(&mut self, now: Instant) {
        let is_due = |leaving: &Leaving| self.commit_at(leaving).is_some_and(|at| at <= now);
        if !self.leaving.iter().any(is_due) {
            return;
        }
        self.pass_markers();
        let mut leaving = std::mem::take(&mut self.leaving);
        for leaving in &mut leaving {
            if self.commit_at(leaving).is_none_or(|at| at > now) {
                continue;
            }
            let mut list = TopicPartitionList::new();
            for of in &leaving.partitions {
                if let Some(held) = self.held.get(of) {
                    add(&mut list, of, &held.partition.offsets.commit());
                }
            }
            leaving.commit_at = None;
            if list.count() == 0 {
                leaving.is_committed = true;
                continue;
            }
            let (consumer, partitions) = (Arc::clone(&self.consumer), leaving.partitions.clone());
            self.commits.spawn_blocking(move || {
                let committed = consumer.commit(&list, CommitMode::Sync);
                (partitions, committed)
            });
        }
        self.leaving = leaving;
    }

    /// When the group is to be told of these; `None` while something of them is running, or it is being told.
    pub(super) fn commit_at(&self, leaving: &Leaving) -> Option<Instant> {
        let runs = |of: &TopicPartition| self.held.get(of).is_some_and(|held| held.partition.running() > 0);
        leaving.commit_at.filter(|_| !leaving.partitions.iter().any(runs))
    }

    pub(super) fn committed(&mut self, told: Result<(Vec<TopicPartition>, KafkaResult<()>), JoinError>) {
        let (partitions, committed) = told.expect("a commit neither panics nor is aborted");
        let Some(leaving) = self.leaving.iter_mut().find(|leaving| leaving.partitions == partitions) else { return };
        match committed {
            Ok(()) => leaving.is_committed = true,
            Err(error) => {
                tracing::warn!(error = %error, ?partitions, "what is done was not committed; tried again before they go");
                leaving.commit_at = Some(Instant::now() + COMMIT_AGAIN);
            }
        }
    }

    /// The last commit of a member that leaves, of all that it holds: one that is still on its way may be refused when nobody
    /// asks any more. While a rebalance is under way the broker takes no offsets, and the rebalance does not end unless this
    /// member goes on polling; what it polls is not begun any more. What is asked back meanwhile goes with the client.
    pub(super) async fn commit_last(mut self, deadline: Instant) -> Result<Self, JoinError> {
        self.forget_committed();
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
