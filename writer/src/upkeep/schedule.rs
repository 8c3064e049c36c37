//! How wide parts are and how often they are looked at: a function of the retention alone.

use std::time::Duration;

use super::EXPIRY_LATE_MAX;

/// Parts that a retention is cut into: so much of it, one twelfth, may lie on disk beyond its time.
const PARTS_PER_RETENTION: u32 = 12;
/// Narrowest part. Parts come and go at this pace for short retentions: each costs some rows of the catalogue, and a moment in
/// which nobody reads or writes the log.
const WIDTH_MIN: Duration = Duration::from_secs(15);
/// How far parts reach ahead at least; a writer that is away for longer writes into the default part until its first tick.
const AHEAD_MIN: Duration = Duration::from_secs(60);
/// Longest pause between ticks and between marks; together they stay below [`EXPIRY_LATE_MAX`], with time for one that fails.
const TICK_MAX: Duration = Duration::from_secs(10);
const MARK_INTERVAL_MAX: Duration = Duration::from_secs(25);
const TICK_MIN: Duration = Duration::from_secs(1);

/// The times of one change log's upkeep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Schedule {
    /// Width of a part.
    pub(super) width: Duration,
    /// How far into the future parts are made.
    pub(super) ahead: Duration,
    /// Between two looks.
    pub(super) tick: Duration,
    /// Between two marks of a position.
    pub(super) mark_interval: Duration,
}

impl Schedule {
    /// For a retention from one second up.
    pub(super) fn of(retention: Duration) -> Self {
        let whole_seconds = Duration::from_secs((retention / PARTS_PER_RETENTION).as_secs());
        let width = whole_seconds.max(WIDTH_MIN);
        let tick = (retention / 10).clamp(TICK_MIN, TICK_MAX);
        let mark_interval = (retention / 10).clamp(TICK_MIN, MARK_INTERVAL_MAX);
        debug_assert!(2 * tick + mark_interval < EXPIRY_LATE_MAX);
        Self { width, ahead: (2 * width).max(AHEAD_MIN), tick, mark_interval }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_retention_expires_in_time_in_a_bounded_number_of_parts() {
        let day = Duration::from_secs(86_400);
        for retention in
            [Duration::from_secs(1), Duration::from_secs(59), Duration::from_secs(3600), 7 * day, 3650 * day]
        {
            let Schedule { width, ahead, tick, mark_interval } = Schedule::of(retention);
            assert!(2 * tick + mark_interval < EXPIRY_LATE_MAX, "{retention:?}");
            let parts = (retention.as_secs() + ahead.as_secs()).div_ceil(width.as_secs()) + 1;
            assert!(parts <= 16 && ahead >= 2 * width, "{retention:?} has {parts} parts of {width:?}");
        }
        assert_eq!(Schedule::of(7 * day).width, 14 * Duration::from_secs(3600));
    }
}
