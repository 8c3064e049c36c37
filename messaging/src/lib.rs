//! Kafka patterns as a library: consumers that retry, block and bury, stores on compacted topics, transactions.
//!
//! | module | what it is |
//! |---|---|
//! | [`consumer`] | hands records to a handler, in order; retries, dead letters, blocking, parking |
//! | [`retry`] | retry policies as data, and the one function that decides |
//! | [`blocking`] | what holds a partition, and the commands that end it |
//! | [`dead_letter`], [`brake`] | records that cannot be used, and what stops them from becoming too many |
//! | [`settings`], [`headers`], [`record`] | the client's settings, headers as bytes, an owned record |
//!
//! What this crate refuses to know: what records are about, SQL, and the environment.

pub mod blocking;
pub mod brake;
pub mod consumer;
pub mod dead_letter;
mod durable;
pub mod headers;
pub mod record;
pub mod retry;
pub mod settings;
mod topics;
