//! One subscriber: at a cursor, from which it reads back what it lacks and then listens.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::error::RecvError;

use super::batch::{Batch, Change};
use super::cursor::Cursor;
use super::page::Broken;
use super::tail::{Ended, News, Subscription};
use super::{Changes, Filter};
use crate::error::Error;
use crate::position::{Grounds, RowPosition};

/// Pause after something was not to be had.
const PAUSE: Duration = Duration::from_millis(100);

/// Where a subscriber begins.
#[derive(Debug)]
pub(crate) enum Start {
    /// With what comes from now on.
    Now,
    /// With the oldest change that is kept.
    Earliest,
    /// Behind what it has read already.
    After(Cursor),
}

/// Why a subscriber can't rely on what it has heard alone, and should read the state anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gap {
    /// Changes are gone that it has not heard.
    Expired,
    /// The view was built anew, or an earlier build serves again: what differs between the two is in no log.
    Generation,
    /// An operator has set a position back; changes may come again.
    SetBack,
}

impl Gap {
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Gap::Expired => "feed-position-expired",
            Gap::Generation => "generation-changed",
            Gap::SetBack => "position-set-back",
        }
    }
}

/// What a subscriber hears.
#[derive(Debug)]
pub(crate) enum Heard {
    Changes(Selected),
    Gap(Gap),
}

/// The changes of a batch that a subscriber wants; at least one.
#[derive(Debug)]
pub(crate) struct Selected {
    batch: Arc<Batch>,
    /// `None` for all.
    indexes: Option<Vec<usize>>,
    /// Held for as long as the batch's memory is this subscriber's alone.
    permit: Option<OwnedSemaphorePermit>,
}

/// A subscriber's place and what it listens to.
#[derive(Debug)]
pub(crate) struct Follower {
    changes: Arc<Changes>,
    filter: Filter,
    cursor: Arc<Cursor>,
    subscription: Option<Subscription>,
    /// Whether it has all that was there when it began to listen.
    caught_up: bool,
}

impl Follower {
    /// Begins to follow over a subscription of `changes`. Gives what its answers rest on, too.
    pub(crate) async fn open(
        changes: Arc<Changes>,
        subscription: Subscription,
        start: Start,
        filter: Filter,
    ) -> Result<(Self, Option<Grounds>), Error> {
        let grounds = subscription.grounds();
        let (cursor, caught_up) = match start {
            Start::Now => (subscription.start.clone(), true),
            Start::Earliest => (Arc::new(subscription.ends().await.map_err(refused)?.earliest), false),
            Start::After(cursor) => (Arc::new(cursor), false),
        };
        Ok((Self { changes, filter, cursor, subscription: Some(subscription), caught_up }, grounds))
    }

    /// Where it is: what was heard so far is before it, what will be heard is after it.
    pub(crate) fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    pub(crate) fn is_caught_up(&self) -> bool {
        self.caught_up
    }

    /// The next that it wants to hear; waits for it. Nothing is lost when the wait is given up.
    pub(crate) async fn next(&mut self) -> Heard {
        loop {
            if let Some(heard) = self.next_back().await {
                return heard;
            }
            match self.listen().await {
                Ok(Some(heard)) => return heard,
                Ok(None) => {}
                Err(ended) => self.lose(&ended).await,
            }
        }
    }

    /// As [`Self::next`], of what it lacks only; `None` once it has caught up.
    pub(crate) async fn next_back(&mut self) -> Option<Heard> {
        while !self.caught_up {
            match self.read_back().await {
                Ok(Some(heard)) => return Some(heard),
                Ok(None) => {}
                Err(ended) => self.lose(&ended).await,
            }
        }
        None
    }

    async fn lose(&mut self, ended: &Ended) {
        tracing::debug!(%ended, "a feed looks for another replica");
        (self.subscription, self.caught_up) = (None, false);
        tokio::time::sleep(PAUSE).await;
    }

    /// Reads one stretch for itself; `None` when it holds nothing that is wanted.
    pub(crate) async fn read_back(&mut self) -> Result<Option<Heard>, Ended> {
        self.subscribed().await?;
        let read_backs = Arc::clone(&self.changes.read_backs);
        let permit = read_backs.acquire_owned().await.expect("the semaphore is never closed");
        let (subscription, cursor) = (self.subscription.as_ref().ok_or(Ended::Silent)?, self.cursor.clone());
        let generation = subscription.generation();
        let page = subscription.page(&cursor, &self.filter).await?;
        if cursor.generation > page.newest_served {
            // The replica has not seen the generation yet that the subscriber comes from; it waits for the tail to end.
            self.caught_up = true;
            return Ok(None);
        }
        let stretch = match page.stretch(&cursor, generation) {
            Ok(stretch) => stretch,
            Err(Broken::Expired) => return self.begin_at_the_earliest().await,
        };
        if cursor.generation != generation {
            self.cursor = Arc::new(cursor.in_generation(generation));
            return Ok(Some(Heard::Gap(Gap::Generation)));
        }
        let is_last = stretch.is_last;
        let batch = Arc::new(Batch::new(cursor.clone(), cursor, stretch));
        (self.cursor, self.caught_up) = (batch.to.clone(), is_last);
        let some = !batch.changes.is_empty();
        Ok(some.then(|| Heard::Changes(Selected { batch, indexes: None, permit: Some(permit) })))
    }

