//! When each request is due: fixed before the start, whatever becomes of those before it.

use std::time::{Duration, Instant};

/// So many requests a second from a moment on, the first of them uncounted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    start: Instant,
    rate: u64,
    uncounted: u64,
    total: u64,
}

impl Schedule {
    pub(super) fn new(start: Instant, rate: u64, warm_up: Duration, measured: Duration) -> Self {
        let requests = |length: Duration| rate * length.as_millis() as u64 / 1000;
        Self { start, rate, uncounted: requests(warm_up), total: requests(warm_up) + requests(measured) }
    }

    /// When a request is due. Computed from the start, so that no rounding adds up.
    pub(super) fn due(&self, request: u64) -> Instant {
        self.start + Duration::from_nanos((u128::from(request) * 1_000_000_000 / u128::from(self.rate)) as u64)
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    pub(super) fn is_counted(&self, request: u64) -> bool {
        request >= self.uncounted
    }

    /// Requests that are counted.
    pub(super) fn counted(&self) -> u64 {
        self.total - self.uncounted
    }

    /// The window in which the counted requests are due.
    pub(super) fn window(&self) -> (Instant, Instant) {
        (self.due(self.uncounted), self.due(self.total))
    }

    /// The rate at which the counted requests were sent, the last of them at this moment.
    pub(super) fn rate_achieved(&self, last_sent: Instant) -> f64 {
        let sent_in = last_sent.saturating_duration_since(self.window().0);
        // n requests span n - 1 intervals.
        self.counted().saturating_sub(1) as f64 / sent_in.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_moments_are_even_and_do_not_drift() {
        let start = Instant::now();
        let schedule = Schedule::new(start, 16_667, Duration::from_secs(1), Duration::from_secs(3_599));
        assert_eq!((schedule.total(), schedule.counted()), (16_667 * 3_600, 16_667 * 3_599));
        assert_eq!(schedule.window(), (start + Duration::from_secs(1), start + Duration::from_secs(3_600)));
        assert!(!schedule.is_counted(16_666) && schedule.is_counted(16_667));
        for request in [0, 1, 2, 16_665, 16_667 * 3_599] {
            let interval = schedule.due(request + 1) - schedule.due(request);
            assert!(interval.as_nanos().abs_diff(1_000_000_000 / 16_667) <= 1, "{interval:?}");
        }
    }

    #[test]
    fn a_last_request_that_goes_late_lowers_the_rate() {
        let schedule = Schedule::new(Instant::now(), 1_000, Duration::from_secs(2), Duration::from_secs(10));
        let last = schedule.due(schedule.total() - 1);
        assert!((schedule.rate_achieved(last) - 1_000.0).abs() < 1e-6);
        assert!(schedule.rate_achieved(last + Duration::from_millis(100)) < 995.0, "that is beyond the tolerance");
    }
}
