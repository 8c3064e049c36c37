//! Kafka patterns as a library: consumers that retry, block and bury, stores on compacted topics, transactions.

pub mod atomic_kv_store;
mod client;
pub mod kv_store;
mod log_ends;
pub mod topic_id;
pub mod transaction;

pub use atomic_kv_store::{AtomicKvStore, AtomicKvStoreConfig};
pub use kv_store::{KvStore, KvStoreConfig};
