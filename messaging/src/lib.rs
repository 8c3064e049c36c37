//! Kafka patterns as a library: consumers that retry, block and bury, stores on compacted topics, transactions.
//!
//! | module | what it is |
//! |---|---|
//! | [`consumer`] | hands records to a handler, in order; retries, dead letters, blocking, parking |
//! | [`retry`] | retry policies as data, and the one function that decides |
//! | [`blocking`] | what holds a partition, and the commands that end it |
//! | [`dead_letter`], [`brake`] | records that cannot be used, and what stops them from becoming too many |
//! | [`kv_store`] | a compacted topic in memory, complete before it says so |
//! | [`transaction`] | records in, records out, offsets: exactly once |
//! | [`relay`] | a log outside Kafka into a topic, exactly once |
//! | [`atomic_kv_store`] | values changed by commands, exactly once, with callbacks |
//! | [`groups`] | what the brokers tell of all groups, for those who look on |
//! | [`settings`], [`topics`], [`headers`], [`record`], [`topic_id`] | the client's settings, topics of one's own, headers as bytes, an owned record, which topic a name stands for |
//!
//! What this crate refuses to know: what records are about, SQL, and the environment.

pub mod atomic_kv_store;
pub mod blocking;
pub mod brake;
mod client;
pub mod consumer;
pub mod dead_letter;
mod durable;
pub mod groups;
pub mod headers;
pub mod kv_store;
mod log_ends;
mod native;
pub mod record;
pub mod relay;
pub mod retry;
pub mod settings;
pub mod topic_id;
pub mod topics;
pub mod transaction;

pub use atomic_kv_store::{AtomicKvStore, AtomicKvStoreConfig};
pub use kv_store::{KvStore, KvStoreConfig};
pub use relay::TransactionalRelay;
