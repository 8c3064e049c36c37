//! Every metric of consumers, by name. Labels are group, topic, partition and outcome; never an id.

use std::{sync::Arc, time::Duration};

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

const RECORDS: &str = "consumer_records_total";
const HANDLE_SECONDS: &str = "consumer_handle_seconds";
const BLOCKED: &str = "consumer_blocked";
const PARKED: &str = "consumer_parked_records";
const REBALANCES: &str = "consumer_rebalances_total";
const DELIVERY_FAILURES: &str = "consumer_delivery_failures_total";

/// What became of an attempt or of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Handled,
    /// Tried again in place.
    Retried,
    /// Sent to a retry topic.
    RetryTopic,
    DeadLettered,
    /// A person said so; it is a dead letter too.
    LeftOut,
    Blocked,
    Parked,
}

impl Outcome {
    const ALL: [Self; 7] = [
        Self::Handled,
        Self::Retried,
        Self::RetryTopic,
        Self::DeadLettered,
        Self::LeftOut,
        Self::Blocked,
        Self::Parked,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Retried => "retried",
            Self::RetryTopic => "retry_topic",
            Self::DeadLettered => "dead_lettered",
            Self::LeftOut => "left_out",
            Self::Blocked => "blocked",
            Self::Parked => "parked",
        }
    }
}

/// The metrics of one group.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    group: Arc<str>,
}

impl Metrics {
    /// Describes them. Counters are there before anything happens: a series that begins at 1 shows no increase.
    pub(super) fn new<'t>(group: &str, topics: impl Iterator<Item = &'t Arc<str>>) -> Self {
        describe_counter!(
            RECORDS,
            "attempts by what came of them: handled, retried, retry_topic, dead_lettered, left_out, blocked, parked"
        );
        describe_histogram!(HANDLE_SECONDS, "time of one attempt in the handler");
        describe_gauge!(BLOCKED, "1 while the partition stands at a record until a person decides");
        describe_gauge!(PARKED, "records that wait with their parked keys");
        describe_counter!(REBALANCES, "partitions that the group gave, asked back or took");
        describe_counter!(DELIVERY_FAILURES, "attempts to write a dead letter or a retry that did not succeed in time");
        for topic in topics {
            for outcome in Outcome::ALL {
                counter!(RECORDS, "group" => group.to_owned(), "topic" => topic.to_string(), "outcome" => outcome.as_str())
                    .increment(0);
            }
        }
        counter!(REBALANCES, "group" => group.to_owned()).increment(0);
        counter!(DELIVERY_FAILURES, "group" => group.to_owned()).increment(0);
        Self { group: group.into() }
    }

    pub(super) fn record(&self, topic: &str, outcome: Outcome) {
        counter!(RECORDS, "group" => self.group(), "topic" => topic.to_owned(), "outcome" => outcome.as_str())
            .increment(1);
    }

    pub(super) fn handled_in(&self, took: Duration) {
        histogram!(HANDLE_SECONDS, "group" => self.group()).record(took);
    }

    pub(super) fn holds(&self, topic: &str, partition: i32, blocked: bool, parked: usize) {
        let labels = [("group", self.group()), ("topic", topic.to_owned()), ("partition", partition.to_string())];
        gauge!(BLOCKED, &labels).set(f64::from(u8::from(blocked)));
        gauge!(PARKED, &labels).set(parked as f64);
    }

    pub(super) fn rebalance(&self, partitions: usize) {
        counter!(REBALANCES, "group" => self.group()).increment(partitions as u64);
    }

    pub(super) fn delivery_failure(&self) {
        counter!(DELIVERY_FAILURES, "group" => self.group()).increment(1);
    }

    fn group(&self) -> String {
        self.group.to_string()
    }
}
