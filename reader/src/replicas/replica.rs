//! One database: its connections, its last sample, and the leases under which requests use them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use deadpool_postgres::{ClientWrapper, Pool};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::Settings;
use super::choice::{Few, Standing};
use super::connection::{self, Connection};
use super::course::Course;
use super::sampler;
use super::trust::Trust;
use crate::cache::Kept;
use crate::config::Database;
use crate::error::Failure;
use crate::position::{Grounds, Position, Sample};
use crate::queries::Query;
use crate::workers::{self, Workers};

/// A position that stands for so long is usual: on an idle system it moves once a second.
const STANDS_USUALLY: Duration = Duration::from_secs(2);

/// Look-ups that a worker's own connection may have in flight beyond twice those of the least busy one: what a burst brings.
const OWN_AHEAD_MAX: usize = 64;

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
    courses: Mutex<Courses>,
    trust: Mutex<Trust>,
    /// What the last survey found: the lag in microseconds, and the bits of the share of trust.
    lag_micros: AtomicU64,
    share_bits: AtomicU64,
    /// What is kept of its documents, where there is a cache.
    pub(super) kept: RwLock<Option<Arc<Kept>>>,
    /// Told of each sample.
    news: Arc<watch::Sender<()>>,
    /// Told when a sample is wanted before its time.
    pub(super) sample_wanted: Notify,
}

/// What the replica was seen to have.
#[derive(Debug, Default)]
struct Courses {
    /// The newest moment of a moved position, in microseconds.
    moved: Course,
    /// The end of the log that was received.
    received: Course,
}

impl Replica {
    pub(super) fn new(database: &Database, settings: Settings, news: Arc<watch::Sender<()>>) -> Self {
        Self {
            news,
            sample_wanted: Notify::new(),
            name: database.name.clone(),
            pool: connection::pool(database, &settings),
            places: (0..settings.connections).map(|_| RwLock::new(None)).collect(),
            sample: RwLock::new(None),
            trouble: RwLock::new("connecting".to_owned()),
            in_flight: AtomicUsize::new(0),
            courses: Mutex::default(),
            kept: RwLock::default(),
            trust: Mutex::new(Trust::new(settings.comeback)),
            lag_micros: AtomicU64::new(0),
            share_bits: AtomicU64::new(1.0_f64.to_bits()),
            settings,
        }
    }

