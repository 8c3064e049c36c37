//! How often something may be done: so many a second in the long run, and some at once. Pure.

use std::time::Instant;

/// Seconds' worth of what was not used is kept.
const BURST_SECONDS: f64 = 10.0;

/// A bucket of tokens; each act takes one.
#[derive(Debug)]
pub(crate) struct Rate {
    per_second: f64,
    tokens: f64,
    at: Instant,
}

impl Rate {
    pub(crate) fn new(per_second: usize, now: Instant) -> Self {
        let per_second = per_second as f64;
        Self { per_second, tokens: per_second * BURST_SECONDS, at: now }
    }

    /// Whether it may be done now; if so, it counts as done.
    pub(crate) fn allows(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(self.per_second * BURST_SECONDS);
        self.at = now;
        let allowed = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(allowed));
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn some_at_once_then_as_many_as_come_in_a_second() {
        let now = Instant::now();
        let mut rate = Rate::new(2, now);
        let allowed = |rate: &mut Rate, now| (0..100).filter(|_| rate.allows(now)).count();
        assert_eq!(allowed(&mut rate, now), 20);
        assert_eq!(allowed(&mut rate, now + Duration::from_secs(3)), 6);
        assert_eq!(allowed(&mut rate, now + Duration::from_secs(3600)), 20);
    }
}
