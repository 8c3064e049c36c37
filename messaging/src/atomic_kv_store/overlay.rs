//! What an owner knows before its own store does: values it has committed and not read back yet. Pure.
//!
//! The owner of a partition is the only one that writes its values, so what it committed last is the truth, and the store that
//! follows the topic is right for every other key. What the store has reached is forgotten here, so this stays small.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;

use crate::kv_store::Position;

#[derive(Debug)]
struct Held<V> {
    /// `None`: removed.
    value: Option<Arc<V>>,
    partition: i32,
    /// The transaction that wrote it.
    number: u64,
}

/// One committed transaction.
#[derive(Debug)]
struct Committed {
    number: u64,
    ends: Position,
    keys: Vec<Bytes>,
}

/// Values by key, over those of the store.
#[derive(Debug)]
pub(super) struct Overlay<V> {
    staged: HashMap<Bytes, (i32, Option<Arc<V>>)>,
    held: HashMap<Bytes, Held<V>>,
    committed: VecDeque<Committed>,
    number: u64,
}

impl<V> Default for Overlay<V> {
    fn default() -> Self {
        Self { staged: HashMap::new(), held: HashMap::new(), committed: VecDeque::new(), number: 0 }
    }
}

impl<V> Overlay<V> {
    /// What is known here: `None` sends to the store, `Some(None)` is a key without a value.
    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&Arc<V>>> {
        let staged = self.staged.get(key).map(|(_, value)| value);
        staged.or_else(|| self.held.get(key).map(|held| &held.value)).map(Option::as_ref)
    }

    /// A value of the transaction that is being made.
    pub(super) fn stage(&mut self, key: Bytes, partition: i32, value: Option<Arc<V>>) {
        self.staged.insert(key, (partition, value));
    }

    /// What is staged never was.
    pub(super) fn abort(&mut self) {
        self.staged.clear();
    }

    /// What is staged holds; the store has it when its position is at `ends`.
    pub(super) fn commit(&mut self, ends: Position) {
        self.number += 1;
        let number = self.number;
        let keys = self.staged.keys().cloned().collect();
        let held = self.staged.drain().map(|(key, (partition, value))| (key, Held { value, partition, number }));
        self.held.extend(held);
        self.committed.push_back(Committed { number, ends, keys });
    }

    /// Forgets what the store has.
    pub(super) fn follow(&mut self, position: &Position) {
        let has = |(partition, end): (&i32, &i64)| position.get(partition).is_some_and(|at| at >= end);
        while self.committed.front().is_some_and(|oldest| oldest.ends.iter().all(has)) {
            let Some(Committed { number, keys, .. }) = self.committed.pop_front() else { return };
            for key in keys {
                // A later transaction may have written the key again.
                if self.held.get(&key).is_some_and(|held| held.number == number) {
                    self.held.remove(&key);
                }
            }
        }
    }

    /// Another owner writes this partition from now on.
    pub(super) fn forget(&mut self, partition: i32) {
        self.held.retain(|_, held| held.partition != partition);
        // The store's position there may never come to where this owner wrote, if the topic is made anew.
        for committed in &mut self.committed {
            committed.ends.remove(&partition);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn value(overlay: &Overlay<u32>, key: &str) -> Option<Option<u32>> {
        overlay.get(key.as_bytes()).map(|value| value.map(|value| **value))
    }

    #[test]
    fn an_aborted_value_never_was_and_a_committed_one_holds_until_the_store_has_it() {
        let mut overlay = Overlay::default();
        overlay.stage(key("a"), 0, Some(Arc::new(1)));
        assert_eq!(value(&overlay, "a"), Some(Some(1)), "the next command of the batch sees it");
        overlay.abort();
        assert_eq!(value(&overlay, "a"), None);
        overlay.stage(key("a"), 0, Some(Arc::new(2)));
        overlay.stage(key("b"), 0, None);
        overlay.commit(Position::from([(0, 7)]));
        overlay.follow(&Position::from([(0, 6)]));
        assert_eq!((value(&overlay, "a"), value(&overlay, "b")), (Some(Some(2)), Some(None)));
        overlay.follow(&Position::from([(0, 7)]));
        assert_eq!((value(&overlay, "a"), value(&overlay, "b")), (None, None));
    }

    #[test]
    fn a_value_written_again_is_held_until_the_later_one_is_there() {
        let mut overlay = Overlay::default();
        for (number, end) in [(1, 10), (2, 20)] {
            overlay.stage(key("a"), 0, Some(Arc::new(number)));
            overlay.commit(Position::from([(0, end)]));
        }
        overlay.follow(&Position::from([(0, 15)]));
        assert_eq!(value(&overlay, "a"), Some(Some(2)));
        overlay.follow(&Position::from([(0, 20)]));
        assert_eq!(value(&overlay, "a"), None);
    }

    #[test]
    fn a_partition_that_is_taken_is_forgotten() {
        let mut overlay = Overlay::default();
        overlay.stage(key("a"), 0, Some(Arc::new(1)));
        overlay.stage(key("b"), 1, Some(Arc::new(1)));
        overlay.commit(Position::from([(0, 5), (1, 5)]));
        overlay.forget(0);
        assert_eq!((value(&overlay, "a"), value(&overlay, "b")), (None, Some(Some(1))));
        overlay.follow(&Position::from([(1, 5)]));
        assert_eq!(value(&overlay, "b"), None);
    }
}
