//! Every metric of the relay, by name, beside those of its transactions (`messaging_transaction_*`).

use metrics::{counter, describe_counter, describe_gauge, gauge};

const RECORDS: &str = "writer_relay_records_total";
const LAG: &str = "writer_relay_lag_records";
const BLOCKED: &str = "writer_relay_blocked";
const FAILURES: &str = "writer_relay_failures_total";

/// The metrics of one relay.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    topic: String,
}

/// What is waited out.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trouble {
    Kafka,
    Database,
}

/// Why a relay stands until an operator decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands {
    PositionLost,
    PositionExpired,
}

impl Stands {
    const ALL: [Self; 2] = [Self::PositionLost, Self::PositionExpired];

    fn as_str(self) -> &'static str {
        match self {
            Self::PositionLost => "position-lost",
            Self::PositionExpired => "position-expired",
        }
    }
}

impl Metrics {
    /// Describes them; those of what should not happen begin at 0.
    pub(super) fn new(topic: &str) -> Self {
        describe_counter!(RECORDS, "events in committed transactions");
        describe_gauge!(LAG, "records of the source between what is relayed and the view's position");
        describe_gauge!(BLOCKED, "1 while the relay stands until an operator sets its position, by reason");
        describe_counter!(FAILURES, "attempts that the environment ended, by what was away: kafka, database");
        counter!(RECORDS).increment(0);
        for away in ["kafka", "database"] {
            counter!(FAILURES, "away" => away).increment(0);
        }
        let metrics = Self { topic: topic.to_owned() };
        metrics.stands(None);
        metrics
    }

    pub(super) fn relayed(&self, events: usize) {
        counter!(RECORDS).increment(events as u64);
    }

    pub(super) fn lag(&self, partition: i32, records: i64) {
        let (topic, partition) = (self.topic.clone(), partition.to_string());
        gauge!(LAG, "topic" => topic, "partition" => partition).set(records.max(0) as f64);
    }

    pub(super) fn stands(&self, why: Option<Stands>) {
        for reason in Stands::ALL {
            let is_it = why == Some(reason);
            gauge!(BLOCKED, "reason" => reason.as_str()).set(if is_it { 1.0 } else { 0.0 });
        }
    }

    pub(super) fn trouble(&self, away: Trouble) {
        let away = match away {
            Trouble::Kafka => "kafka",
            Trouble::Database => "database",
        };
        counter!(FAILURES, "away" => away).increment(1);
    }
}
