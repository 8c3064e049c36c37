//! Kafka patterns as a library: consumers that retry, block and bury, stores on compacted topics, transactions.
//!
//! | module | what it is |
//! |---|---|
//! | [`dead_letter`], [`brake`] | records that cannot be used, and what stops them from becoming too many |
//! | [`settings`], [`headers`] | the client's settings, headers as bytes |
//!
//! What this crate refuses to know: what records are about, SQL, and the environment.

pub mod brake;
pub mod dead_letter;
mod durable;
pub mod headers;
pub mod settings;
mod topics;
