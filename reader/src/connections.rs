//! The connections that are open: counted, bounded, and room made among those that only wait.
//!
//! A connection *waits* while no request of it is in hand: it is idle, sends its head slowly, or takes its answer slowly.
//! When as many are open as may be, the one that has waited longest is closed for the newcomer, so that clients who hold
//! connections without using them keep nobody else out. One that has waited for `READER_IDLE_MAX` is closed in any case:
//! hyper has a limit for that too, which costs a timer for each request.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{AbortHandle, AbortRegistration};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A connection that has waited for less is not closed for a newcomer: its client may just be about to send.
const WAIT_MIN: Duration = Duration::from_millis(500);

/// How often a newcomer looks for one to be closed.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How often it is looked for those that have waited too long, at least; where that is soon, four times as often.
const IDLE_LOOK_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// All that are open.
#[derive(Debug)]
pub(crate) struct Connections {
    free: Arc<Semaphore>,
    open: Mutex<HashMap<u64, Arc<Place>>>,
    /// Moments are told in microseconds after it.
    started_at: Instant,
}

/// One open connection's place; free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Open {
    all: Arc<Connections>,
    number: u64,
    place: Arc<Place>,
    _permit: OwnedSemaphorePermit,
}

/// What others may know of a connection.
#[derive(Debug)]
struct Place {
    /// Since when it waits, in microseconds after the start; 0 while a request is in hand.
    waits_since: AtomicU64,
    /// Ends what serves the connection.
    leave: AbortHandle,
}

/// A request is in hand, until this is dropped.
#[derive(Debug)]
pub(crate) struct InHand(Arc<Open>);

impl Connections {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(max));
        Arc::new(Self { free, open: Mutex::default(), started_at: Instant::now() })
    }

    /// A place for a new connection, made if need be; waits while all others have a request in hand. What serves the connection
    /// is to end when the registration says so.
    pub(crate) async fn enter(self: &Arc<Self>, made_room: impl Fn()) -> (Open, AbortRegistration) {
        loop {
            let free = self.free.clone().acquire_owned();
            let permit = match tokio::time::timeout(LOOK_INTERVAL, free).await {
                Ok(permit) => permit.expect("the semaphore is never closed"),
                Err(_full) => {
                    if self.make_room() {
                        made_room();
                    }
                    continue;
                }
            };
            return self.open(permit);
        }
    }

    /// A place for a new connection if there is one.
    pub(crate) fn try_enter(self: &Arc<Self>) -> Option<(Open, AbortRegistration)> {
        Some(self.open(self.free.clone().try_acquire_owned().ok()?))
    }

    fn open(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> (Open, AbortRegistration) {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let (leave, registration) = AbortHandle::new_pair();
        let place = Arc::new(Place { waits_since: self.now().into(), leave });
        self.places().insert(number, place.clone());
        (Open { all: self.clone(), number, place, _permit: permit }, registration)
    }

    /// Has the connection that waits longest leave; whether there was one.
    fn make_room(&self) -> bool {
        let latest = self.ago(WAIT_MIN);
        let places = self.places();
        let waiting = places.iter().filter_map(|(number, place)| Some((place.waits_since(latest)?, number, place)));
        // Of two that began in one microsecond the one that came first.
        let longest = waiting.min_by_key(|(since, number, _)| (*since, **number));
        longest.inspect(|(.., place)| place.leave.abort()).is_some()
    }

    /// Has those leave that have waited for so long, for ever.
    pub(crate) async fn close_idle(&self, wait_max: Duration) {
        let mut looks = tokio::time::interval((wait_max / 4).min(IDLE_LOOK_INTERVAL_MAX));
        loop {
            looks.tick().await;
            let latest = self.ago(wait_max);
            self.places().values().filter(|place| place.waits_since(latest).is_some()).for_each(|p| p.leave.abort());
        }
    }

    /// The moment so long ago; 0, when nothing began, where that is before the start.
    fn ago(&self, time: Duration) -> u64 {
        self.now().saturating_sub(time.as_micros() as u64)
    }

    /// Never 0, which says that a request is in hand.
    fn now(&self) -> u64 {
        self.started_at.elapsed().as_micros() as u64 + 1
    }

    fn places(&self) -> MutexGuard<'_, HashMap<u64, Arc<Place>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Since when it waits, if that is not after `latest`, and it has not been told to leave.
    fn waits_since(&self, latest: u64) -> Option<u64> {
        let since = self.waits_since.load(Ordering::Relaxed);
        ((1..=latest).contains(&since) && !self.leave.is_aborted()).then_some(since)
    }
}

impl InHand {
    /// A request has come on the connection.
    pub(crate) fn on(open: Arc<Open>) -> Self {
        open.place.waits_since.store(0, Ordering::Relaxed);
        Self(open)
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.place.waits_since.store(self.0.all.now(), Ordering::Relaxed);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.all.places().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use futures_util::future::Abortable;

    use super::*;

    async fn enter(connections: &Arc<Connections>) -> Option<(Open, AbortRegistration)> {
        tokio::time::timeout(WAIT_MIN * 4, connections.enter(|| ())).await.ok()
    }

    fn entered(connections: &Arc<Connections>) -> (Arc<Open>, AbortRegistration) {
        let (open, leave) = connections.try_enter().expect("a place");
        (Arc::new(open), leave)
    }

    /// Ends when the connection is told to leave.
    async fn left(leave: AbortRegistration) {
        assert!(Abortable::new(pending::<()>(), leave).await.is_err());
    }

    #[tokio::test]
    async fn the_one_that_waits_longest_makes_room_and_none_with_a_request() {
        let connections = Connections::new(3);
        let [(working, _), (first, first_leaves), (second, _)] = [(); 3].map(|()| entered(&connections));
        assert!(connections.try_enter().is_none());
        let in_hand = InHand::on(working.clone());
        drop(InHand::on(second.clone()));
        let newcomer = tokio::spawn({
            let connections = connections.clone();
            async move { enter(&connections).await }
        });
        left(first_leaves).await;
        assert!(!second.place.leave.is_aborted() && !working.place.leave.is_aborted());
        drop(first);
        let newcomer = Arc::new(newcomer.await.unwrap().expect("room was made").0);
        let all_work = [newcomer, second].map(InHand::on);
        assert!(enter(&connections).await.is_none(), "all work");
        drop((in_hand, working));
        assert!(enter(&connections).await.is_some());
        assert_eq!(connections.places().len(), 2, "{connections:?}");
        drop(all_work);
    }

    #[tokio::test]
    async fn one_that_waits_too_long_leaves_and_one_with_a_request_does_not() {
        const WAIT_MAX: Duration = Duration::from_millis(50);
        let connections = Connections::new(3);
        let [(working, still_works), (_idle, idle_leaves)] = [(); 2].map(|()| entered(&connections));
        let in_hand = InHand::on(working.clone());
        let closing = tokio::spawn({
            let connections = connections.clone();
            async move { connections.close_idle(WAIT_MAX).await }
        });
        left(idle_leaves).await;
        let came_at = Instant::now();
        let (_newcomer, newcomer_leaves) = entered(&connections);
        left(newcomer_leaves).await;
        assert!(came_at.elapsed() >= WAIT_MAX, "not before it has waited as long as it may");
        assert!(!working.place.leave.is_aborted());
        drop(in_hand);
        left(still_works).await;
        closing.abort();
    }
}
