//! When each event was due, and when a server showed it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devstack::postgres::client;
use hdrhistogram::Histogram;
use tokio::time::{Instant, MissedTickBehavior};

use super::MICROSECONDS_MAX;

/// Pause between two looks at a server: the resolution of what is measured.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How long after the last due moment a server may take to show all; beyond it something stands still.
const STRAGGLERS_MAX: Duration = Duration::from_secs(60);
const POSITIONS: &str = "select partition, next_offset from view_g1.position where topic = $1";

/// The due moments of a stream, and where its events stand in the topic.
#[derive(Debug)]
pub(super) struct Schedule {
    start: Instant,
    interval: Duration,
    /// By partition: events of the stream in the order of their offsets.
    events: Vec<Vec<usize>>,
    /// By partition: the offset of the first of them.
    first_offsets: Vec<usize>,
    /// The first so many events are sent and not counted.
    uncounted: usize,
}

impl Schedule {
    /// The schedule of the records behind the first `snapshot` ones, `rate` a second from `start` on. `partitions` are those
    /// of all records, in the order in which they are produced into an empty topic.
    pub(super) fn new(start: Instant, rate: u64, partitions: &[i32], snapshot: usize, uncounted: usize) -> Self {
        let count = partitions.iter().map(|partition| *partition as usize + 1).max().unwrap_or(0);
        let (mut events, mut first_offsets) = (vec![Vec::new(); count], vec![0; count]);
        let (before, stream) = partitions.split_at(snapshot);
        before.iter().for_each(|partition| first_offsets[*partition as usize] += 1);
        stream.iter().enumerate().for_each(|(event, partition)| events[*partition as usize].push(event));
        Self { start, interval: Duration::from_nanos(1_000_000_000 / rate), events, first_offsets, uncounted }
    }

    /// When an event is due.
    pub(super) fn due(&self, event: usize) -> Instant {
        self.start + self.interval * u32::try_from(event).expect("an hour at the highest rate fits")
    }

    fn last_due(&self) -> Instant {
        self.due(self.events.iter().filter_map(|events| events.last()).copied().max().unwrap_or(0))
    }
}

/// The events that one server has shown so far.
struct Seen<'a> {
    schedule: &'a Schedule,
    /// By partition: how many.
    counts: Vec<usize>,
    latencies: Histogram<u64>,
}

impl<'a> Seen<'a> {
    fn new(schedule: &'a Schedule) -> Result<Self> {
        let latencies = Histogram::new_with_bounds(1, MICROSECONDS_MAX, 3)?;
        Ok(Self { schedule, counts: vec![0; schedule.events.len()], latencies })
    }

    /// Notes that a partition's position was at `next_offset` at this moment.
    fn note(&mut self, partition: usize, next_offset: usize, at: Instant) -> Result<()> {
        let (events, first) = (&self.schedule.events[partition], self.schedule.first_offsets[partition]);
        let until = next_offset.saturating_sub(first).min(events.len());
        for event in events.iter().take(until).skip(self.counts[partition]) {
            if *event >= self.schedule.uncounted {
                let latency = at.saturating_duration_since(self.schedule.due(*event));
                self.latencies.record(u64::try_from(latency.as_micros())?.max(1))?;
            }
        }
        self.counts[partition] = self.counts[partition].max(until);
        Ok(())
    }

    fn is_complete(&self) -> bool {
        self.counts.iter().zip(&self.schedule.events).all(|(seen, events)| *seen == events.len())
    }
}

/// Watches one server until it has shown the whole stream; gives the latencies in microseconds.
pub(super) async fn follow(url: String, topic: String, schedule: std::sync::Arc<Schedule>) -> Result<Histogram<u64>> {
    let client = client(&url).await?;
    let statement = client.prepare(POSITIONS).await?;
    let mut seen = Seen::new(&schedule)?;
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while !seen.is_complete() {
        looks.tick().await;
        let rows = client.query(&statement, &[&topic]).await?;
        let at = Instant::now();
        for row in rows {
            let (partition, next_offset): (i32, i64) = (row.get(0), row.get(1));
            seen.note(
                usize::try_from(partition)?,
                usize::try_from(next_offset).context("offsets count up from 0")?,
                at,
            )?;
        }
        ensure!(at < schedule.last_due() + STRAGGLERS_MAX, "the stream was not seen whole within {STRAGGLERS_MAX:?}");
    }
    Ok(seen.latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two records of a snapshot, then four events every 10 ms; the first is not counted.
    fn schedule(start: Instant) -> Schedule {
        Schedule::new(start, 100, &[0, 1, 0, 1, 1, 0], 2, 1)
    }

    #[test]
    fn latency_runs_from_the_due_moment_whenever_the_record_was_sent() {
        let start = Instant::now();
        let (schedule, ms) = (schedule(start), |ms| start + Duration::from_millis(ms));
        let mut seen = Seen::new(&schedule).unwrap();
        seen.note(0, 1, ms(1)).unwrap();
        assert_eq!(seen.latencies.len(), 0, "that was the snapshot");
        seen.note(0, 2, ms(3)).unwrap();
        assert_eq!(seen.latencies.len(), 0, "that was the warm-up");
        // Both events of partition 1 (due at 10 and 20 ms) in one batch that was late.
        seen.note(1, 3, ms(50)).unwrap();
        seen.note(1, 3, ms(60)).unwrap();
        assert!(!seen.is_complete());
        seen.note(0, 3, ms(31)).unwrap();
        assert!(seen.is_complete());
        let latencies: Vec<u64> = seen.latencies.iter_recorded().map(|value| value.value_iterated_to() / 100).collect();
        assert_eq!(latencies, [10, 300, 400]);
    }
}
