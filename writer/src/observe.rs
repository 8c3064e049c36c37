//! Every metric of the writer, by name. Labels are topic, partition, outcome and reason; never an id.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::{fold::Outcome, rejection::Reason};

const RECORDS: &str = "writer_records_total";
const LAG: &str = "writer_lag_records";
const BATCH_SECONDS: &str = "writer_batch_seconds";
const BATCH_RECORDS: &str = "writer_batch_records";
const END_TO_END: &str = "writer_end_to_end_seconds";
const BLOCKED: &str = "writer_blocked";
const FENCED: &str = "writer_fenced_total";
const REBALANCES: &str = "writer_rebalances_total";
const STORE_RETRIES: &str = "writer_store_retries_total";
const DEAD_LETTERS: &str = "writer_dead_letters_total";
const DEAD_LETTER_FAILURES: &str = "writer_dead_letter_failures_total";
const MARKERS_SWEPT: &str = "writer_markers_swept_total";
const CHANGE_PARTS: &str = "writer_change_parts_total";
const UPKEEP_FAILURES: &str = "writer_upkeep_failures_total";
const GENERATION: &str = "writer_generation";
const HEARTBEAT_AGE: &str = "writer_heartbeat_age_seconds";

/// The metrics of one topic.
#[derive(Debug, Clone)]
pub struct Metrics {
    topic: Arc<str>,
}

/// What is done beside batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpkeepTask {
    /// The floor of the change log.
    Floor,
    /// The parts of the change log.
    Parts,
    /// Delete markers.
    Markers,
}

impl UpkeepTask {
    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Parts => "parts",
            Self::Markers => "markers",
        }
    }
}

/// What became of a record, for the metric: an outcome of the fold, or nothing to fold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordOutcome {
    /// The view changed.
    Applied,
    /// The view held it already.
    Unchanged,
    /// Older than what the view held.
    Stale,
    /// Cannot be projected; it stands in the dead-letter topic.
    DeadLettered,
    /// Says nothing about a row.
    Skipped,
}

impl RecordOutcome {
    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Stale => "stale",
            Self::DeadLettered => "dead_lettered",
            Self::Skipped => "skipped",
        }
    }
}

impl From<Outcome> for RecordOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Applied => Self::Applied,
            Outcome::Unchanged => Self::Unchanged,
            Outcome::Stale => Self::Stale,
        }
    }
}

impl Metrics {
    /// Describes the metrics to the recorder.
    pub fn new(topic: Arc<str>) -> Self {
        describe_counter!(RECORDS, "records by what became of them: applied, unchanged, stale, dead_lettered, skipped");
        describe_gauge!(LAG, "records between the view's position and the end of the partition");
        describe_histogram!(BATCH_SECONDS, "time from the first attempt to store a batch to its commit");
        describe_histogram!(BATCH_RECORDS, "records of a batch");
        describe_histogram!(END_TO_END, "time from the commit at the source to the commit of the view");
        describe_gauge!(BLOCKED, "1 while the partition stands at a record");
        describe_counter!(FENCED, "claims that were over when a batch was to be stored");
        describe_counter!(REBALANCES, "assignments and revocations of partitions");
        describe_counter!(DEAD_LETTERS, "records that stand in the dead-letter topic and that the position has passed");
        describe_counter!(DEAD_LETTER_FAILURES, "attempts to write a dead letter that did not succeed in time");
        describe_counter!(STORE_RETRIES, "attempts to store a batch that the environment ended");
        describe_counter!(MARKERS_SWEPT, "delete markers that were removed after their retention");
        describe_counter!(CHANGE_PARTS, "parts of the change log: made, dropped");
        describe_counter!(UPKEEP_FAILURES, "attempts at upkeep that failed, by task: floor, parts, markers");
        describe_gauge!(HEARTBEAT_AGE, "time since the newest heartbeat of Debezium, where its topic is followed");
        describe_gauge!(
            GENERATION,
            "1 for the state that a generation of the view is in: building, ready, active, retired"
        );
        begin_at_zero();
        Self { topic }
    }

    /// Counts records of a stored batch.
    pub fn records(&self, partition: i32, outcome: RecordOutcome, count: u64) {
        let (topic, partition) = (self.topic(), partition.to_string());
        counter!(RECORDS, "topic" => topic, "partition" => partition, "outcome" => outcome.as_str()).increment(count);
    }

    /// A stored batch.
    pub fn batch(&self, records: usize, took: Duration) {
        histogram!(BATCH_RECORDS).record(records as f64);
        histogram!(BATCH_SECONDS).record(took);
    }

    /// Time from the source's commit to the view's; never negative, whatever the clocks say.
    pub fn end_to_end(&self, took: Duration) {
        histogram!(END_TO_END).record(took);
    }

    /// Records that a partition is behind.
    pub fn lag(&self, partition: i32, records: i64) {
        gauge!(LAG, "topic" => self.topic(), "partition" => partition.to_string()).set(records.max(0) as f64);
    }

