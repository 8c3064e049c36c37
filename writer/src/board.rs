//! What the lanes hold, for the one task that speaks for all of them: claims and the positions stored under them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::batch::Tenure;

/// One slot per lane; each lane writes its own, after what it has stored is committed.
#[derive(Debug)]
pub struct Board(Vec<Mutex<Vec<(Arc<Tenure>, i64)>>>);

impl Board {
    /// A board for so many lanes.
    pub fn new(lanes: usize) -> Self {
        Self((0..lanes).map(|_| Mutex::default()).collect())
    }

    /// Replaces what a lane holds: claims and next offsets.
    pub fn publish(&self, lane: usize, held: impl Iterator<Item = (Arc<Tenure>, i64)>) {
        let mut slot = lock(&self.0[lane]);
        slot.clear();
        slot.extend(held);
    }

    /// The claims of all lanes that are not over, by partition.
    pub fn held(&self) -> Vec<(Arc<Tenure>, i64)> {
        let mut held: Vec<_> = self.0.iter().flat_map(|slot| lock(slot).clone()).collect();
        held.retain(|(tenure, _)| !tenure.has_ended());
        held.sort_by_key(|(tenure, _)| tenure.partition);
        held
    }
}

fn lock(slot: &Mutex<Vec<(Arc<Tenure>, i64)>>) -> MutexGuard<'_, Vec<(Arc<Tenure>, i64)>> {
    // A list is replaced as a whole, and a panic between the two steps ends the process.
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
