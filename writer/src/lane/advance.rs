//! What a lane knows and says of its positions beside batches.

use std::sync::Arc;

use super::Lane;
use crate::{batch::Part, ends::Sample, store::NextPosition};

impl Lane {
    /// Takes the newest ends for the batches to come, and forgets claims that are over.
    pub(super) fn follow_ends(&mut self) {
        let sample = self.take_sample();
        self.positions.retain(|_, position| !position.tenure.has_ended());
        if !sample.ends.is_empty() {
            let parts: Vec<Part> = self.positions.values().map(NextPosition::as_part).collect();
            self.let_go_of_another_topic(&parts, sample.topic_id.as_ref());
        }
        let positions = self.positions.iter().map(|(partition, position)| (*partition, position.next_offset)).collect();
        self.samples.forget_reached(&positions);
    }

    /// Shows what this lane holds; `as_of` of partitions without batches is moved by it (see `upkeep/as_of.rs`).
    pub(super) fn publish(&self) {
        let held = self.positions.values().map(|position| (Arc::clone(&position.tenure), position.next_offset));
        self.shared.board.publish(self.number, held);
    }

    pub(super) fn take_sample(&mut self) -> Arc<Sample> {
        let sample = Arc::clone(&self.newest_sample.borrow_and_update());
        self.samples.push(Arc::clone(&sample));
        sample
    }
}