    /// Whether a partition stands at a record.
    pub fn blocked(&self, partition: i32, blocked: bool) {
        gauge!(BLOCKED, "topic" => self.topic(), "partition" => partition.to_string()).set(if blocked {
            1.0
        } else {
            0.0
        });
    }

    /// Claims that were over.
    pub fn fenced(&self, partitions: usize) {
        counter!(FENCED).increment(partitions as u64);
    }

    /// A rebalance.
    pub fn rebalance(&self) {
        counter!(REBALANCES).increment(1);
    }

    /// A record that is a dead letter.
    pub fn dead_letter(&self, reason: Reason) {
        counter!(DEAD_LETTERS, "reason" => reason.as_str()).increment(1);
    }

    /// A dead letter that is not written yet.
    pub fn dead_letter_failure(&self) {
        counter!(DEAD_LETTER_FAILURES).increment(1);
    }

    /// An attempt to store a batch, or to claim a partition, that the environment ended.
    pub fn store_retry(&self) {
        counter!(STORE_RETRIES).increment(1);
    }

    /// Delete markers that were removed.
    pub fn markers_swept(&self, count: u64) {
        counter!(MARKERS_SWEPT).increment(count);
    }

    /// Parts of the change log that were made and dropped.
    pub fn change_parts(&self, made: i32, dropped: i32) {
        for (what, count) in [("made", made), ("dropped", dropped)] {
            counter!(CHANGE_PARTS, "what" => what).increment(u64::from(count.max(0).unsigned_abs()));
        }
    }

    /// An attempt at upkeep that failed.
    pub fn upkeep_failed(&self, task: UpkeepTask) {
        counter!(UPKEEP_FAILURES, "task" => task.as_str()).increment(1);
    }

    /// Time since the newest heartbeat.
    pub fn heartbeat_age(&self, age: Duration) {
        gauge!(HEARTBEAT_AGE).set(age);
    }

    fn topic(&self) -> String {
        self.topic.to_string()
    }
}

/// The states of a generation, as the database names them.
const GENERATION_STATES: [&str; 4] = ["building", "ready", "active", "retired"];

/// The view's generations as this writer saw them last, for whoever watches several writers: by consumer group, which names the
/// view too.
#[derive(Debug, Default)]
pub struct Generations {
    /// Group of each that was ever told.
    groups: BTreeMap<i32, String>,
}

impl Generations {
    /// Tells number, group and state of all that there are. One that is gone is in no state.
    pub fn tell<'a>(&mut self, all: impl IntoIterator<Item = (i32, String, &'a str)>) {
        let mut states = BTreeMap::new();
        for (generation, group, state) in all {
            self.groups.insert(generation, group);
            states.insert(generation, state);
        }
        for (generation, group) in &self.groups {
            for state in GENERATION_STATES {
                let is = states.get(generation) == Some(&state);
                gauge!(GENERATION, "generation" => generation.to_string(), "group" => group.clone(), "state" => state)
                    .set(f64::from(u8::from(is)));
            }
        }
    }
}

/// Counters of what should not happen are there before it does: a series that begins at 1 shows no increase.
fn begin_at_zero() {
    for name in [FENCED, REBALANCES, STORE_RETRIES, DEAD_LETTER_FAILURES, MARKERS_SWEPT] {
        counter!(name).increment(0);
    }
    for reason in Reason::ALL {
        counter!(DEAD_LETTERS, "reason" => reason.as_str()).increment(0);
    }
    for task in [UpkeepTask::Floor, UpkeepTask::Parts, UpkeepTask::Markers] {
        counter!(UPKEEP_FAILURES, "task" => task.as_str()).increment(0);
    }
    for what in ["made", "dropped"] {
        counter!(CHANGE_PARTS, "what" => what).increment(0);
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn a_generation_is_in_one_state_and_in_none_when_it_is_gone() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let told = |generations: &mut Generations, all: &[(i32, &'static str)]| {
            metrics::with_local_recorder(&recorder, || {
                generations.tell(all.iter().map(|(number, state)| (*number, format!("w-g{number}"), *state)));
            });
            let text = recorder.handle().render();
            let mut held: Vec<String> = text.lines().filter(|line| line.ends_with(" 1")).map(str::to_owned).collect();
            held.sort();
            held
        };
        let is = |number: i32, state: &str| {
            format!("writer_generation{{generation=\"{number}\",group=\"w-g{number}\",state=\"{state}\"}} 1")
        };
        let mut generations = Generations::default();
        assert_eq!(told(&mut generations, &[(1, "active"), (2, "building")]), [is(1, "active"), is(2, "building")]);
        assert_eq!(told(&mut generations, &[(1, "retired"), (2, "active")]), [is(1, "retired"), is(2, "active")]);
        assert_eq!(told(&mut generations, &[(2, "active")]), [is(2, "active")], "what is dropped is in no state");
    }
}
