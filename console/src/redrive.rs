//! Dead letters given back to their source topic, each once.
//!
//! A redrive goes through a dead-letter topic in the order of its offsets, up to where it ended when the redrive was begun, and
//! puts the records that are meant into their source topic: key, value and headers as they were there, the same partition where
//! that exists, and `dlq-redrive-count` one higher. Every group of the source topic sees them again, not only the one that
//! failed. One letter alone may be edited on the way (`edit`): then the record says so by `dlq-edited`, and the steps what was
//! before and what was made of it.
//!
//! **Nothing lost, nothing doubled.** Records and the *step* that says which letters they were are one Kafka transaction; steps
//! stand in `console.redrives`, kept for ever. A worker begins by reading the steps of its topic, and moves no letter that one of
//! them names, whichever redrive it was of. The transactional id belongs to the dead-letter topic: there is one worker at a time,
//! and whoever comes second fences the first, wherever it runs. So it may be stopped, killed and continued at any moment. A topic that
//! was deleted and made anew has another id, and its letters are other ones.
//!
//! **Not moved** are letters that came back `redrive_max` times already (the loop guard), letters whose value the broker refused
//! for its size, and records that are no letters of this topic; they are counted. Letters stay where they are: a step is what
//! says that they are done with.
//!
//! | module | what it does |
//! |---|---|
//! | `plan` | begins one: checks, takes the ends; counts without moving |
//! | `scan` | reads letters in order and judges them |
//! | `edit`, `difference` | what of a letter is changed before it goes back; the change, seen later |
//! | `ledger` | which letters were moved before |
//! | `work` | the loop: scan, transaction, pace |
//! | `workers` | those that run in this process |

mod difference;
mod edit;
mod ledger;
mod plan;
mod scan;
mod work;
mod workers;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::fingerprint::Fingerprint;

pub(crate) use difference::difference;
pub use edit::{Before, Edit, Kept, Part};
pub(crate) use edit::{EDIT_BYTES_MAX, Editable};
pub(crate) use plan::{Wanted, begin, count, editable, halt, last};
pub(crate) use work::{Stop, work};
pub(crate) use workers::Workers;

/// Topic of the steps; one partition.
pub const REDRIVES_TOPIC: &str = "console.redrives";
/// Letters that are chosen one by one; the choice stands in each step.
pub const CHOSEN_MAX: usize = 1000;
/// Fastest rate, in records per second.
pub const RATE_MAX: u32 = 100_000;

/// A redrive, as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redrive {
    /// Ordered by time.
    pub id: String,
    /// Where the letters are.
    pub dead_letter_topic: String,
    /// Which topic that name stands for; `None` where the brokers know no ids.
    pub topic_id: Option<String>,
    /// Which letters.
    pub selection: Selection,
    /// Records per second at most.
    pub rate_per_second: u32,
    /// Letters that came back so often are not moved.
    pub redrive_max: u64,
    /// Who began it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When, RFC 3339.
    pub begun_at: String,
    /// How it stands.
    pub state: RedriveState,
    /// Next offset of each partition.
    pub next: BTreeMap<i32, i64>,
    /// Offset at which each partition ends.
    pub ends: BTreeMap<i32, i64>,
    /// What became of the letters so far.
    pub counts: Counts,
    /// What the letter is to have instead of what it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit: Option<Edit>,
    /// Which parts that changes; told where their contents are not.
    #[serde(default)]
    pub edited: BTreeSet<Part>,
}

impl Redrive {
    /// As it is shown to those who may not see every record.
    pub(crate) fn without_contents(self) -> Self {
        Self { edit: None, ..self }
    }
}

/// Which letters are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// One.
    Letter {
        /// Partition of the dead-letter topic.
        partition: i32,
        /// Offset in it.
        offset: i64,
    },
    /// Several that somebody has chosen: partition and offset of each.
    Letters(BTreeSet<(i32, i64)>),
    /// All of a kind.
    Fingerprint(Fingerprint),
}

impl Selection {
    /// Of chosen places; an error when there are none, or too many.
    pub fn of_places(places: impl IntoIterator<Item = (i32, i64)>) -> Result<Self, String> {
        let places: BTreeSet<(i32, i64)> = places.into_iter().collect();
        match places.first() {
            Some((partition, offset)) if places.len() == 1 => {
                Ok(Self::Letter { partition: *partition, offset: *offset })
            }
            Some(_) if places.len() <= CHOSEN_MAX => Ok(Self::Letters(places)),
            Some(_) => Err(format!("{} letters are chosen, {CHOSEN_MAX} at most may be", places.len())),
            None => Err("no letter is chosen".to_owned()),
        }
    }

    /// Whether a letter at this place, of this kind, is meant.
    fn means(&self, place: (i32, i64), kind: &Fingerprint) -> bool {
        match self {
            Self::Letter { partition, offset } => (*partition, *offset) == place,
            Self::Letters(places) => places.contains(&place),
            Self::Fingerprint(fingerprint) => fingerprint == kind,
        }
    }

    /// What a person types to confirm that this is what they mean: `<partition>@<offset>`, how many, or the fingerprint.
    pub fn confirmation(&self) -> String {
        match self {
            Self::Letters(places) => format!("{} letters", places.len()),
            Self::Letter { partition, offset } => format!("{partition}@{offset}"),
            Self::Fingerprint(fingerprint) => fingerprint.to_string(),
        }
    }
}

/// How a redrive stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RedriveState {
    /// A worker was at it when this was written.
    Running,
    /// Somebody stopped it; it can be continued.
    Stopped,
    /// Every letter that is meant was looked at.
    Done,
}

/// What became of letters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Letters given back.
    pub moved: u64,
    /// Of those that are meant: given back by an earlier redrive.
    pub moved_before: u64,
    /// Of those that are meant: came back too often.
    pub guarded: u64,
    /// Of those that are meant: without their value.
    pub without_value: u64,
}

/// What happened, in one transaction with the records that were moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When, RFC 3339.
    pub at: String,
    /// What.
    pub event: StepEvent,
    /// Who began, continued or stopped it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// The redrive behind this step.
    pub redrive: Redrive,
    /// Partition and offset of each letter that was moved.
    pub letters: Vec<(i32, i64)>,
    /// How many of them are of which kind.
    pub kinds: BTreeMap<Fingerprint, u64>,
    /// What an edited letter had before, where one was moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
}

/// What a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepEvent {
    /// A worker took it up for the first time.
    Begun,
    /// A worker took it up again.
    Continued,
    /// Letters were moved, or looked at.
    Moved,
    /// It was stopped.
    Stopped,
    /// It is done.
    Done,
}

/// Why a redrive does not begin or go on. What was committed stands; it can be continued.
#[derive(Debug, thiserror::Error)]
pub enum RedriveError {
    /// The client, or the brokers.
    #[error("{step}: {error}")]
    Kafka {
        /// What was being done.
        step: &'static str,
        /// The client's words.
        error: rdkafka::error::KafkaError,
    },
    /// The topic of the steps is not there.
    #[error(transparent)]
    Open(#[from] messaging::topics::OpenError),
    /// What was asked for cannot be done.
    #[error("{0}")]
    Refused(String),
    /// Another worker has this dead-letter topic now.
    #[error("another worker has taken over the dead letters of {0}")]
    Fenced(String),
    /// It took too long.
    #[error("{0} did not end in time")]
    TimedOut(&'static str),
}

impl RedriveError {
    fn kafka(step: &'static str) -> impl Fn(rdkafka::error::KafkaError) -> Self {
        move |error| Self::Kafka { step, error }
    }
}