    /// Starts the tasks that connect each place and the one that samples; they run until they are aborted.
    pub(super) fn spawn_upkeep(self: &Arc<Self>, workers: &Workers, upkeep: &mut JoinSet<()>) {
        for place in 0..self.places.len() {
            upkeep.spawn_on(connection::keep(self.clone(), place), workers.of(place));
        }
        upkeep.spawn(sampler::keep(self.clone()));
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The newest sample, while the replica is healthy.
    pub(crate) fn sample(&self) -> Option<Arc<Sample>> {
        read(&self.sample).clone().filter(|_| self.is_healthy())
    }

    /// Waits for a sample that was taken after another one.
    pub(crate) async fn sample_after(&self, after: Option<Instant>) -> Arc<Sample> {
        self.sample_with(|sample| after.is_none_or(|after| sample.taken_at > after)).await
    }

    /// Has it sampled from now on, and waits for that; no longer than until it goes out: the sample that is under way may take
    /// as long as one may, and so may the next.
    pub(super) async fn sample_anew(&self) {
        let now = Instant::now();
        self.sample_wanted.notify_one();
        let _ = tokio::time::timeout(2 * self.settings.silence_max, self.sample_with(|sample| sample.asked_at >= now))
            .await;
    }

    async fn sample_with(&self, fits: impl Fn(&Sample) -> bool) -> Arc<Sample> {
        let mut news = self.news.subscribe();
        loop {
            if let Some(sample) = read(&self.sample).clone().filter(|sample| fits(sample)) {
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

    /// A replica can be asked while its sample is fresh enough: one that hangs goes out by itself.
    pub(crate) fn is_healthy(&self) -> bool {
        self.sampled_within(self.settings.silence_max)
    }

    /// Its samples come as they should. One that owes a sample is left for another one long before it goes out.
    pub(super) fn is_prompt(&self) -> bool {
        self.sampled_within(self.settings.patience)
    }

    fn sampled_within(&self, silence: Duration) -> bool {
        let oldest = silence + self.settings.position_interval;
        read(&self.sample).as_ref().is_some_and(|sample| sample.taken_at.elapsed() <= oldest)
    }

    /// Replaces what is kept of its documents.
    pub(crate) fn keep(&self, kept: Option<Arc<Kept>>) {
        *write(&self.kept) = kept;
    }

    /// By how much the replica was behind at the last survey.
    pub(super) fn lag(&self) -> Duration {
        Duration::from_micros(self.lag_micros.load(Ordering::Relaxed))
    }

    /// The share of its requests that it is to get.
    pub(super) fn share(&self) -> f64 {
        f64::from_bits(self.share_bits.load(Ordering::Relaxed))
    }

    /// What the choice of a replica weighs.
    pub(super) fn standing(&self, failed: bool) -> Standing {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        Standing { failed, share: self.share(), prompt: self.is_prompt(), lag: self.lag(), in_flight }
    }

    /// Brings lag and share up to date, against the others that can be asked.
    pub(super) fn survey(&self, others: &[&Arc<Self>]) {
        let sample = read(&self.sample).clone();
        let lag = sample.map(|sample| self.lag_now(&sample, others));
        if let Some(lag) = lag {
            self.lag_micros.store(lag.as_micros().try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        let (mut trust, now) = (lock(&self.trust), Instant::now());
        if !self.is_healthy() || lag.is_none_or(|lag| self.settings.limits.behind(lag)) {
            trust.was_out(now);
        }
        self.share_bits.store(trust.share(now).to_bits(), Ordering::Relaxed);
    }

    /// The longest of what tells that it is behind: others have what it lacks, it has received what it has not replayed, or
    /// it stands for longer than it should, as when its stream has ended, or when nobody writes.
    fn lag_now(&self, sample: &Sample, others: &[&Arc<Self>]) -> Duration {
        let progress = &sample.progress;
        let micros = |more: i64| Duration::from_micros(more.unsigned_abs());
        let lacks = |other: &&Arc<Self>| {
            progress.moved_at.map(|moved_at| lock(&other.courses).moved.beyond(moved_at, micros)).unwrap_or_default()
        };
        let lacking = others.iter().map(lacks).max().unwrap_or_default();
        if !progress.follows {
            return lacking;
        }
        let courses = lock(&self.courses);
        let unreplayed = progress.replayed.map(|replayed| courses.received.beyond(replayed, |_| Duration::ZERO));
        let stands = courses.moved.stands_since().map(|since| since.elapsed().saturating_sub(STANDS_USUALLY));
        lacking.max(unreplayed.unwrap_or_default()).max(stands.unwrap_or_default())
    }

    /// Why it is not asked, or not as much as others; nothing when it is.
    pub(super) fn trouble(&self) -> Option<String> {
        let lag = || format!("behind by {} s", self.lag().as_secs());
        match read(&self.sample).is_some() {
            false => Some(read(&self.trouble).clone()),
            true if !self.is_healthy() => Some("gives no sample in time".to_owned()),
            true if !self.settings.limits.admit(self.lag()) => Some(format!("{}, too much to answer", lag())),
            true if self.settings.limits.behind(self.lag()) => Some(lag()),
            true if self.share() < 1.0 => Some(format!("at {:.0} % of its share", self.share() * 100.0)),
            true => None,
        }
    }

    /// By how much it is behind, where that is more than it should be.
    pub(crate) fn behind(&self) -> Option<Duration> {
        let lag = self.lag();
        self.settings.limits.behind(lag).then_some(lag)
    }

    /// Whether it may be asked now.
    pub(crate) fn can_answer(&self) -> bool {
        self.is_healthy() && self.settings.limits.admit(self.lag())
    }

    /// Some connection can be used.
    pub(super) fn is_connected(&self) -> bool {
        self.places.iter().any(|place| read(place).as_ref().is_some_and(|c| c.is_open()))
    }

    pub(super) fn sampled(&self, sample: Sample) {
        let mut courses = lock(&self.courses);
        sample.progress.moved_at.inspect(|moved_at| courses.moved.saw(*moved_at, sample.taken_at));
        sample.progress.received.inspect(|received| courses.received.saw(*received, sample.taken_at));
        drop(courses);
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

    /// The worker's own connection, its first, while that is not far behind the least busy one, else that one; the one that just
    /// failed only where no other is open. None while the replica is not at the position.
    pub(super) fn lease(self: &Arc<Self>, position: Option<&Position>, failed: Option<&Lease>) -> Option<Lease> {
        let reaches = |sample: &Arc<Sample>| position.is_none_or(|position| sample.reaches(position));
        let sample = read(&self.sample).clone().filter(reaches)?;
        // Each is looked at where it is, and one is cloned: workers count references in the same memory.
        let places: Few<_> = self.places.iter().map(read).collect();
        let open = || {
            let connections = places.iter().map(|place| place.as_ref().filter(|connection| connection.is_open()));
            connections.enumerate().filter_map(|(place, connection)| Some((place, connection?)))
        };
        let busy = |(_, connection): &(usize, &Arc<Connection>)| {
            let has_failed = failed.is_some_and(|lease| Arc::ptr_eq(&lease.connection, connection));
            (has_failed, connection.in_flight.load(Ordering::Relaxed))
        };
        let least = open().min_by_key(busy)?;
        // The first, not the least busy: look-ups that spread over several share statements with fewer.
        let own = open().filter(|(place, _)| workers::is_here(*place)).min_by_key(|own| busy(own).0);
        let (_, connection) = own.filter(|own| keeps_to_own(busy(own), busy(&least))).unwrap_or(least);
        let connection = connection.clone();
        connection.in_flight.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Lease { replica: self.clone(), connection, sample })
    }
}

/// Whether a worker asks its own connection, going by what has failed and what is in flight there and on the least busy one. One
/// that is slow, or mute, so takes no more than its share of the requests that may be in hand.
fn keeps_to_own((own_failed, own): (bool, usize), (least_failed, least): (bool, usize)) -> bool {
    (!own_failed || least_failed) && own <= 2 * least + OWN_AHEAD_MAX
}

/// The right to send one statement over a connection, counted as in flight until it is dropped.
pub(super) struct Lease {
    pub(super) replica: Arc<Replica>,
    connection: Arc<Connection>,
    /// Taken before the lease, and so before anything that is read under it.
    pub(super) sample: Arc<Sample>,
}

impl Lease {
    pub(super) async fn ask<Q: Query>(&self, query: &Q) -> Result<Q::Found, Failure> {
        self.connection.ask(query, &self.sample).await
    }

    /// What an answer that was read under this lease rests on.
    pub(super) fn grounds(&self) -> Grounds {
        Grounds { sample: self.sample.clone(), behind: self.replica.behind() }
    }

    /// Notes that the look-up failed: the replica is left out for a while.
    pub(super) fn erred(&self) {
        lock(&self.replica.trust).erred(Instant::now());
        self.replica.share_bits.store(0.0_f64.to_bits(), Ordering::Relaxed);
    }

    /// Whether the replica's samples come as they should.
    pub(super) fn is_prompt(&self) -> bool {
        self.replica.is_prompt()
    }

    /// Gives the connection up if it is mute, not only slow.
    pub(super) fn give_up_if_mute(&self) {
        self.connection.give_up_if_mute(self.replica.settings.silence_max);
    }

    /// Waits until the replica was sampled again, or until it should have been.
    pub(super) async fn resampled(&self) {
        let newer = self.replica.sample_after(Some(self.sample.taken_at));
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
pub(super) fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_leaves_its_own_connection_when_it_failed_or_is_far_behind() {
        for (own, least, keeps) in [
            ((false, 0), (false, 0), true),
            ((false, OWN_AHEAD_MAX), (false, 0), true),
            ((false, OWN_AHEAD_MAX + 1), (false, 0), false),
            ((false, 200), (false, 100), true),
            ((true, 0), (false, 50), false),
            ((true, 0), (true, 0), true),
        ] {
            assert_eq!(keeps_to_own(own, least), keeps, "{own:?} {least:?}");
        }
    }
}
