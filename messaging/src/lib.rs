//! Kafka patterns as a library: consumers that retry, block and bury, stores on compacted topics, transactions.
//!
//! | module | what it is |
//! |---|---|
//! | [`kv_store`] | a compacted topic in memory, complete before it says so |
//! | [`transaction`] | records in, records out, offsets: exactly once |
//! | [`atomic_kv_store`] | values changed by commands, exactly once, with callbacks |
//! | [`topic_id`] | which topic a name stands for |

pub mod atomic_kv_store;
mod client;
pub mod kv_store;
mod log_ends;
pub mod topic_id;
pub mod transaction;

pub use atomic_kv_store::{AtomicKvStore, AtomicKvStoreConfig};
pub use kv_store::{KvStore, KvStoreConfig};
