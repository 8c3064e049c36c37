//! Updates of a store as a stream, bounded.

use bytes::Bytes;
use tokio::sync::broadcast::{self, error::RecvError};

use super::Update;

/// What a watcher gets.
#[derive(Debug, Clone)]
pub enum Watched<V> {
    /// A key has another value, or none.
    Updated(Update<V>),
    /// The watcher was too slow, and so many updates (of any key) are lost to it. The store has them: read it anew.
    Missed(u64),
}

/// The updates of the keys that begin with a prefix; those of a key in their order, each once.
pub struct Watch<V> {
    prefix: Bytes,
    updates: broadcast::Receiver<Update<V>>,
}

impl<V> Watch<V> {
    pub(super) fn new(prefix: &[u8], updates: broadcast::Receiver<Update<V>>) -> Self {
        Self { prefix: Bytes::copy_from_slice(prefix), updates }
    }

    /// The next of them; `None` when the store is gone. Loses nothing when it is dropped while it waits.
    pub async fn next(&mut self) -> Option<Watched<V>> {
        loop {
            match self.updates.recv().await {
                Ok(update) if update.key.starts_with(&self.prefix) => return Some(Watched::Updated(update)),
                Ok(_) => {}
                Err(RecvError::Lagged(count)) => return Some(Watched::Missed(count)),
                Err(RecvError::Closed) => return None,
            }
        }
    }
}
