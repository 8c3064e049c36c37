//! Wake-ups of a busy worker, coalesced as network cards coalesce interrupts.
//!
//! A worker with nothing to do sleeps in the kernel until a socket is ready, and under load the next request wakes it at once:
//! going to sleep and being woken then cost more than reading a head. So a worker to which many requests come first sleeps for
//! a moment in which nothing wakes it, and finds what came meanwhile together. A worker to which few come is woken by each.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How long nothing wakes a busy worker; what comes then waits for half of it on average.
const PAUSE: Duration = Duration::from_micros(500);

/// A worker is busy when so many requests come in a pause.
const REQUESTS_PER_PAUSE_MIN: u32 = 2;

/// Requests are counted for at least so long before that is decided anew.
const COUNTED_FOR: Duration = Duration::from_millis(5);

/// What one worker knows of its load; it alone looks at it.
#[derive(Debug)]
pub(super) struct Coalescing {
    counted_since: Cell<Instant>,
    requests: Cell<u32>,
    is_busy: Cell<bool>,
}

impl Coalescing {
    pub(super) fn new(now: Instant) -> Self {
        Self { counted_since: now.into(), requests: 0.into(), is_busy: false.into() }
    }

    /// One more request has come.
    pub(super) fn request(&self) {
        self.requests.update(|requests| requests.saturating_add(1));
    }

    /// For how long a worker that has nothing to do shall not be woken.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        let counted_for = now.saturating_duration_since(self.counted_since.get());
        if counted_for >= COUNTED_FOR {
            self.is_busy.set(PAUSE * self.requests.take() >= counted_for * REQUESTS_PER_PAUSE_MIN);
            self.counted_since.set(now);
        }
        self.is_busy.get().then_some(PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_pauses_while_requests_come_often_and_no_longer() {
        let began = Instant::now();
        let load = Coalescing::new(began);
        let requests = |count: u32| (0..count).for_each(|_| load.request());
        let enough = REQUESTS_PER_PAUSE_MIN * COUNTED_FOR.div_duration_f64(PAUSE) as u32;

        requests(enough);
        assert_eq!(load.pause(began + COUNTED_FOR / 2), None, "not counted for long enough");
        assert_eq!(load.pause(began + COUNTED_FOR), Some(PAUSE));
        requests(enough - 1);
        assert_eq!(load.pause(began + COUNTED_FOR * 3 / 2), Some(PAUSE), "until it is decided anew");
        assert_eq!(
            load.pause(began + COUNTED_FOR * 2),
            None,
            "too few, and what was counted before does not count again"
        );
        requests(enough);
        assert_eq!(load.pause(began + COUNTED_FOR * 4), None, "as many in twice the time");
    }
}
