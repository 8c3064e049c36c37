//! The connections that are open: counted, bounded, and room made among those that only wait.
//!
//! A connection *waits* while no request of it is in hand: it is idle, sends its head slowly, or takes its answer slowly.
//! When as many are open as may be, the one that has waited longest is closed for the newcomer, so that clients who hold
//! connections without using them keep nobody else out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// A connection that has waited for less is not closed for a newcomer: its client may just be about to send.
const WAIT_MIN: Duration = Duration::from_millis(500);

/// How often a newcomer looks for one to be closed.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

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
#[derive(Debug, Default)]
struct Place {
    /// Since when it waits, in microseconds after the start; 0 while a request is in hand.
    waits_since: AtomicU64,
    /// Cancelled when it must make room.
    leave: CancellationToken,
}

impl Connections {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(max));
        Arc::new(Self { free, open: Mutex::default(), started_at: Instant::now() })
    }

    /// A place for a new connection, made if need be; waits while all others have a request in hand.
    pub(crate) async fn enter(self: &Arc<Self>, made_room: impl Fn()) -> Open {
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
    pub(crate) fn try_enter(self: &Arc<Self>) -> Option<Open> {
        Some(self.open(self.free.clone().try_acquire_owned().ok()?))
    }

    fn open(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Open {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let place = Arc::new(Place { waits_since: self.now().into(), leave: CancellationToken::new() });
        self.places().insert(number, place.clone());
        Open { all: self.clone(), number, place, _permit: permit }
    }

    /// Has the connection that waits longest leave; whether there was one.
    fn make_room(&self) -> bool {
        let waiting_enough = self.now().saturating_sub(WAIT_MIN.as_micros() as u64);
        let places = self.places();
        let waits = |(_, place): &(&u64, &Arc<Place>)| {
            let since = place.waits_since.load(Ordering::Relaxed);
            (1..=waiting_enough).contains(&since) && !place.leave.is_cancelled()
        };
        // Of two that began in one microsecond the one that came first.
        let since = |(number, place): &(&u64, &Arc<Place>)| (place.waits_since.load(Ordering::Relaxed), **number);
        let longest = places.iter().filter(waits).min_by_key(since);
        longest.inspect(|(_, place)| place.leave.cancel()).is_some()
    }

    /// Never 0, which says that a request is in hand.
    fn now(&self) -> u64 {
        self.started_at.elapsed().as_micros() as u64 + 1
    }

    fn places(&self) -> MutexGuard<'_, HashMap<u64, Arc<Place>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Says that a request is in hand.
    pub(crate) fn works(&self) {
        self.place.waits_since.store(0, Ordering::Relaxed);
    }

    /// Says that none is.
    pub(crate) fn waits(&self) {
        self.place.waits_since.store(self.all.now(), Ordering::Relaxed);
    }

    /// Ends when the connection must make room.
    pub(crate) async fn must_leave(&self) {
        self.place.leave.cancelled().await;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.all.places().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn enter(connections: &Arc<Connections>) -> Option<Open> {
        tokio::time::timeout(WAIT_MIN * 4, connections.enter(|| ())).await.ok()
    }

    #[tokio::test]
    async fn the_one_that_waits_longest_makes_room_and_none_with_a_request() {
        let connections = Connections::new(3);
        let [working, first, second] = [(); 3].map(|()| connections.try_enter().expect("a place"));
        assert!(connections.try_enter().is_none());
        working.works();
        second.waits();
        let newcomer = tokio::spawn({
            let connections = connections.clone();
            async move { enter(&connections).await }
        });
        first.must_leave().await;
        assert!(!second.place.leave.is_cancelled() && !working.place.leave.is_cancelled());
        drop(first);
        let newcomer = newcomer.await.unwrap().expect("room was made");
        for open in [&newcomer, &second] {
            open.works();
        }
        assert!(enter(&connections).await.is_none(), "all work");
        drop(working);
        assert!(enter(&connections).await.is_some());
        assert_eq!(connections.places().len(), 2, "{connections:?}");
    }
}
