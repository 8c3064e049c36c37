//! What a store holds: values by key, what could not be read, and the position up to which all of it is contained.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use tokio::sync::broadcast;

use super::{Position, Quarantined, Update};

/// What an entry takes beside its key and its value: counted parts, tree, allocations. Measured with one million entries of
/// 10-byte keys; an estimate, as is the whole count.
const ENTRY_BYTES: usize = 160;
/// So many quarantined keys are listed; further ones are counted.
const LISTED_MAX: usize = 1000;

/// A record of the topic, decoded.
#[derive(Debug)]
pub(super) struct Arrived<V> {
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) key: Bytes,
    pub(super) content: Content<V>,
}

#[derive(Debug)]
pub(super) enum Content<V> {
    /// With the length of its bytes.
    Value(Arc<V>, usize),
    Tombstone,
    /// Why it can't be read.
    Unreadable(String),
}

struct Entry<V> {
    value: Arc<V>,
    value_bytes: usize,
    partition: i32,
    epoch: u32,
    offset: i64,
}

/// Behind the store's lock.
pub(super) struct Contents<V> {
    entries: BTreeMap<Bytes, Entry<V>>,
    quarantine: HashMap<Bytes, Quarantined>,
    position: Position,
    bytes: usize,
    /// Updates are sent under the lock, so that whoever subscribes under it misses none and gets none twice.
    updates: broadcast::Sender<Update<V>>,
}

