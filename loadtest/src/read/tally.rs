//! What a stream of requests came to.

use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;

use super::mix::Path;
use super::model::Verdict;
use crate::compare::Differences;

/// The longest latency that is told apart: above every deadline.
const MICROSECONDS_MAX: u64 = 600_000_000;

/// Counts and latencies of the counted requests; wrong answers of all.
pub(super) struct Tally {
    /// By path, from the due moment to the answer's last byte; refusals too: a server must not look fast by refusing.
    latencies: [Histogram<u64>; Path::ALL.len()],
    /// From the due moment to the sending: the generator's own lateness, and the wait for a free connection.
    lateness: Histogram<u64>,
    /// Answers that a server refused to give (5xx).
    pub(super) errors: u64,
    /// Answers that are not what the model says.
    pub(super) wrong: Differences,
    /// When the last request was sent.
    pub(super) last_sent: Instant,
}

impl Tally {
    pub(super) fn new() -> Result<Self> {
        let histogram = || Histogram::new_with_bounds(1, MICROSECONDS_MAX, 3);
        Ok(Self {
            latencies: [histogram()?, histogram()?, histogram()?, histogram()?, histogram()?],
            lateness: histogram()?,
            errors: 0,
            wrong: Differences::default(),
            last_sent: Instant::now(),
        })
    }

    /// Notes that a request went out, and how late.
    pub(super) fn sent(&mut self, at: Instant, late: Duration) {
        self.last_sent = at;
        self.lateness.saturating_record(microseconds(late));
    }

    /// Notes an answer; one of the warm-up only when it is wrong.
    pub(super) fn answered(&mut self, path: Path, latency: Duration, verdict: Verdict, is_counted: bool) {
        match verdict {
            Verdict::Right => {}
            Verdict::Refused => self.errors += u64::from(is_counted),
            Verdict::Wrong(what) => self.wrong.note(what),
        }
        if is_counted {
            self.latencies[path as usize].saturating_record(microseconds(latency));
        }
    }

    /// Latencies of one path; empty when it was not asked.
    pub(super) fn of(&self, path: Path) -> &Histogram<u64> {
        &self.latencies[path as usize]
    }

    /// Latencies of all paths.
    pub(super) fn all(&self) -> Histogram<u64> {
        let mut all = self.latencies[0].clone();
        self.latencies[1..].iter().for_each(|one| all += one);
        all
    }

    pub(super) fn lateness(&self) -> &Histogram<u64> {
        &self.lateness
    }
}

/// Rounded up: no latency looks shorter than it was.
fn microseconds(duration: Duration) -> u64 {
    duration.as_nanos().div_ceil(1_000).clamp(1, u128::from(MICROSECONDS_MAX)) as u64
}