    async fn begin_at_the_earliest(&mut self) -> Result<Option<Heard>, Ended> {
        let ends = self.subscribed().await?.ends().await?;
        let mut earliest = ends.earliest;
        // Where the cursor is ahead of the floor, it stays.
        self.cursor.places().for_each(|(partition, place)| earliest.advance(partition, place));
        self.cursor = Arc::new(earliest);
        Ok(Some(Heard::Gap(Gap::Expired)))
    }

    /// Waits for a batch; `None` when it holds nothing that is wanted.
    async fn listen(&mut self) -> Result<Option<Heard>, Ended> {
        let subscription = self.subscribed().await?;
        let generation = subscription.generation();
        match subscription.news.recv().await {
            Ok(News::Batch(batch)) => Ok(self.take(batch, generation)),
            Ok(News::SetBack(cursor)) if cursor.generation == self.cursor.generation => {
                (self.cursor, self.caught_up) = (cursor, false);
                Ok(Some(Heard::Gap(Gap::SetBack)))
            }
            Ok(News::SetBack(_)) => Ok(None),
            Err(RecvError::Lagged(_)) => {
                self.caught_up = false;
                Ok(None)
            }
            Err(RecvError::Closed) => {
                (self.subscription, self.caught_up) = (None, false);
                Ok(None)
            }
        }
    }

    fn take(&mut self, batch: Arc<Batch>, generation: i32) -> Option<Heard> {
        if self.cursor.generation != generation {
            // Not there yet, see `read_back`; once it is, the tail begins anew.
            return None;
        }
        if !Arc::ptr_eq(&self.cursor, &batch.from) && !self.cursor.covers(&batch.from) {
            self.caught_up = false;
            return None;
        }
        let in_step = Arc::ptr_eq(&self.cursor, &batch.from) || batch.at.covers(&self.cursor);
        let batch = if in_step { batch } else { Arc::new(batch.for_reader_at(&self.cursor)) };
        self.cursor = batch.to.clone();
        let wanted = || (0..batch.changes.len()).filter(|index| self.filter.wants(&batch.changes[*index])).collect();
        let indexes: Option<Vec<usize>> = (!self.filter.is_everything()).then(wanted);
        let count = indexes.as_ref().map_or(batch.changes.len(), Vec::len);
        (count > 0).then_some(Heard::Changes(Selected { batch, indexes, permit: None }))
    }

    /// Goes on to where the tail is when nothing is left to hear: so the token of a quiet feed does not grow old.
    pub(crate) fn rest(&mut self) {
        let Some(subscription) = self.subscription.as_ref().filter(|_| self.caught_up) else { return };
        let reached = subscription.reached().cursor;
        if subscription.news.is_empty() && reached.generation == self.cursor.generation {
            let mut cursor = (*self.cursor).clone();
            cursor.join(&reached);
            self.cursor = Arc::new(cursor);
        }
    }

    async fn subscribed(&mut self) -> Result<&mut Subscription, Ended> {
        if self.subscription.is_none() {
            self.subscription = Some(self.changes.subscribe(None).await.map_err(|_| Ended::Silent)?);
            self.caught_up = false;
        }
        self.subscription.as_mut().ok_or(Ended::Silent)
    }
}

impl Selected {
    /// The events' JSON.
    pub(crate) fn events(&self) -> impl Iterator<Item = &[u8]> {
        self.changes().map(|change| self.batch.event(change))
    }

    /// How far each shows its replica to be.
    pub(crate) fn positions(&self) -> impl Iterator<Item = RowPosition> {
        self.changes()
            .map(|change| RowPosition { partition: change.partition, next_offset: change.place.next_offset() })
    }

    fn changes(&self) -> impl Iterator<Item = &Change> {
        let all = self.indexes.is_none().then(|| 0..self.batch.changes.len()).into_iter().flatten();
        let indexes = all.chain(self.indexes.iter().flatten().copied());
        indexes.map(|index| &self.batch.changes[index])
    }

    /// As server-sent events. What is shared by all is not copied.
    pub(crate) fn into_frames(self) -> Bytes {
        let frame = |index: &usize| self.batch.frame(&self.batch.changes[*index]);
        let bytes = match self.indexes.as_deref() {
            None => self.batch.frames(),
            Some([one]) => frame(one),
            Some(several) => several.iter().map(frame).collect::<Vec<_>>().concat().into(),
        };
        match self.permit {
            Some(permit) => Bytes::from_owner(Held(bytes, permit)),
            None => bytes,
        }
    }
}

/// Bytes that count as read back for as long as they lie in memory, on their way to a socket too.
struct Held(Bytes, #[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// How a request sees that the log can't be read at the moment.
fn refused(ended: Ended) -> Error {
    tracing::debug!(%ended, "the change log is not to be had");
    Error::NoReplica
}
