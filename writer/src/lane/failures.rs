//! Records that cannot be applied: their dead letters, the partitions that wait for one, and the brake.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{Lane, LaneEvent};
use crate::{
    error::StoreError,
    pipeline::{Prepared, Refused, Stop, Verdict},
    rejection::{Reason, Rejection},
};

/// How long a batch waits for its dead letters; beyond it their partitions wait alone, and the others go on.
const LETTER_WAIT_MAX: Duration = Duration::from_secs(5);
/// The same for partitions that wait already: they look for the answer, and keep nobody up.
const LETTER_LOOK_MAX: Duration = Duration::from_millis(250);
/// Shortest and longest pause before a partition that waits for a dead letter tries again; each look is a claim.
const LETTER_RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Dead letters that a lane logs one by one within [`LOG_WINDOW`]; of the others it tells the number.
const LOGGED_MAX: u32 = 20;
/// See [`LOGGED_MAX`].
const LOG_WINDOW: Duration = Duration::from_secs(10);

impl Lane {
    /// Delivers the dead letters that a batch needs before it can be stored; no transaction is open meanwhile. Partitions
    /// whose letters are not written in time join `unwritable`.
    pub(super) async fn deliver(
        &mut self,
        prepared: &Prepared,
        found: Vec<(i32, i64, Rejection)>,
        unwritable: &mut HashMap<i32, String>,
    ) {
        let waits = |(partition, ..): &(i32, i64, Rejection)| self.letter_waits.contains_key(partition);
        let wait = if found.iter().all(waits) { LETTER_LOOK_MAX } else { LETTER_WAIT_MAX };
        let letters: Vec<_> = found.iter().map(|(p, offset, why)| prepared.letter(*p, *offset, why)).collect();
        let answers = self.shared.dead_letters.deliver(&letters, wait).await;
        drop(letters);
        for ((partition, offset, rejection), answer) in found.into_iter().zip(answers) {
            match &answer {
                Ok(()) => self.log_dead_letter(partition, offset, rejection.reason),
                Err(error) => drop(unwritable.entry(partition).or_insert_with(|| error.to_string())),
            }
            self.verdicts.insert((partition, offset), Verdict { rejection, delivered: answer.is_ok() });
        }
    }

    /// Postgres refuses the data of some record among those attempted. Gives whether that leads anywhere: to fewer records,
    /// or to the one.
    pub(super) fn narrow(&mut self, error: &StoreError, prepared: &mut Prepared) -> bool {
        match prepared.refused() {
            Refused::Narrowed => true,
            Refused::Nothing => false,
            // It was known already, and writes nothing: what Postgres refuses is something else.
            Refused::Found(place) if self.verdicts.contains_key(&place) => false,
            Refused::Found(place) => {
                let rejection = Rejection::new(Reason::RejectedByDatabase, error.to_string());
                self.verdicts.insert(place, Verdict { rejection, delivered: false });
                true
            }
        }
    }

    /// Ends the tenure of a partition that stops, and says so where operators look.
    pub(super) async fn stop(&mut self, partition: i32, offset: i64, why: Stop) {
        let Some(tenure) = self.end(partition) else { return };
        let (standing, topic) = (&self.shared.standing, &self.shared.topic);
        match why {
            Stop::Rejected(rejection) => {
                standing.rejected(topic, partition, offset, &rejection);
                self.tell(LaneEvent::Blocked { partition });
            }
            Stop::Braked(tripped, rejection) => {
                // Whoever releases it, releases it with a brake that has seen nothing.
                self.brakes.remove(&partition);
                standing.braked(topic, partition, offset, &format!("{tripped}; the next one is {}", rejection.reason));
                self.tell(LaneEvent::Blocked { partition });
            }
            Stop::AwaitsDeadLetter(why) => {
                let first = !self.letter_waits.contains_key(&partition);
                standing.awaits_dead_letter(topic, partition, offset, &why, first);
                let since = *self.letter_waits.entry(partition).or_insert_with(Instant::now);
                let retry_after = since.elapsed().clamp(LETTER_RETRY.0, LETTER_RETRY.1);
                self.tell(LaneEvent::LetGo { partition, retry_after });
            }
            Stop::AwaitsOldKey(old_key) => self.wait_for(&tenure, offset, &old_key).await,
        }
    }

    /// What is known of a partition's records below this position is needed no more.
    pub(super) fn forget_before(&mut self, partition: i32, next_offset: i64) {
        self.verdicts.retain(|(of, offset), _| *of != partition || *offset >= next_offset);
    }

    /// The position of a claimed partition: its brake goes on where this lane left it, and begins anew elsewhere.
    pub(super) fn resume_brake(&mut self, partition: i32, next_offset: i64) {
        if self.reached.get(&partition) != Some(&next_offset) {
            self.brakes.remove(&partition);
        }
    }

    fn log_dead_letter(&mut self, partition: i32, offset: i64, reason: Reason) {
        let topic = &self.shared.topic;
        let (log_it, withheld) = self.letter_log.take(Instant::now());
        if withheld > 0 {
            tracing::warn!(%topic, withheld, "further dead letters, not logged one by one");
        }
        if log_it {
            tracing::warn!(%topic, partition, offset, %reason, "the record is a dead letter");
        }
    }
}

/// Bounds the rate of a kind of log line.
#[derive(Debug, Default)]
pub(super) struct LogBudget {
    window_began: Option<Instant>,
    logged: u32,
    withheld: u64,
}

impl LogBudget {
    /// Whether one more may be logged, and how many of the window that has just ended were not.
    fn take(&mut self, now: Instant) -> (bool, u64) {
        let mut withheld = 0;
        if self.window_began.is_none_or(|began| now.duration_since(began) >= LOG_WINDOW) {
            withheld = self.withheld;
            *self = Self { window_began: Some(now), logged: 0, withheld: 0 };
        }
        let log_it = self.logged < LOGGED_MAX;
        match log_it {
            true => self.logged += 1,
            false => self.withheld += 1,
        }
        (log_it, withheld)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_logs_so_many_and_the_next_one_tells_of_the_rest() {
        let (mut budget, start) = (LogBudget::default(), Instant::now());
        for number in 0..LOGGED_MAX + 7 {
            assert_eq!(budget.take(start), (number < LOGGED_MAX, 0));
        }
        assert_eq!(budget.take(start + LOG_WINDOW), (true, 7));
        assert_eq!(budget.take(start + 2 * LOG_WINDOW), (true, 0));
    }
}
