//! One database: its connections, its last sample, and the leases under which requests use them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use deadpool_postgres::{ClientWrapper, Pool};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Settings;
use super::connection::{self, Connection};
use super::sampler;
use crate::config::Database;
use crate::error::Failure;
use crate::position::{Position, Sample};
use crate::queries::Query;

/// A database and all that is known of it. Requests read it, its upkeep tasks write it.
#[derive(Debug)]
pub(crate) struct Replica {
    name: String,
    pub(super) settings: Settings,
    pub(super) pool: Pool,
    /// The long-lived connections; an empty place is being connected.
    places: Vec<RwLock<Option<Arc<Connection>>>>,
    /// The newest sample; `None` while the replica can't be sampled.
    sample: RwLock<Option<Arc<Sample>>>,
    /// Why there is no sample, for operators.
    trouble: RwLock<String>,
    in_flight: AtomicUsize,
    /// Told of each sample.
    news: Arc<watch::Sender<()>>,
}

impl Replica {
    pub(super) fn new(database: &Database, settings: Settings, news: Arc<watch::Sender<()>>) -> Self {
        Self {
            news,
            name: database.name.clone(),
            pool: connection::pool(database, &settings),
            places: (0..settings.connections).map(|_| RwLock::new(None)).collect(),
            sample: RwLock::new(None),
            trouble: RwLock::new("connecting".to_owned()),
            in_flight: AtomicUsize::new(0),
            settings,
        }
    }

    /// Starts the tasks that connect each place and the one that samples; they run until they are aborted.
    pub(super) fn spawn_upkeep(self: &Arc<Self>, upkeep: &mut JoinSet<()>) {
        for place in 0..self.places.len() {
            upkeep.spawn(connection::keep(self.clone(), place));
        }
        upkeep.spawn(sampler::keep(self.clone()));
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A replica is asked while its sample is fresh enough: one that hangs goes out by itself.
    pub(crate) fn is_healthy(&self) -> bool {
        let fresh = |sample: &Arc<Sample>| sample.taken_at.elapsed() <= self.settings.silence_max;
        read(&self.sample).as_ref().is_some_and(fresh)
    }

    /// The newest sample, while the replica is healthy.
    pub(crate) fn sample(&self) -> Option<Arc<Sample>> {
        read(&self.sample).clone().filter(|_| self.is_healthy())
    }

    /// Waits for a sample that was taken after another one.
    pub(crate) async fn sample_after(&self, after: Option<Instant>) -> Arc<Sample> {
        let mut news = self.news.subscribe();
        let is_newer = |sample: &Arc<Sample>| after.is_none_or(|after| sample.taken_at > after);
        loop {
            if let Some(sample) = read(&self.sample).clone().filter(is_newer) {
                return sample;
            }
            news.changed().await.expect("the replica holds the sender");
        }
    }

    /// A replica that gives no sample for so long is not asked.
    pub(crate) fn silence_max(&self) -> Duration {
        self.settings.silence_max
    }

    /// A connection besides those that requests share; waits for it for as long as it takes.
    pub(crate) async fn connect(&self) -> ClientWrapper {
        connection::connect(self).await
    }

    pub(super) fn lag(&self) -> Option<Duration> {
        read(&self.sample).as_ref().map(|sample| sample.lag)
    }

    pub(super) fn trouble(&self) -> String {
        match read(&self.sample).is_some() {
            true => "gives no sample in time".to_owned(),
            false => read(&self.trouble).clone(),
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Some connection can be used.
    pub(super) fn is_connected(&self) -> bool {
        self.places.iter().any(|place| read(place).as_ref().is_some_and(|c| c.is_open()))
    }

    pub(super) fn sampled(&self, sample: Sample) {
        *write(&self.sample) = Some(Arc::new(sample));
        self.news.send_replace(());
    }

    /// The replica can't be asked until the next sample.
    pub(super) fn failed(&self, why: String) {
        *write(&self.sample) = None;
        *write(&self.trouble) = why;
    }

    /// Notes why a connection can't be made; whether the replica is asked is up to its samples.
    pub(super) fn failed_to_connect(&self, why: String) {
        *write(&self.trouble) = why;
    }

    pub(super) fn connected(&self, place: usize, connection: Option<Arc<Connection>>) {
        *write(&self.places[place]) = connection;
    }

    /// Whether the newest sample is at least there.
    pub(crate) fn reaches(&self, position: &Position) -> bool {
        read(&self.sample).as_ref().is_some_and(|sample| sample.reaches(position))
    }

    /// The open connection with the fewest statements in flight, but not the one that just failed; none while the replica
    /// is not at the position.
    pub(super) fn lease(self: &Arc<Self>, position: Option<&Position>, failed: Option<&Lease>) -> Option<Lease> {
        let reaches = |sample: &Arc<Sample>| position.is_none_or(|position| sample.reaches(position));
        let sample = read(&self.sample).clone().filter(reaches)?;
        let open = self.places.iter().filter_map(|place| read(place).clone().filter(|c| c.is_open()));
        let other = open.filter(|c| failed.is_none_or(|lease| !Arc::ptr_eq(&lease.connection, c)));
        let connection = other.min_by_key(|connection| connection.in_flight.load(Ordering::Relaxed))?;
        connection.in_flight.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Lease { replica: self.clone(), connection, sample })
    }
}

/// The right to send one statement over a connection, counted as in flight until it is dropped.
pub(super) struct Lease {
    replica: Arc<Replica>,
    connection: Arc<Connection>,
    /// Taken before the lease, and so before anything that is read under it.
    sample: Arc<Sample>,
}

impl Lease {
    pub(super) async fn ask<Q: Query>(&self, query: &Q) -> Result<Q::Found, Failure> {
        self.connection.ask(query, self.sample.generation).await
    }

    pub(super) fn sample(&self) -> Arc<Sample> {
        self.sample.clone()
    }

    /// Waits until the replica was sampled again, or until it should have been.
    pub(super) async fn resampled(&self) {
        let mut news = self.replica.news.subscribe();
        let is_newer = |sample: &Arc<Sample>| sample.taken_at > self.sample.taken_at;
        let newer = async {
            while !read(&self.replica.sample).as_ref().is_some_and(is_newer) && news.changed().await.is_ok() {}
        };
        let _ = tokio::time::timeout(self.replica.settings.silence_max, newer).await;
    }

    pub(super) fn replica_name(&self) -> &str {
        self.replica.name()
    }

    pub(super) fn is_of(&self, replica: &Arc<Replica>) -> bool {
        Arc::ptr_eq(&self.replica, replica)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.connection.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.replica.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Each value behind these locks is replaced as a whole, so a panic elsewhere leaves it usable.
fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
