//! What holds a partition, kept where restarts and rebalances cannot lose it, and changed by commands that cannot hit the
//! wrong record.
//!
//! | topic | key | holds |
//! |---|---|---|
//! | `<group>.blocking`, compacted | `<topic>-<partition>` | a [`PartitionState`] as JSON; none where nothing holds the partition and no command was ever followed |
//! | `<group>.commands`, kept for a week | the same | a [`Command`] as JSON |
//! | `<group>.audit`, kept for ever | the same | an [`Audited`] as JSON: what happened, to which record, by whom, why |
//!
//! Each has one partition, so that each is one history. A command names the exact offset at which it wants something to happen;
//! when nothing waits there (any more), it does nothing. It is known by its id: sent twice, it acts once. Every member reads
//! all commands, and the one that has the partition follows them; those that came while nobody had it are found by the next
//! owner, since a state says up to where commands had been read when it began, and which were followed.
//!
//! A state belongs to the topic whose id it has: what stood in one that was deleted says nothing of another that was made under its
//! name, and is forgotten (`topic-changed` in the audit).
//!
//! **Order.** States, commands and audits of a group are each one history. **Durability.** A command is as durable as its topic once
//! [`send`] has given its offset. States and audits are sent by the owner, acknowledged by all in-sync replicas, and not waited for: a
//! crash just then loses a state, whose record stands there again since its offset is not committed, and the last audits.
//! **Duplication.** A command that was followed just before a crash may be followed once more by the next owner.

mod state;
mod topics;

pub use state::{BlockingState, Command, Effect, Mode, NextAttempt, OutOfRange, PartitionState, Stuck, Verb, WaitsFor};
pub use topics::{Audited, audit_topic, blocking_topic, commands_topic, send, states};
pub(crate) use topics::{Reader, Told, Writer};

/// Key of a partition's records: `<topic>-<partition>`.
pub fn partition_key(topic: &str, partition: i32) -> String {
    format!("{topic}-{partition}")
}
