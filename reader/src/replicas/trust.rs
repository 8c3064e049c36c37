//! How much a replica is trusted: one that erred, was lost or lagged is left out for a while and comes back slowly.
//!
//! A replica that comes back at once takes its whole share with cold caches, perhaps to fail again. So after the pause it
//! gets a share that grows from nothing to the whole. Where there is no other replica none of this holds: see `choice`.

use std::time::{Duration, Instant};

/// The first pause after an error; each further one before trust is whole again doubles it.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The state of trust in one replica; changed under its lock, at errors and by the survey.
#[derive(Debug)]
pub(super) struct Trust {
    /// The time from the end of a pause to the whole share, and the longest pause.
    comeback: Duration,
    /// The end of the newest pause; `None` while trust is whole.
    pause_ends: Option<Instant>,
    pause: Duration,
}

impl Trust {
    /// Whole from the start: nothing is known against the replica.
    pub(super) fn new(comeback: Duration) -> Self {
        Self { comeback, pause_ends: None, pause: Duration::ZERO }
    }

    /// A look-up failed there. What fails during a pause is the same trouble still.
    pub(super) fn erred(&mut self, now: Instant) {
        let share = self.share(now);
        if share > 0.0 {
            self.pause = if share < 1.0 { (self.pause * 2).max(PAUSE_MIN) } else { PAUSE_MIN }.min(self.comeback);
            self.pause_ends = Some(now + self.pause);
        }
    }

    /// It could not be asked, or lagged, until now: no pause, but the share begins small.
    pub(super) fn was_out(&mut self, now: Instant) {
        if self.share(now) > 0.0 {
            self.pause_ends = Some(now);
        }
    }

    /// The share of its requests that it is to get now, from 0 to 1.
    pub(super) fn share(&self, now: Instant) -> f64 {
        let Some(pause_ends) = self.pause_ends else { return 1.0 };
        let since = now.saturating_duration_since(pause_ends).as_secs_f64();
        match self.comeback.as_secs_f64() {
            comeback if comeback > 0.0 => (since / comeback).min(1.0),
            _ if now >= pause_ends => 1.0,
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMEBACK: Duration = Duration::from_secs(10);

    #[test]
    fn after_an_error_the_share_grows_from_nothing_to_the_whole() {
        let (mut trust, now) = (Trust::new(COMEBACK), Instant::now());
        assert_eq!(trust.share(now), 1.0);
        trust.erred(now);
        trust.erred(now + PAUSE_MIN / 2);
        let share = |after| trust.share(now + PAUSE_MIN + after);
        assert_eq!([share(Duration::ZERO), share(COMEBACK / 2), share(COMEBACK * 2)], [0.0, 0.5, 1.0]);
    }

    #[test]
    fn errors_on_the_way_back_double_the_pause_up_to_the_longest() {
        let (mut trust, mut now) = (Trust::new(COMEBACK), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..10 {
            trust.erred(now);
            pauses.push(trust.pause.as_millis());
            now += trust.pause + COMEBACK / 10;
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000, 10_000]);
        trust.erred(now + COMEBACK * 2);
        assert_eq!(trust.pause, PAUSE_MIN);
    }

    #[test]
    fn one_that_was_out_begins_small_and_a_pause_is_not_cut_by_it() {
        let (mut trust, now) = (Trust::new(COMEBACK), Instant::now());
        trust.was_out(now);
        assert_eq!((trust.share(now), trust.share(now + COMEBACK)), (0.0, 1.0));
        trust.erred(now + COMEBACK);
        trust.was_out(now + COMEBACK);
        assert_eq!(trust.share(now + COMEBACK + PAUSE_MIN / 2), 0.0);
    }
}
