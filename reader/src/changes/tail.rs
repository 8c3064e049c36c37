//! One replica's log, read once for all who listen.
//!
//! A tail begins with the first listener and ends some time after the last. It reads when a sample of its replica shows that
//! there is something to read, over a connection of its own, so that look-ups are not held up; its listeners read back over
//! the same connection, one after another, so however many lag, one backend serves them. Whatever ends the connection, or
//! the generation, ends the tail: listeners see its channel closed, and nothing of its state outlives it.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, broadcast, watch};
use tokio::time::timeout;

use super::batch::Batch;
use super::cursor::Cursor;
use super::page::Broken;
use super::{BATCHES_KEPT, Filter, page_limits};
use crate::position::{Generation, Grounds, Sample};
use crate::queries::changes::{ChangeLog, Ends, Page};
use crate::replicas::{Replica, backoff, chain};

/// A tail goes on for so long without a listener: long polls come back at once, and need not find it ended.
const LINGER: Duration = Duration::from_secs(30);

/// What a tail tells.
#[derive(Debug, Clone)]
pub(crate) enum News {
    /// There are changes.
    Batch(Arc<Batch>),
    /// A position was set back by an operator; the log goes on from here, and may tell again what it has told.
    SetBack(Arc<Cursor>),
}

/// Why a tail ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("{}", chain(.0))]
    Database(#[from] tokio_postgres::Error),
    #[error("gives no sample in time")]
    Silent,
    #[error("another generation is active")]
    Generation,
    #[error("the log was cut off before it was read")]
    Expired,
}

/// The tail of one replica.
#[derive(Debug)]
pub(crate) struct Tail {
    replica: Arc<Replica>,
    statement_time_max: Duration,
    /// What listeners take part in; `None` while the tail does not run.
    live: watch::Sender<Option<Live>>,
    wanted: Notify,
}

/// How far a tail has read.
#[derive(Debug, Clone)]
pub(crate) struct Reached {
    pub(crate) cursor: Arc<Cursor>,
    /// The sum of epochs of the newest sample that was followed to its end: a repair raises it and writes changes, but moves no
    /// position.
    claims: Option<i64>,
}

impl Reached {
    /// Whether all changes below a sample's positions have been read, those of repairs too.
    pub(crate) fn covers(&self, sample: &Sample) -> bool {
        let is_read = |(partition, next_offset)| self.cursor.place(partition).next_offset() >= next_offset;
        sample.generation == self.cursor.generation
            && self.claims == Some(sample.claims)
            && sample.offsets().all(is_read)
    }
}

#[derive(Debug)]
struct Live {
    log: Arc<ChangeLog>,
    news: broadcast::Sender<News>,
    reached: Arc<RwLock<Reached>>,
}

/// A listener's end. All that is after `start` will be heard, until the channel closes or says that it has overtaken one.
///
/// Batches hold changes of this replica only, in the order of its log; each begins where the one before it ended or, where
/// there was nothing to tell meanwhile, further on.
#[derive(Debug)]
pub(crate) struct Subscription {
    /// Some batches that are heard may lie before it.
    pub(crate) start: Arc<Cursor>,
    pub(crate) news: broadcast::Receiver<News>,
    reached: Arc<RwLock<Reached>>,
    log: Arc<ChangeLog>,
    tail: Arc<Tail>,
}

impl Subscription {
    pub(crate) fn generation(&self) -> Generation {
        self.log.generation
    }

    /// The newest sample of the replica, if it is healthy.
    pub(crate) fn sample(&self) -> Option<Arc<Sample>> {
        self.tail.replica.sample()
    }

    /// What an answer rests on that is read from now on.
    pub(crate) fn grounds(&self) -> Option<Grounds> {
        self.sample().map(|sample| Grounds { sample, behind: self.tail.replica.behind() })
    }

    /// Up to here everything is in the channel or was heard. Look here before you find the channel empty.
    pub(crate) fn reached(&self) -> Reached {
        read(&self.reached)
    }

    /// Where the log begins and ends now.
    pub(super) async fn ends(&self) -> Result<Ends, Ended> {
        self.tail.in_time(self.log.ends()).await
    }

    /// What stands after a cursor.
    pub(super) async fn page(&self, cursor: &Cursor, filter: &Filter) -> Result<Page, Ended> {
        self.tail.page(&self.log, cursor, filter).await
    }
}

impl Tail {
    pub(super) fn new(replica: Arc<Replica>, statement_time_max: Duration) -> Self {
        Self { replica, statement_time_max, live: watch::Sender::new(None), wanted: Notify::new() }
    }

    pub(crate) fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// Waits for the tail to run, and listens.
    pub(crate) async fn subscribe(self: &Arc<Self>) -> Subscription {
        let mut live = self.live.subscribe();
        loop {
            if let Some(live) = &*live.borrow_and_update() {
                // First the channel, then the place: what is told between the two is heard twice rather than not at all.
                let news = live.news.subscribe();
                let (reached, log) = (Arc::clone(&live.reached), Arc::clone(&live.log));
                return Subscription { start: read(&reached).cursor, news, reached, log, tail: Arc::clone(self) };
            }
            self.wanted.notify_one();
            live.changed().await.expect("the tail holds the sender");
        }
    }

