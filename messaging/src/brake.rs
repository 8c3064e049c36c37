//! The brake on dead letters: it stops a partition before a bad deployment empties the topic into the dead letters.
//!
//! It is asked before each dead letter and says no to the one that would be too many: more than so many percent of the
//! last so many records, or so many in a row. The share is always one of the *whole* window: what has not been seen yet
//! counts as good, so a start with one bad record of three is no reason to stop. The refused record is not counted; it stays
//! in the topic, and so does what follows it. Pure; one value per partition, in offset order.

use std::collections::VecDeque;

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrakeLimits {
    /// Dead letters among the last `window_records` records at most, in percent of them.
    pub percent_max: u8,
    /// The last so many records are looked at.
    pub window_records: u64,
    /// The record that would be the dead letter number so many in a row is refused.
    pub run_records: u64,
}

/// Why the brake stops a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Tripped {
    /// Too many of the last records are dead letters.
    #[error("more than {percent} % of the last {window_records} records are dead letters")]
    Share {
        /// The limit.
        percent: u8,
        /// The window.
        window_records: u64,
    },
    /// Too many in a row.
    #[error("{0} records in a row are bad")]
    Run(u64),
}

/// What the last records of one partition came to.
#[derive(Debug, Clone)]
pub struct Brake {
    limits: BrakeLimits,
    records: u64,
    run: u64,
    /// Numbers of the dead letters of the window, as counted by `records`; never more than its share.
    dead: VecDeque<u64>,
}

impl Brake {
    /// A brake that has seen nothing.
    pub fn new(limits: BrakeLimits) -> Self {
        Self { limits, records: 0, run: 0, dead: VecDeque::new() }
    }

    /// Counts a record that is no dead letter.
    pub fn pass(&mut self) {
        self.records += 1;
        self.run = 0;
    }

    /// Counts a dead letter, or refuses it and counts nothing.
    pub fn admit(&mut self) -> Result<(), Tripped> {
        let BrakeLimits { percent_max, window_records, run_records } = self.limits;
        if self.run + 1 >= run_records {
            return Err(Tripped::Run(run_records));
        }
        let number = self.records + 1;
        while self.dead.front().is_some_and(|first| first + window_records <= number) {
            self.dead.pop_front();
        }
        let dead = self.dead.len() as u64 + 1;
        if dead * 100 > u64::from(percent_max) * window_records {
            return Err(Tripped::Share { percent: percent_max, window_records });
        }
        self.count();
        Ok(())
    }

    /// Counts a dead letter that was admitted before: the attempt that did so came to nothing, the letter is delivered.
    pub fn count(&mut self) {
        self.records += 1;
        self.run += 1;
        self.dead.push_back(self.records);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Tripped = Tripped::Run(4);
    const SHARE: Tripped = Tripped::Share { percent: 20, window_records: 20 };

    /// The number of the record, from 1, that the brake refuses; `x` is a bad record, `.` a good one.
    fn tripped(limits: BrakeLimits, records: &str) -> Option<(usize, Tripped)> {
        let mut brake = Brake::new(limits);
        for (index, record) in records.chars().filter(|record| !record.is_whitespace()).enumerate() {
            match record {
                'x' => {
                    if let Err(why) = brake.admit() {
                        return Some((index + 1, why));
                    }
                }
                _ => brake.pass(),
            }
        }
        None
    }

    #[test]
    fn it_stops_at_the_record_that_would_be_one_too_many() {
        // Four of twenty may be bad, and three in a row.
        let limits = BrakeLimits { percent_max: 20, window_records: 20, run_records: 4 };
        for (records, expected) in [
            ("", None),
            ("x", None),
            ("x..", None),
            ("xxx", None),
            ("xxx.", None),
            ("xxxx", Some((4, RUN))),
            ("xxx.x", None),
            ("xxx.xx", Some((6, SHARE))),
            ("x.x.x.x.x", Some((9, SHARE))),
            ("..........xxxx", Some((14, RUN))),
            // The fifth one comes when the first has just left the window, or stands in it still.
            ("x.x.x.x............. x", None),
            ("x.x.x.x............ x", Some((20, SHARE))),
            ("x.x.x.x............. x x", Some((22, SHARE))),
            ("x.x.x.x............. x.x.x.x ............. x.x.x.x", None),
        ] {
            assert_eq!(tripped(limits, records), expected, "{records}");
        }
    }

    #[test]
    fn the_limits_have_their_extremes() {
        let limits = |percent_max, run_records| BrakeLimits { percent_max, window_records: 4, run_records };
        assert_eq!(tripped(limits(100, 1), ".x"), Some((2, Tripped::Run(1))), "1 in a row: none is let through");
        assert_eq!(tripped(limits(100, u64::MAX), &"x".repeat(1000)), None, "100 percent never stop");
        let share = Tripped::Share { percent: 0, window_records: 4 };
        assert_eq!(tripped(limits(0, 9), "...x"), Some((4, share)), "0 percent stop at the first");
        assert_eq!(tripped(limits(25, 9), "x.x"), Some((3, Tripped::Share { percent: 25, window_records: 4 })));
        assert_eq!(tripped(limits(25, 9), "x... x... x"), None);
    }

    #[test]
    fn a_letter_delivered_before_is_counted_and_not_judged_again() {
        let mut brake = Brake::new(BrakeLimits { percent_max: 100, window_records: 10, run_records: 3 });
        brake.count();
        brake.count();
        assert_eq!(brake.admit(), Err(Tripped::Run(3)));
        brake.count();
        brake.pass();
        assert_eq!(brake.admit(), Ok(()));
    }

    #[test]
    fn it_keeps_no_more_than_the_window() {
        let mut brake = Brake::new(BrakeLimits { percent_max: 50, window_records: 100, run_records: 50 });
        for _ in 0..10_000 {
            brake.admit().expect("every fourth");
            (0..3).for_each(|_| brake.pass());
        }
        assert!(brake.dead.len() <= 25, "{}", brake.dead.len());
    }
}
