//! Which partitions are to be claimed, looked at, or let go because the client's position has left the log.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Source, State};
use crate::lane::Command;

/// How often a partition that stands is looked at; an operator's verb shall act within 5 s.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long after the client's word that a fetch lay outside the log the partition is looked for: the newest ends are a sample
/// old, and the brokers may be slow to tell them.
const OUTSIDE_SOUGHT: Duration = Duration::from_secs(10);

impl Source {
    /// Sends each lane that is not claiming already the list of its partitions that are due; when there is none, of those that
    /// stand and are to be looked at.
    pub(super) fn claim_due(&mut self) {
        for number in 0..self.lanes.len() {
            if self.lanes[number].claiming {
                continue;
            }
            let now = Instant::now();
            let due = self.of_lane(number, |state| matches!(state, State::Unclaimed(at) if *at <= now));
            let stand = self.of_lane(number, |state| matches!(state, State::Blocked(at) if *at <= now));
            if !due.is_empty() {
                due.iter().for_each(|partition| drop(self.partitions.insert(*partition, State::Claiming)));
                self.lanes[number].claiming = true;
                self.lanes[number].send(Command::Claim(due));
            } else if !stand.is_empty() {
                let again =
                    |partition: &i32| drop(self.partitions.insert(*partition, State::Blocked(now + LOOK_INTERVAL)));
                stand.iter().for_each(again);
                self.lanes[number].claiming = true;
                self.lanes[number].send(Command::Look(stand));
            }
        }
    }

    fn of_lane(&self, number: usize, is_it: impl Fn(&State) -> bool) -> Vec<i32> {
        let of_lane = |partition: i32| partition as usize % self.lanes.len() == number;
        let found = self.partitions.iter().filter(|(partition, state)| of_lane(**partition) && is_it(state));
        found.map(|(partition, _)| *partition).collect()
    }

    /// After the client's word that some fetch lay outside the log: lets go of the partitions of which that holds, so that
    /// their claims say so where operators see it. The error does not name its partition, of which the client fetches no more.
    pub(super) fn let_go_outside(&mut self) {
        if self.outside_since.is_none_or(|since| since.elapsed() > OUTSIDE_SOUGHT) {
            self.outside_since = None;
            return;
        }
        let sample = Arc::clone(&self.newest_sample.borrow());
        let is_outside = |(partition, state): (&i32, &State)| match (state, sample.ends.get(partition)) {
            (State::Running(running), Some(ends)) => (!ends.hold(running.next_offset)).then_some(*partition),
            _ => None,
        };
        let outside: Vec<i32> = self.partitions.iter().filter_map(is_outside).collect();
        for partition in outside {
            tracing::warn!(partition, "the client's position lies outside the log; the partition is claimed again");
            self.let_go(partition, State::Unclaimed(Instant::now()));
        }
    }
}
