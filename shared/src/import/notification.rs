//! What a channel is told: the frame that browsers get, without its cursor.

use serde::{Deserialize, Serialize};

use super::{ImportId, Progress, RowCounts, State};

/// The `type` of a frame about an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotificationKind {
    /// The import exists; once, and first.
    Accepted,
    /// Something of it has changed. Each holds the whole state, so the latest stands for those before it.
    Progress,
    /// The end; one of these three, once, and last.
    Completed,
    /// The end.
    Failed,
    /// The end.
    Cancelled,
}

impl NotificationKind {
    /// Whether a later one of the same import makes this one superfluous.
    pub fn can_be_left_out(self) -> bool {
        self == Self::Progress
    }
}

/// The value of a record of the topic `notifications`, whose key is the channel's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// What kind of frame.
    #[serde(rename = "type")]
    pub kind: NotificationKind,
    /// About which import.
    pub import_id: ImportId,
    /// Where it is; also says `cancelling`, of which there is no frame type.
    pub state: State,
    /// Jobs of the import.
    pub jobs: u32,
    /// How many have ended.
    pub jobs_done: u32,
    /// Rows of the import.
    pub rows: u64,
    /// What became of them so far.
    #[serde(flatten)]
    pub counts: RowCounts,
}

impl Notification {
    pub(super) fn new(import_id: ImportId, progress: &Progress) -> Self {
        let kind = match progress.state {
            State::Accepted => NotificationKind::Accepted,
            State::Running | State::Cancelling => NotificationKind::Progress,
            State::Completed => NotificationKind::Completed,
            State::Failed => NotificationKind::Failed,
            State::Cancelled => NotificationKind::Cancelled,
        };
        let (jobs, jobs_done) = (progress.jobs, progress.jobs_done.len());
        Self { kind, import_id, state: progress.state, jobs, jobs_done, rows: progress.rows, counts: progress.counts }
    }
}