    /// Runs whenever somebody listens, for ever.
    pub(super) async fn keep(self: Arc<Self>) {
        loop {
            self.wanted.notified().await;
            let mut delays = backoff();
            while let Err(ended) = self.run().await {
                tracing::debug!(replica = self.replica.name(), %ended, "the tail of the change log begins anew");
                if !matches!(ended, Ended::Generation) {
                    tokio::time::sleep(delays.next().unwrap_or_default()).await;
                }
            }
        }
    }

    /// One connection's life; ends without an error when nobody has listened for some time.
    async fn run(&self) -> Result<(), Ended> {
        let client = self.replica.connect().await;
        let sample = self.next_sample(None).await?;
        let log = Arc::new(self.in_time_for(ChangeLog::open(client, sample.generation)).await?);
        let latest = Arc::new(self.in_time(log.ends()).await?.latest);
        let news = broadcast::Sender::new(BATCHES_KEPT);
        let reached = Arc::new(RwLock::new(Reached { cursor: latest.clone(), claims: None }));
        self.live.send_replace(Some(Live { log: log.clone(), news: news.clone(), reached: reached.clone() }));
        let ended = Reading { tail: self, log, news, reached, told: latest.clone(), cursor: latest, claims: None }
            .read_on()
            .await;
        // The last senders: listeners find the channel closed.
        self.live.send_replace(None);
        ended
    }

    /// A sample that was taken after another one.
    async fn next_sample(&self, after: Option<Instant>) -> Result<Arc<Sample>, Ended> {
        let silence_max = self.replica.silence_max();
        timeout(silence_max, self.replica.sample_after(after)).await.map_err(|_| Ended::Silent)
    }

    async fn page(&self, log: &ChangeLog, cursor: &Cursor, filter: &Filter) -> Result<Page, Ended> {
        self.in_time(log.page(cursor, filter, page_limits(cursor.places().len()))).await
    }

    async fn in_time<T>(
        &self,
        asked: impl Future<Output = Result<Option<T>, tokio_postgres::Error>>,
    ) -> Result<T, Ended> {
        self.in_time_for(asked).await?.ok_or(Ended::Generation)
    }

    async fn in_time_for<T>(&self, asked: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Ended> {
        Ok(timeout(self.statement_time_max, asked).await.map_err(|_| Ended::Silent)??)
    }
}

/// A running tail.
struct Reading<'a> {
    tail: &'a Tail,
    log: Arc<ChangeLog>,
    news: broadcast::Sender<News>,
    reached: Arc<RwLock<Reached>>,
    /// Up to here listeners were told what there is.
    told: Arc<Cursor>,
    /// Up to here the log was read; what lies between held no change.
    cursor: Arc<Cursor>,
    claims: Option<i64>,
}

impl Reading<'_> {
    async fn read_on(mut self) -> Result<(), Ended> {
        let (mut sampled, mut heard) = (None, Instant::now());
        loop {
            let sample = self.tail.next_sample(sampled).await?;
            sampled = Some(sample.taken_at);
            if sample.generation != self.log.generation {
                return Err(Ended::Generation);
            }
            match self.news.receiver_count() {
                0 if heard.elapsed() > LINGER => return Ok(()),
                0 => {}
                _ => heard = Instant::now(),
            }
            let moved = |(partition, next_offset)| self.cursor.place(partition).next_offset() != next_offset;
            if self.claims == Some(sample.claims) && !sample.offsets().any(moved) {
                continue;
            }
            while !self.read_once().await? {}
            self.claims = Some(sample.claims);
            self.reach();
        }
    }

    /// Reads and tells one stretch; whether it was the last for now.
    async fn read_once(&mut self) -> Result<bool, Ended> {
        let page = self.tail.page(&self.log, &self.cursor, &Filter::default()).await?;
        if page.is_behind(&self.cursor) {
            // The same connection has shown a later position: this is no replica that lags.
            self.cursor = Arc::new(self.tail.in_time(self.log.ends()).await?.latest);
            self.told = self.cursor.clone();
            self.tell(News::SetBack(self.cursor.clone()));
            self.reach();
            return Ok(true);
        }
        let stretch = page.stretch(&self.cursor, self.log.generation).map_err(|Broken::Expired| Ended::Expired)?;
        let is_last = stretch.is_last;
        let batch = Batch::new(self.told.clone(), self.cursor.clone(), stretch);
        self.cursor = batch.to.clone();
        if !batch.changes.is_empty() {
            self.told = self.cursor.clone();
            self.tell(News::Batch(Arc::new(batch)));
        }
        self.reach();
        Ok(is_last)
    }

    /// Says how far the log was read; after what was told, so that who sees it finds that in the channel.
    fn reach(&self) {
        let reached = Reached { cursor: self.cursor.clone(), claims: self.claims };
        *self.reached.write().unwrap_or_else(PoisonError::into_inner) = reached;
    }

    fn tell(&self, news: News) {
        // An error says that nobody listens.
        let _ = self.news.send(news);
    }
}

/// The value behind the lock is replaced as a whole, so a panic elsewhere leaves it usable.
fn read(reached: &RwLock<Reached>) -> Reached {
    reached.read().unwrap_or_else(PoisonError::into_inner).clone()
}
