//! Progress of an import: one value, changed by commands, and the only truth about its state.
//!
//! Jobs are counted by membership in a set and not by adding one, so that a job told twice counts once. An end is a transition: it is
//! reached by one command, and the commands behind it change nothing.

use serde::{Deserialize, Serialize};

use super::{ImportId, Mode, Notification};

/// Where an import is.
///
/// ```text
/// accepted ─> running ──────┬─> completed   every job is done
///     │          │          └─> failed      every job is done, and at least one could not be worked at all
///     └──────────┴> cancelling ─> cancelled every job is done or was skipped
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// All its jobs are in the log; none is done.
    Accepted,
    /// Some jobs are done.
    Running,
    /// It was cancelled; jobs that are not started are skipped, and those under way are waited for.
    Cancelling,
    /// The end.
    Completed,
    /// The end: not all that was asked could be tried.
    Failed,
    /// The end.
    Cancelled,
}

impl State {
    /// Whether nothing can change any more.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// What became of rows. Each row of a job is in one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RowCounts {
    /// Became new contacts; with [`Mode::Check`]: would have.
    pub imported: u64,
    /// Changed a contact that was there.
    pub updated: u64,
    /// Said what was known already, or belong to a job that was skipped after a cancel.
    pub skipped: u64,
    /// Stand in the error file.
    pub failed: u64,
}

impl RowCounts {
    fn add(&mut self, other: Self) {
        self.imported = self.imported.saturating_add(other.imported);
        self.updated = self.updated.saturating_add(other.updated);
        self.skipped = self.skipped.saturating_add(other.skipped);
        self.failed = self.failed.saturating_add(other.failed);
    }
}

/// A command to the progress of one import, whose id is the key of the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProgressCommand {
    /// By jobs, in one transaction with the job records.
    Open {
        /// Who is told.
        channel_id: String,
        /// Whose contacts.
        owner_id: String,
        /// How many.
        jobs: u32,
        /// How many.
        rows: u64,
        /// What is to become of valid rows.
        mode: Mode,
    },
    /// By importers, after the rows are committed; once or more often per job, each time with the same counts.
    JobDone {
        /// Which.
        job: u32,
        /// What became of its rows.
        #[serde(flatten)]
        counts: RowCounts,
    },
    /// By importers: a job that can't be worked, such as a record that is not readable. Its rows, if they are known, count as failed.
    JobFailed {
        /// Which.
        job: u32,
        /// How many rows it had.
        rows: u64,
    },
    /// By jobs, when somebody asked for it.
    Cancel,
}

/// A set of job indexes, one bit each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobSet(Vec<u64>);

impl JobSet {
    /// Whether it was not in it yet.
    fn insert(&mut self, job: u32) -> bool {
        let (word, bit) = ((job / 64) as usize, 1 << (job % 64));
        self.0.resize(self.0.len().max(word + 1), 0);
        let is_new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        is_new
    }

    /// How many.
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this job is one of them.
    pub fn contains(&self, job: u32) -> bool {
        self.0.get((job / 64) as usize).is_some_and(|word| word & (1 << (job % 64)) != 0)
    }
}

/// The value of an import.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Where it is.
    pub state: State,
    /// Who is told.
    pub channel_id: String,
    /// Whose contacts.
    pub owner_id: String,
    /// What is to become of valid rows.
    pub mode: Mode,
    /// Jobs of the import.
    pub jobs: u32,
    /// Those that were told to be done, failed or skipped.
    pub jobs_done: JobSet,
    /// How many of them could not be worked.
    #[serde(default)]
    pub jobs_failed: u32,
    /// Rows of the import.
    pub rows: u64,
    /// What became of them so far.
    #[serde(flatten)]
    pub counts: RowCounts,
    /// Number of this value, from 1: a later one is greater.
    pub updates: u64,
}

impl Progress {
    /// Whether a job that is not begun should be left alone.
    pub fn skips_jobs(&self) -> bool {
        matches!(self.state, State::Cancelling | State::Cancelled)
    }

    /// What the channel is told about this value.
    pub fn notification(&self, import_id: ImportId) -> Notification {
        Notification::new(import_id, self)
    }

    /// The value once this job has ended; `None` when it had before, or is none of this import.
    fn after(&self, job: u32, counts: RowCounts, failed: bool) -> Option<Self> {
        if self.state.is_end() || job >= self.jobs || self.jobs_done.contains(job) {
            return None;
        }
        let mut next = self.clone();
        next.jobs_done.insert(job);
        next.jobs_failed += u32::from(failed);
        next.counts.add(counts);
        next.state = match (next.jobs_done.len() == next.jobs, self.state) {
            (false, State::Cancelling) => State::Cancelling,
            (false, _) => State::Running,
            (true, State::Cancelling) => State::Cancelled,
            (true, _) if next.jobs_failed > 0 => State::Failed,
            (true, _) => State::Completed,
        };
        Some(next)
    }
}

/// What a command makes of an import's value; `None` when it changes nothing, and then nobody is told anything.
///
/// Pure. The value that it gives is always told ([`Progress::notification`]), in the same transaction.
pub fn apply(progress: Option<&Progress>, command: &ProgressCommand) -> Option<Progress> {
    let next = match (progress, command) {
        (None, ProgressCommand::Open { channel_id, owner_id, jobs, rows, mode }) => Progress {
            state: if *jobs == 0 { State::Completed } else { State::Accepted },
            channel_id: channel_id.clone(),
            owner_id: owner_id.clone(),
            mode: *mode,
            jobs: *jobs,
            jobs_done: JobSet::default(),
            jobs_failed: 0,
            rows: *rows,
            counts: RowCounts::default(),
            updates: 0,
        },
        // Opened twice; or a word about an import that is not there, which its open would have come before.
        (Some(_), ProgressCommand::Open { .. }) | (None, _) => return None,
        (Some(now), ProgressCommand::JobDone { job, counts }) => now.after(*job, *counts, false)?,
        (Some(now), ProgressCommand::JobFailed { job, rows }) => {
            now.after(*job, RowCounts { failed: *rows, ..RowCounts::default() }, true)?
        }
        (Some(now), ProgressCommand::Cancel) => match now.state {
            State::Accepted | State::Running => Progress { state: State::Cancelling, ..now.clone() },
            _ => return None,
        },
    };
    Some(Progress { updates: next.updates + 1, ..next })
}
