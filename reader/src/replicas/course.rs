//! What a database was seen to have, and since when.
//!
//! Lag is measured by it without comparing clocks: one database lacks what another was seen to have, and has done so for as
//! long as that was seen. How long ago is read from this process' monotonic clock; what the databases' clocks say only
//! orders the states, so a clock that jumps changes no decision.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Moments that are kept; twice a minute's worth at the usual interval, before they are thinned out.
const MOMENTS_MAX: usize = 2048;

/// The states of one database in the order in which they were seen, each with the moment of its first sight.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// Ascending in both.
    moments: VecDeque<(i64, Instant)>,
}

impl Course {
    /// Notes a state. One that goes back (a restored database, a clock set back) begins the course anew.
    pub(super) fn saw(&mut self, state: i64, at: Instant) {
        match self.moments.back() {
            Some((last, _)) if *last == state => return,
            Some((last, _)) if *last > state => self.moments.clear(),
            _ => {}
        }
        if self.moments.len() == MOMENTS_MAX {
            // Every second one goes: lag is then told a little too small where it is large.
            let mut index = 0;
            self.moments.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        self.moments.push_back((state, at));
    }

    /// Since when the newest state is the newest.
    pub(super) fn stands_since(&self) -> Option<Instant> {
        self.moments.back().map(|(_, at)| *at)
    }

    /// For how long there has been more than `state`; zero when there is not. What was there at first sight already has
    /// been there for longer, nobody knows for how long: by the labels it is `label` of the difference more.
    pub(super) fn beyond(&self, state: i64, label: impl Fn(i64) -> Duration) -> Duration {
        let index = self.moments.partition_point(|(seen, _)| *seen <= state);
        match self.moments.get(index) {
            None => Duration::ZERO,
            Some((first, at)) if index == 0 => at.elapsed() + label(first.saturating_sub(state)),
            Some((_, at)) => at.elapsed(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn course(start: Instant, moments: &[(i64, u32)]) -> Course {
        let mut course = Course::default();
        moments.iter().for_each(|(state, after)| course.saw(*state, start + SECOND * *after));
        course
    }

    fn seconds(lag: Duration) -> u64 {
        lag.as_secs()
    }

    #[test]
    fn what_is_lacking_is_so_since_it_was_seen_and_not_by_the_labels() {
        let Some(start) = Instant::now().checked_sub(SECOND * 100) else { return };
        // A clock that jumps by a million between the second and the third.
        let course = course(start, &[(10, 0), (20, 40), (1_000_000, 90), (1_000_000, 95)]);
        let lag = |state| seconds(course.beyond(state, |_| Duration::ZERO));
        assert_eq!([lag(10), lag(15), lag(20), lag(1_000_000), lag(2_000_000)], [60, 60, 10, 0, 0]);
        assert_eq!(course.stands_since().map(|at| at.duration_since(start)), Some(SECOND * 90));
    }

    #[test]
    fn what_was_there_at_first_is_told_by_the_labels() {
        let Some(start) = Instant::now().checked_sub(SECOND * 5) else { return };
        let course = course(start, &[(100, 0)]);
        assert_eq!(seconds(course.beyond(40, |more| SECOND * more as u32)), 65);
        assert_eq!(seconds(Course::default().beyond(1, |_| SECOND)), 0);
    }

    #[test]
    fn going_back_begins_anew_and_memory_is_bounded() {
        let start = Instant::now();
        let mut course = course(start, &[(10, 0), (20, 0)]);
        course.saw(5, start);
        assert_eq!(course.beyond(7, |_| SECOND), Duration::ZERO);
        for state in 0..(MOMENTS_MAX as i64 * 10) {
            course.saw(state, start);
        }
        assert!(course.moments.len() <= MOMENTS_MAX);
        assert!(course.moments.iter().is_sorted_by_key(|(state, _)| *state));
    }
}
