//! When a partition is loaded. Pure.
//!
//! A partition is loaded when the *position* has reached the high watermark that the log had at the start, as a client that
//! reads uncommitted sees it. The position is where the next fetch begins: it passes transaction markers, aborted records and
//! what compaction has removed; the offset of the last record does not, so a load that waited for it would never end. An
//! open transaction below that watermark holds the position up until it is resolved, as it must: its records may come to count.
//!
//! librdkafka's own position follows what it hands out, markers among it. A tail whose batches compaction has emptied moves
//! its fetches and nothing else; then only the *end of the partition* tells. That event says that the fetches have reached the
//! last stable offset, so it counts when that offset was known to be at the watermark or beyond before the consumer was made.

/// An offset that the position has to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Goal {
    target: i64,
    /// Whether the end of the partition cannot lie below the target.
    end_suffices: bool,
}

impl Goal {
    /// `high` is the high watermark, `stable` the last stable offset, asked for after it; `None` when it does not tell what a
    /// later end of the partition means.
    pub(super) fn new(high: i64, stable: Option<i64>) -> Self {
        Self { target: high, end_suffices: stable.is_some_and(|stable| stable >= high) }
    }
}

/// How far one partition is read.
#[derive(Debug)]
pub(super) struct Partition {
    position: i64,
    /// Raised by each load: what an earlier one found and this one does not is gone.
    epoch: u32,
    load: Option<Goal>,
    /// What others wait for, beside the load.
    demand: Option<Goal>,
}

impl Partition {
    /// To be loaded from `start` on.
    pub(super) fn new(start: i64, epoch: u32, goal: Goal) -> Self {
        let mut partition = Self { position: start, epoch, load: Some(goal), demand: None };
        partition.advance(start);
        partition
    }

    pub(super) fn position(&self) -> i64 {
        self.position
    }

    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Everything below this position is read.
    pub(super) fn advance(&mut self, position: i64) {
        self.position = self.position.max(position);
        let open = |goal: &Goal| goal.target > self.position;
        self.load = self.load.filter(open);
        self.demand = self.demand.filter(open);
    }

    /// The client has read to the end of the partition.
    pub(super) fn reached_end(&mut self) {
        let passed = self.goals().filter(|goal| goal.end_suffices).map(|goal| goal.target).max();
        self.advance(passed.unwrap_or(self.position));
    }

    /// Has the position reach this too, without the partition counting as not loaded meanwhile.
    pub(super) fn demand(&mut self, goal: Goal) {
        self.demand = Some(goal);
        self.advance(self.position);
    }

    /// The consumer is made anew; from now on the end of the partition means at least `stable`.
    pub(super) fn reopened(&mut self, stable: i64) {
        for goal in [&mut self.load, &mut self.demand].into_iter().flatten() {
            *goal = Goal::new(goal.target, Some(stable));
        }
    }

    /// Whether everything that was there when the load began is in the store.
    pub(super) fn is_loaded(&self) -> bool {
        self.load.is_none()
    }

    /// Whether what was demanded is reached.
    pub(super) fn is_at_demand(&self) -> bool {
        self.demand.is_none()
    }

    /// The offset that is still to be reached, if any.
    pub(super) fn target(&self) -> Option<i64> {
        self.goals().map(|goal| goal.target).max()
    }

    /// Offsets still to be passed by the load.
    pub(super) fn remaining(&self) -> i64 {
        self.load.map_or(0, |goal| goal.target - self.position)
    }

    fn goals(&self) -> impl Iterator<Item = Goal> {
        [self.load, self.demand].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_loaded_by_its_position_whatever_lies_at_the_tail() {
        // Records at 0..=7, a marker at 8: the watermark is 9, and no record has offset 8.
        let mut partition = Partition::new(0, 0, Goal::new(9, None));
        partition.advance(8);
        assert!(!partition.is_loaded());
        assert_eq!(partition.remaining(), 1);
        partition.advance(9);
        assert!(partition.is_loaded());
    }

    #[test]
    fn an_empty_partition_is_loaded_at_once() {
        assert!(Partition::new(0, 0, Goal::new(0, None)).is_loaded());
        assert!(Partition::new(40, 0, Goal::new(40, None)).is_loaded(), "everything was removed by retention");
    }

    #[test]
    fn the_end_of_the_partition_counts_only_when_no_transaction_was_open_below_the_target() {
        let mut open = Partition::new(0, 0, Goal::new(9, Some(4)));
        open.reached_end();
        assert!(!open.is_loaded(), "the end is the last stable offset, 4");
        open.reopened(8);
        open.reached_end();
        assert!(!open.is_loaded());
        open.reopened(9);
        open.reached_end();
        assert!(open.is_loaded(), "an emptied tail moves no position");
        assert_eq!(open.position(), 9);
    }

    #[test]
    fn a_demand_does_not_unload() {
        let mut partition = Partition::new(0, 0, Goal::new(5, Some(5)));
        partition.advance(5);
        partition.demand(Goal::new(7, None));
        assert!(partition.is_loaded() && !partition.is_at_demand());
        assert_eq!((partition.target(), partition.remaining()), (Some(7), 0));
        partition.reached_end();
        assert!(!partition.is_at_demand());
        partition.advance(7);
        assert!(partition.is_at_demand());
        partition.demand(Goal::new(7, None));
        assert!(partition.is_at_demand(), "it is there already");
    }
}
