//! Kafka patterns as a library: consumers that retry, block and bury, stores on compacted topics, transactions.

mod client;
pub mod kv_store;
mod log_ends;
pub mod topic_id;
pub mod transaction;

pub use kv_store::{KvStore, KvStoreConfig};
