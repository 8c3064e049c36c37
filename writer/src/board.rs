//! What the lanes hold, for the one task that speaks for all of them: claims and the positions stored under them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::batch::Tenure;

/// Claims, each with the next offset that is stored under it.
type Held = Vec<(Arc<Tenure>, i64)>;

/// One slot per lane; each lane writes its own, after what it has stored is committed.
#[derive(Debug)]
pub struct Board(Vec<Mutex<Held>>);

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
    pub fn held(&self) -> Held {
        let mut held: Held = self.0.iter().flat_map(|slot| lock(slot).clone()).collect();
        held.retain(|(tenure, _)| !tenure.has_ended());
        held.sort_by_key(|(tenure, _)| tenure.partition);
        held
    }
}

fn lock(slot: &Mutex<Held>) -> MutexGuard<'_, Held> {
    // A list is replaced as a whole, and a panic between the two steps ends the process.
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
