//! The view in Postgres: one transaction per batch holds rows, change log and position, or none of them.
//!
//! One connection per lane, made anew when it dies. Names are unqualified; the session's `search_path` is the generation's
//! schema. Session limits let no frozen writer hold up its successor: an idle transaction is ended by the server after
//! `IDLE_TRANSACTION_MAX`, a lock is waited for no longer than `LOCK_WAIT_MAX`.

mod as_of;
pub mod change_log;
mod claim;
pub mod comparison;
pub mod generation;
mod operate;
mod primary;
mod read;
mod seen;
mod takeover;
mod upkeep;
mod wait;
mod write;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use shared::ids::SiteId;
use sqlx::{Connection, PgConnection};

pub use as_of::{Held, Stands};
pub use claim::{Claim, active_generation};
pub use operate::{Audit, Operation};
pub use primary::{NoUrl, Primary};
pub use read::PositionRow;
pub use seen::SiteSeen;
pub use takeover::{Taken, last_partitions, memberships};
pub use upkeep::Parts;

use crate::{
    batch::{Part, Tenure},
    ends::Ends,
    error::StoreError,
    fold::{Along, Site},
    plan::{Documents, Plan},
    topic_id::TopicId,
};

/// How long the server lets a transaction of this writer stand idle: a writer frozen inside its transaction loses it, and its
/// successor goes on.
const IDLE_TRANSACTION_MAX: Duration = Duration::from_secs(10);
/// How long a statement waits for a lock before it is tried again.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long the server works on one statement.
const STATEMENT_MAX: Duration = Duration::from_secs(30);
/// How long a whole transaction may take, seen from here; beyond it the connection is given up.
pub const TRANSACTION_MAX: Duration = Duration::from_secs(60);

/// One lane's access to the view.
pub struct Store {
    primary: Primary,
    topic: Arc<str>,
    owner: Arc<str>,
    connection: Option<PgConnection>,
    /// Whether the last transaction that wrote met rows of `app_site` that it was to add: the next one leaves those that are there.
    memberships_disagree: bool,
}

/// Where a batch leaves one partition.
#[derive(Debug, Clone)]
pub struct NextPosition {
    /// The partition and the claim on it.
    pub tenure: Arc<Tenure>,
    /// The partition's position after the batch.
    pub next_offset: i64,
    /// Changes up to this moment are contained, once the batch is.
    pub as_of: Option<Timestamp>,
    /// The record at which the partition stands from now on, and why.
    pub blocked: Option<Blocked>,
}

/// Why a partition stands, as `position` keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// What kind of obstacle it is.
    pub state: BlockedState,
    /// The record, or the position, at which the partition stands.
    pub offset: i64,
    /// For people.
    pub reason: String,
}

/// Kinds of obstacles; their texts are the column `blocked_state` and the states of `writer position`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockedState {
    /// A record that cannot be applied, and may not be left out.
    Blocked,
    /// Too many dead letters.
    Braked,
    /// The position lies outside the log.
    OutOfRange,
    /// The topic is not the one that the position belongs to.
    TopicChanged,
}

impl BlockedState {
    const ALL: [Self; 4] = [Self::Blocked, Self::Braked, Self::OutOfRange, Self::TopicChanged];

    /// The state of that text.
    pub fn of(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// The text that outsiders see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blocked => "blocked",
            Self::Braked => "braked",
            Self::OutOfRange => "out-of-range",
            Self::TopicChanged => "topic-changed",
        }
    }
}

impl NextPosition {
    /// The partition, standing where it is.
    pub fn as_part(&self) -> Part {
        Part { tenure: Arc::clone(&self.tenure), from_offset: self.next_offset, next_offset: self.next_offset }
    }
}

/// Options of every connection to the view.
pub fn connect_options(primary: &Primary, schema: &str) -> Primary {
    let milliseconds = |limit: Duration| limit.as_millis().to_string();
    primary
        .clone()
        .application_name("siteview-writer")
        .options([
            ("search_path", schema.to_owned()),
            ("idle_in_transaction_session_timeout", milliseconds(IDLE_TRANSACTION_MAX)),
            ("lock_timeout", milliseconds(LOCK_WAIT_MAX)),
            ("statement_timeout", milliseconds(STATEMENT_MAX)),
        ])
        .disable_statement_logging()
}

impl Store {
    /// A store that connects when it is first used. `owner` is written beside each position, for people.
    pub fn new(primary: Primary, topic: Arc<str>, owner: Arc<str>) -> Self {
        Self { primary, topic, owner, connection: None, memberships_disagree: false }
    }

