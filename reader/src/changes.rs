//! The change log of the view, followed on the replicas that are read.
//!
//! ```text
//! tail      one per replica: reads what its log has new, once for all who listen
//! page      a statement's rows → the next stretch of the log. Pure
//! batch     a stretch as all share it, rendered once
//! follow    one subscriber's place: reads back what it lacks, then listens
//! cursor    a place per partition; token: a cursor as text
//! ```
//!
//! # Guarantees
//!
//! * A stretch is complete: it is read in one snapshot together with the positions that bound it, so no change below them
//!   can appear later. Within a partition changes come in the order of their places.
//! * A subscriber is at a cursor. What is not after it is not told again, and whoever lacks something before a batch reads
//!   it back first: so it does not matter which replica, connection or reader the batch comes from.
//! * A replica that is behind a cursor tells nothing until it has passed it.
//! * What can't be told any more is said to be missing ([`Gap`]), never left out in silence.
//! * Nothing waits for a subscriber: batches stand in a ring of [`BATCHES_KEPT`]; one that was overtaken reads back.
//!
//! A tail works only while somebody listens. The log's meaning, and the cases of generations and failovers, stand in ADR 10.

mod batch;
mod cursor;
mod follow;
mod page;
mod tail;
mod token;

use std::sync::Arc;
use std::time::Duration;

use shared::ids::{AppId, SiteId};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub(crate) use batch::Change;
pub(crate) use cursor::{Cursor, Place};
pub(crate) use follow::{Follower, Gap, Heard, Selected, Start};
pub(crate) use tail::{News, Subscription, Tail};
pub(crate) use token::{cursor, token};

use crate::cache;
use crate::config::Config;
use crate::error::Error;
use crate::position::Position;
use crate::queries::changes::PageLimits;
use crate::replicas::Replicas;

/// Batches that a tail keeps for those who have not taken them yet.
pub(crate) const BATCHES_KEPT: usize = 64;

/// Changes in a batch, of all partitions together.
const BATCH_ROWS_MAX: usize = 1000;

/// Bytes of events in a batch. One event of each partition may exceed it.
const BATCH_BYTES_MAX: usize = 128 << 10;

/// Stretches that subscribers may hold at once that they have read for themselves: with [`BATCH_BYTES_MAX`] the bound of the
/// memory for those who lag.
const READ_BACKS_MAX: usize = 128;

/// Time that a tail gets to begin; then another replica's is tried.
const TAIL_START_MAX: Duration = Duration::from_secs(4);

/// The tails of all replicas.
#[derive(Debug)]
pub(crate) struct Changes {
    tails: Vec<Arc<Tail>>,
    replicas: Arc<Replicas>,
    /// One permit per stretch that a subscriber has read for itself.
    read_backs: Arc<Semaphore>,
}

/// Which changes somebody wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    pub(crate) site_id: Option<SiteId>,
    pub(crate) app_id: Option<AppId>,
}

impl Filter {
    pub(crate) fn site_id(&self) -> Option<&str> {
        self.site_id.as_ref().map(SiteId::as_str)
    }

    pub(crate) fn app_id(&self) -> Option<&str> {
        self.app_id.as_ref().map(AppId::as_str)
    }

    fn is_everything(&self) -> bool {
        self.site_id.is_none() && self.app_id.is_none()
    }

    fn wants(&self, change: &Change) -> bool {
        self.site_id().is_none_or(|site_id| site_id == &*change.site_id)
            && self.app_id().is_none_or(|app_id| change.app_ids.iter().any(|changed| changed == app_id))
    }
}

impl Changes {
    /// Starts one task for each replica; they run until they are aborted.
    pub(crate) fn start(config: &Config, replicas: &Arc<Replicas>, upkeep: &mut JoinSet<()>) -> Arc<Self> {
        let tail = |replica: &Arc<_>| Arc::new(Tail::new(Arc::clone(replica), config.request_time_max));
        let tails: Vec<Arc<Tail>> = replicas.each().map(tail).collect();
        tails.iter().for_each(|tail| drop(upkeep.spawn(Arc::clone(tail).keep())));
        if let Some(bytes_max) = config.cache_bytes.checked_div(tails.len() as u64).filter(|bytes_max| *bytes_max > 0) {
            tails.iter().for_each(|tail| drop(upkeep.spawn(cache::keep(Arc::clone(tail), bytes_max))));
        }
        let read_backs = Arc::new(Semaphore::new(READ_BACKS_MAX));
        Arc::new(Self { tails, replicas: Arc::clone(replicas), read_backs })
    }

    /// Listens to the first replica that may answer, in the order of the configuration, so that a reader keeps one tail busy and not
    /// all; to one that is behind only where all are. With a position, to the first that has reached it. Errors when there is none.
    pub(crate) async fn subscribe(&self, position: Option<&Position>) -> Result<Subscription, Error> {
        let able = self.able();
        let fit = able.iter().filter(|tail| position.is_none_or(|position| tail.replica().reaches(position)));
        let mut found = false;
        for tail in fit {
            found = true;
            if let Ok(subscription) = tokio::time::timeout(TAIL_START_MAX, tail.subscribe()).await {
                return Ok(subscription);
            }
            tracing::warn!(replica = tail.replica().name(), "the change log is not to be had");
        }
        match found || able.is_empty() {
            true => Err(Error::NoReplica),
            false => Err(Error::PositionNotReached(Duration::ZERO)),
        }
    }

    /// The replicas that may answer, those that are behind last; the primary only while there is none.
    fn able(&self) -> Vec<&Arc<Tail>> {
        let (replicas, fallback) = self.tails.split_at(self.replicas.count());
        let able = |tail: &&Arc<Tail>| tail.replica().can_answer();
        let mut found: Vec<&Arc<Tail>> = replicas.iter().filter(able).collect();
        if found.is_empty() {
            found = fallback.iter().filter(able).collect();
        }
        found.sort_by_key(|tail| tail.replica().behind().is_some());
        found
    }
}

/// The limits of a page over so many partitions.
fn page_limits(partitions: usize) -> PageLimits {
    let partitions = partitions.max(1);
    PageLimits {
        rows_max: (BATCH_ROWS_MAX / partitions).max(16) as i64,
        bytes_max: (BATCH_BYTES_MAX / partitions).max(1) as i64,
    }
}
