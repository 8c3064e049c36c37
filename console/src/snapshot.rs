//! Everything that the console shows at one moment: plain data, which the API gives as it is and the page is made of.

use std::{collections::BTreeMap, sync::OnceLock};

use messaging::blocking::{Audited, PartitionState};
use serde::Serialize;

use crate::{
    fingerprint::Fingerprint,
    lag::{Cause, Unknown},
    redrive::Redrive,
    view::{Generation, Replica},
};

/// One moment.
#[derive(Debug, Default, Serialize)]
pub struct Snapshot {
    /// When, RFC 3339.
    pub at: String,
    /// All that stood in the followed topics when they were found has been read.
    pub complete: bool,
    /// Why Kafka does not tell, when it does not.
    pub error: Option<String>,
    /// Consumer groups.
    pub groups: Vec<Group>,
    /// Partitions that are held by something: blocked, parked, paused, ignoring.
    pub held: Vec<Held>,
    /// Retry topics.
    pub retry_topics: Vec<RetryTopic>,
    /// Dead-letter topics.
    pub dead_letters: Vec<DeadLetters>,
    /// Redrives, the newest first.
    pub redrives: Vec<RedriveRow>,
    /// Partitions whose readers of committed records are held back.
    pub open_transactions: Vec<OpenTransaction>,
    /// Services that the console was told about.
    pub services: Vec<Service>,
    /// Generations of the view, as those that write it tell.
    pub generations: Vec<Generation>,
    /// Its replicas, as those that read it tell.
    pub replicas: Vec<Replica>,
    /// What happened last in the groups, the newest first.
    pub audits: Vec<AuditRow>,
    /// What is not shown because a limit of the console was reached.
    pub beyond_limits: Vec<String>,
    /// The page made of it, once somebody has asked.
    #[serde(skip)]
    pub page: OnceLock<String>,
}

/// A consumer group.
#[derive(Debug, Clone, Serialize)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// What its coordinator says: `stable`, `rebalancing`, `empty`, `unknown`.
    pub state: &'static str,
    /// `client.id` and host of each member.
    pub members: Vec<String>,
    /// It is a consumer of `messaging`: operators' commands reach it.
    pub takes_commands: bool,
    /// Records of all partitions that are still to be consumed.
    pub lag_records: i64,
    /// The largest of its partitions, of which that is known; `None` where it is of none.
    pub lag_seconds: Option<f64>,
    /// The earliest of its partitions.
    pub next_record_at: Option<String>,
    /// The gravest of its partitions' causes.
    pub cause: Cause,
    /// Each partition for which it has an offset or a member.
    pub partitions: Vec<PartitionLag>,
}

/// Where a group stands in a partition.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionLag {
    /// Topic.
    pub topic: String,
    /// Partition of it.
    pub partition: i32,
    /// Next offset of the group; `None` when it has committed none.
    pub committed: Option<i64>,
    /// Offset behind the newest record.
    pub high_watermark: i64,
    /// Offset behind the last record that readers of committed records may see.
    pub last_stable_offset: i64,
    /// Records to be consumed.
    pub lag_records: i64,
    /// For how long the next record to be consumed has waited: now less its timestamp; 0 when there is none.
    pub lag_seconds: Option<f64>,
    /// Why that is not known.
    pub lag_seconds_unknown: Option<Unknown>,
    /// The timestamp of that record, RFC 3339.
    pub next_record_at: Option<String>,
    /// Why there are any.
    pub cause: Cause,
    /// Since when the offset has not moved although there is lag, RFC 3339, as far as this console has seen.
    pub unmoved_since: Option<String>,
}

/// A partition that something holds.
#[derive(Debug, Clone, Serialize)]
pub struct Held {
    /// The group that holds it.
    pub group: String,
    /// As the group keeps it, redacted.
    #[serde(flatten)]
    pub state: PartitionState,
}

/// A retry topic of a group.
#[derive(Debug, Clone, Serialize)]
pub struct RetryTopic {
    /// Its name.
    pub topic: String,
    /// The topic to which it belongs.
    pub source_topic: String,
    /// The group.
    pub group: String,
    /// From 0, in the order of the delays.
    pub number: usize,
    /// Records that wait for their next attempt.
    pub waiting_records: i64,
    /// When the first of them is due, RFC 3339; `None` when none waits, or it was not read (yet).
    pub next_due_at: Option<String>,
}

/// A dead-letter topic.
#[derive(Debug, Clone, Serialize)]
pub struct DeadLetters {
    /// Its name.
    pub topic: String,
    /// Letters that were read.
    pub letters: u64,
    /// Of them, given back to their source topic.
    pub redriven: u64,
    /// Offsets before the first that was read: older letters than the console looks at.
    pub unread: i64,
    /// Records in it that are no letters of this library.
    pub foreign: u64,
    /// Kinds, the newest first.
    pub kinds: Vec<Kind>,
}

/// Dead letters of one kind.
#[derive(Debug, Clone, Serialize)]
pub struct Kind {
    /// Names it.
    pub fingerprint: Fingerprint,
    /// For programs.
    pub reason: String,
    /// The text without what differs from record to record, redacted.
    pub pattern: String,
    /// Letters.
    pub letters: u64,
    /// Of them, given back to their source topic.
    pub redriven: u64,
    /// Of them, given back once or more before they came here.
    pub returned: u64,
    /// When the first was written, RFC 3339.
    pub first_at: String,
    /// When the last was written, RFC 3339.
    pub last_at: String,
    /// Partition and offset of the last.
    pub last_letter: (i32, i64),
}

/// A redrive, and whether this console works on it.
#[derive(Debug, Clone, Serialize)]
pub struct RedriveRow {
    /// As it stands in the topic.
    #[serde(flatten)]
    pub redrive: Redrive,
    /// This process works on it.
    pub works_here: bool,
    /// Why it ended here without having finished.
    pub failure: Option<String>,
}

/// A partition with records that may still be taken back.
#[derive(Debug, Clone, Serialize)]
pub struct OpenTransaction {
    /// Topic.
    pub topic: String,
    /// Partition of it.
    pub partition: i32,
    /// Readers of committed records see nothing from here on.
    pub last_stable_offset: i64,
    /// Offset behind the newest record.
    pub high_watermark: i64,
    /// Since when the last stable offset has stood there, RFC 3339, as far as this console has seen.
    pub since: String,
}

/// A service, as its admin port describes it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Service {
    /// As the console was told.
    pub name: String,
    /// Whether it is ready; `None` when it does not answer.
    pub ready: Option<bool>,
    /// What does not hold, or why there is no answer.
    pub detail: Vec<String>,
    /// Metrics that tell of lag, replicas and freshness, by name and labels.
    pub metrics: BTreeMap<String, f64>,
}

/// Something that happened in a group.
#[derive(Debug, Clone, Serialize)]
pub struct AuditRow {
    /// The group.
    pub group: String,
    /// What, redacted.
    #[serde(flatten)]
    pub audited: Audited,
}