    /// Gives up the connection; the next call makes a new one.
    pub fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Connects unless there is a connection.
    pub async fn connect(&mut self) -> Result<&mut PgConnection, StoreError> {
        if self.connection.is_none() {
            self.connection = Some(self.primary.connect().await?);
        }
        Ok(self.connection.as_mut().expect("just connected"))
    }

    /// Begins a transaction; dropped without [`Transaction::commit`] it is rolled back with its connection: after an error
    /// the caller gives up the connection by [`Store::disconnect`].
    pub async fn begin(&mut self) -> Result<Transaction<'_>, StoreError> {
        self.connect().await?;
        let inner = self.connection.as_mut().expect("just connected").begin().await?;
        let (topic, owner) = (Arc::clone(&self.topic), Arc::clone(&self.owner));
        Ok(Transaction {
            inner,
            read: Read::default(),
            topic,
            owner,
            memberships_disagree: &mut self.memberships_disagree,
        })
    }
}

/// What a transaction has read of `site_apps`.
#[derive(Debug, Default)]
struct Read {
    /// Of each row the transaction that wrote it (`xmin`).
    versions: HashMap<SiteId, String>,
    /// Documents that came along.
    documents: HashMap<SiteId, String>,
}

/// An open transaction of a [`Store`].
pub struct Transaction<'c> {
    inner: sqlx::Transaction<'c, sqlx::Postgres>,
    read: Read,
    topic: Arc<str>,
    owner: Arc<str>,
    memberships_disagree: &'c mut bool,
}

impl Transaction<'_> {
    /// Locks the positions of these claims until the transaction ends, and gives their next offsets. Errors with
    /// [`StoreError::ClaimsOver`] when a claim is no longer this writer's.
    pub async fn lock_positions(&mut self, tenures: &[Arc<Tenure>]) -> Result<HashMap<i32, i64>, StoreError> {
        read::lock_positions(&mut self.inner, &self.topic, tenures).await
    }

    /// What the view holds for these keys. Documents that come along are kept for [`Self::documents`].
    pub async fn sites(&mut self, wanted: &[(&SiteId, Along)]) -> Result<HashMap<SiteId, Site>, StoreError> {
        read::sites(&mut self.inner, wanted, &mut self.read).await
    }

    /// The stored documents of these keys, read back; those that did not come along with their rows are asked for.
    pub async fn documents(&mut self, site_ids: &BTreeSet<SiteId>) -> Result<Documents, StoreError> {
        read::documents(&mut self.inner, site_ids, &mut self.read).await
    }

    /// Writes the rows of a plan, whose sites have been read by [`Self::sites`]. Errors with [`StoreError::WrittenMeanwhile`] when
    /// another transaction has written one since, and with [`StoreError::MembershipsDisagree`] when a membership that it adds is
    /// there already; the store's next transaction leaves such rows.
    pub async fn write(&mut self, plan: &Plan) -> Result<(), StoreError> {
        let written = write::plan(&mut self.inner, plan, &self.read.versions, *self.memberships_disagree).await;
        *self.memberships_disagree = matches!(written, Err(StoreError::MembershipsDisagree));
        written
    }

    /// Moves the positions. Errors with [`StoreError::ClaimsOver`] when a claim is no longer this writer's.
    pub async fn advance(&mut self, positions: &[NextPosition]) -> Result<(), StoreError> {
        write::positions(&mut self.inner, &self.topic, positions).await
    }

    /// Takes partitions over: raises their epochs and gives where to go on, in ascending order. Partitions without a position
    /// start where their log does. One that may not go on stands, and its position says how.
    pub async fn claim(
        &mut self,
        partitions: &[(i32, Ends)],
        topic_id: Option<&TopicId>,
    ) -> Result<Vec<Claim>, StoreError> {
        claim::claim(&mut self.inner, &self.topic, &self.owner, partitions, topic_id).await
    }

    /// Notes, for people, what the partition of this claim waits for while it runs; `None` when it waits no longer.
    pub async fn note_wait(&mut self, tenure: &Tenure, waits_for: Option<&str>) -> Result<(), StoreError> {
        wait::note(&mut self.inner, &self.topic, tenure, waits_for).await
    }

    /// Ends the transaction without a trace, and with it its locks.
    pub async fn rollback(self) -> Result<(), StoreError> {
        Ok(self.inner.rollback().await?)
    }

    /// Makes everything durable at once.
    pub async fn commit(self) -> Result<(), StoreError> {
        Ok(self.inner.commit().await?)
    }
}