impl<V> Contents<V> {
    pub(super) fn new(updates: broadcast::Sender<Update<V>>) -> Self {
        let (entries, quarantine, position) = (BTreeMap::new(), HashMap::new(), Position::new());
        Self { entries, quarantine, position, bytes: 0, updates }
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Arc<V>> {
        self.entries.get(key).map(|entry| &entry.value)
    }

    /// In the order of keys, byte by byte.
    pub(super) fn scan<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = (&'a Bytes, &'a Arc<V>)> {
        let from = self.entries.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded));
        from.take_while(move |(key, _)| key.starts_with(prefix)).map(|(key, entry)| (key, &entry.value))
    }

    pub(super) fn position(&self) -> &Position {
        &self.position
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// An estimate: bytes of keys and values as they are in the topic, and what each entry takes beside them.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn quarantined(&self, key: &[u8]) -> Option<&Quarantined> {
        self.quarantine.get(key)
    }

    pub(super) fn quarantine(&self) -> impl Iterator<Item = &Quarantined> {
        self.quarantine.values()
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Update<V>> {
        self.updates.subscribe()
    }

    /// Takes a record over and tells watchers.
    pub(super) fn apply(&mut self, record: Arrived<V>, epoch: u32) {
        let Arrived { partition, offset, key, content } = record;
        self.quarantine.remove(&key);
        let value = match content {
            Content::Value(value, value_bytes) => {
                self.insert(key.clone(), Entry { value: Arc::clone(&value), value_bytes, partition, epoch, offset });
                Some(value)
            }
            Content::Tombstone => {
                self.remove(&key);
                None
            }
            Content::Unreadable(reason) => {
                // A value that can't be read is no value: a store that loads after compaction knows no earlier one either.
                self.remove(&key);
                if self.quarantine.len() < LISTED_MAX {
                    self.quarantine.insert(key.clone(), Quarantined { key: key.clone(), partition, offset, reason });
                }
                None
            }
        };
        if self.updates.receiver_count() > 0 {
            // The last of them may just have gone.
            let _ = self.updates.send(Update { key, value, partition, offset });
        }
    }

    pub(super) fn advance(&mut self, partition: i32, position: i64) {
        self.position.insert(partition, position);
    }

    /// Removes what an earlier load of a partition left and this one did not find; tells watchers.
    pub(super) fn sweep(&mut self, partition: i32, epoch: u32) {
        let gone = |entry: &Entry<V>| entry.partition == partition && entry.epoch < epoch;
        let gone: Vec<(Bytes, i64)> = self
            .entries
            .iter()
            .filter(|(_, entry)| gone(entry))
            .map(|(key, entry)| (key.clone(), entry.offset))
            .collect();
        for (key, offset) in gone {
            self.remove(&key);
            let _ = self.updates.send(Update { key, value: None, partition, offset });
        }
    }

    /// Removes a partition that the topic no longer has.
    pub(super) fn forget(&mut self, partition: i32) {
        self.sweep(partition, u32::MAX);
        self.position.remove(&partition);
    }

    fn insert(&mut self, key: Bytes, entry: Entry<V>) {
        let (key_bytes, value_bytes) = (key.len(), entry.value_bytes);
        match self.entries.insert(key, entry) {
            Some(old) => self.bytes = self.bytes - old.value_bytes + value_bytes,
            None => self.bytes += key_bytes + value_bytes + ENTRY_BYTES,
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(old) = self.entries.remove(key) {
            self.bytes -= key.len() + old.value_bytes + ENTRY_BYTES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents() -> Contents<String> {
        Contents::new(broadcast::channel(8).0)
    }

    fn arrived(key: &'static str, offset: i64, content: Content<String>) -> Arrived<String> {
        Arrived { partition: 0, offset, key: Bytes::from_static(key.as_bytes()), content }
    }

    fn value(text: &str) -> Content<String> {
        Content::Value(Arc::new(text.to_owned()), text.len())
    }

    fn keys(contents: &Contents<String>, prefix: &str) -> Vec<String> {
        contents.scan(prefix.as_bytes()).map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect()
    }

    #[test]
    fn a_scan_gives_the_keys_of_a_prefix_in_order() {
        let mut contents = contents();
        for (offset, key) in ["b", "ab", "a", "ac", "abc"].into_iter().enumerate() {
            contents.apply(arrived(key, offset as i64, value("x")), 0);
        }
        assert_eq!(keys(&contents, "ab"), ["ab", "abc"]);
        assert_eq!(keys(&contents, "").len(), 5);
        assert_eq!(keys(&contents, "z"), [] as [&str; 0]);
    }

    #[test]
    fn bytes_are_given_back() {
        let mut contents = contents();
        contents.apply(arrived("k", 0, value("long value")), 0);
        contents.apply(arrived("k", 1, value("v")), 0);
        assert_eq!(contents.bytes(), 2 + ENTRY_BYTES);
        contents.apply(arrived("k", 2, Content::Tombstone), 0);
        contents.apply(arrived("k", 3, Content::Tombstone), 0);
        assert_eq!((contents.bytes(), contents.len()), (0, 0));
    }

    #[test]
    fn an_unreadable_value_is_no_value_until_a_good_one_comes() {
        let mut contents = contents();
        contents.apply(arrived("k", 0, value("good")), 0);
        contents.apply(arrived("k", 1, Content::Unreadable("no JSON".to_owned())), 0);
        assert!(contents.get(b"k").is_none());
        assert_eq!(contents.quarantined(b"k").map(|quarantined| quarantined.offset), Some(1));
        contents.apply(arrived("k", 2, value("better")), 0);
        assert_eq!(contents.get(b"k").map(|value| value.as_str()), Some("better"));
        assert_eq!(contents.quarantine().count(), 0);
    }

    #[test]
    fn a_sweep_removes_what_the_new_load_did_not_find_and_tells_it() {
        let mut contents = contents();
        contents.apply(arrived("gone", 0, value("x")), 0);
        contents.apply(arrived("kept", 1, value("x")), 0);
        contents.apply(arrived("kept", 7, value("y")), 1);
        let mut updates = contents.subscribe();
        contents.sweep(0, 1);
        assert_eq!(keys(&contents, ""), ["kept"]);
        let told = updates.try_recv().expect("an update");
        assert_eq!((told.key.as_ref(), told.value), (&b"gone"[..], None));
        assert!(updates.try_recv().is_err());
    }
}
