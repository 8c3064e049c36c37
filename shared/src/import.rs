//! Words of the import of contacts: what `jobs`, `importer` and `notifier` say to each other, as data and pure functions.
//!
//! ```text
//! notifier ── ChannelId ──> browser ── file + ChannelId ──> jobs
//! jobs ── JobRecord ──────────> import.jobs ──────────────> importer
//! jobs ── open, cancel ─┐
//!                       ├────> import.progress.commands ──> progress::apply ──┬─> import.progress  (Progress)
//! importer ── job_done ─┘                                                     └─> notifications    (Notification)
//! ```
//!
//! Values are JSON. Keys: of a job `<import id>/<job>`, so that the work of one import spreads; of commands and progress the
//! import's id, so that they are applied one after another; of notifications the channel's id, so that a browser gets them in order.
//! Who produces commands must choose partitions alike: all leave that to the client's default, or to the operator's properties.
//!
//! Absent: Kafka clients, SQL, and what is done with a row.

mod channel;
mod job;
mod notification;
mod progress;
#[cfg(test)]
mod progress_tests;

pub use channel::{CHANNEL_SECRET_BYTES_MIN, ChannelError, ChannelId, ChannelSecret};
pub use job::{Columns, ImportId, JOB_BYTES_MAX, JobRecord, Mode, ROWS_OF_FIRST_JOB, ROWS_PER_JOB, Row};
pub use notification::{Notification, NotificationKind};
pub use progress::{JobSet, Progress, ProgressCommand, RowCounts, State, apply};

/// Jobs; deleted by time, as nothing of them is needed once they are done.
pub const JOBS_TOPIC: &str = "import.jobs";
/// Commands to the progress of imports.
pub const PROGRESS_COMMANDS_TOPIC: &str = "import.progress.commands";
/// Progress by import id; compacted, with as many partitions as the commands.
pub const PROGRESS_TOPIC: &str = "import.progress";
/// What browsers are told.
pub const NOTIFICATIONS_TOPIC: &str = "notifications";
