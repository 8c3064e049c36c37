//! What can change under a consumer without its saying so: the topic's identity and size, and goals that it can't reach.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rdkafka::{
    consumer::BaseConsumer,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};

use super::Follower;
use crate::{
    log_ends,
    topic_id::{self, TopicId},
};

/// How often the brokers are asked.
pub(super) const INTERVAL: Duration = Duration::from_secs(2);
/// How long a position may stand below a goal that is settled; doubled with each consumer made for that reason, since on a busy
/// machine a new one needs its time too.
const PATIENCE: Duration = Duration::from_secs(4);
/// Where the doubling ends.
const PATIENCE_MAX: Duration = Duration::from_secs(60);

pub(super) struct House {
    kept_at: Instant,
    patience: Duration,
    /// Positions with an unreached goal, and since when they stand there.
    standing: BTreeMap<i32, (i64, Instant)>,
}

impl House {
    pub(super) fn new() -> Self {
        Self { kept_at: Instant::now(), patience: PATIENCE, standing: BTreeMap::new() }
    }

    pub(super) fn opened(&mut self) {
        self.standing.clear();
        self.kept_at = Instant::now();
    }
}

impl<V: Send + Sync + 'static> Follower<V> {
    /// Asks, when it is time, and drops the consumer if it is not the right one any more.
    pub(super) fn keep_house(&mut self) {
        if self.consumer.is_none() || self.house.kept_at.elapsed() < INTERVAL {
            return;
        }
        self.house.kept_at = Instant::now();
        let reason = match self.reason_to_reopen() {
            Ok(reason) => reason,
            Err(error) if is_gone(&error) => Some("the topic is gone"),
            Err(error) => {
                self.progress.detail = format!("the brokers do not answer: {error}");
                return;
            }
        };
        self.progress.detail.clear();
        if let Some(reason) = reason {
            tracing::info!(topic = self.config.topic, reason, "a store makes its consumer anew");
            self.consumer = None;
        }
    }

    /// Takes in what the client said instead of a record.
    pub(super) fn hear(&mut self, error: KafkaError) {
        let lies_outside =
            [RDKafkaErrorCode::AutoOffsetReset, RDKafkaErrorCode::OffsetOutOfRange, RDKafkaErrorCode::LogTruncation];
        let outside = error.rdkafka_error_code().is_some_and(|code| lies_outside.contains(&code));
        if outside || is_gone(&error) || matches!(error, KafkaError::MessageConsumptionFatal(_)) {
            // Which partition it is the error does not tell; opening finds out, by where the log begins and ends.
            tracing::warn!(topic = self.config.topic, error = %error, "a store lost its place in the log");
            self.consumer = None;
        }
        self.progress.detail = error.to_string();
    }

    fn reason_to_reopen(&mut self) -> KafkaResult<Option<&'static str>> {
        let topic = self.config.topic.as_str();
        let topic_id = topic_id::fetch(&self.observer, topic)?;
        if topic_id::differ(self.topic_id.as_ref().map(TopicId::as_str), topic_id.as_ref()) {
            return Ok(Some("the topic was made anew"));
        }
        if log_ends::partitions(&self.observer, topic)?.len() != self.partitions.len() {
            return Ok(Some("partitions were added"));
        }
        self.stuck().map(|stuck| stuck.then_some("the tail of a partition holds no record"))
    }

    /// Whether a position has stood below a goal for long although everything up to it is settled.
    fn stuck(&mut self) -> KafkaResult<bool> {
        let open: BTreeMap<i32, (i64, i64)> = self
            .partitions
            .iter()
            .filter_map(|(number, partition)| Some((*number, (partition.position(), partition.target()?))))
            .collect();
        let House { standing, patience, .. } = &mut self.house;
        standing.retain(|number, (position, _)| open.get(number).is_some_and(|(now, _)| now == position));
        for (number, (position, _)) in &open {
            standing.entry(*number).or_insert((*position, Instant::now()));
        }
        let long = |number: &&i32| standing.get(number).is_some_and(|(_, since)| since.elapsed() >= *patience);
        let long: Vec<i32> = open.keys().filter(long).copied().collect();
        let Some(consumer) = self.consumer.as_ref().filter(|_| !long.is_empty()) else { return Ok(false) };
        let stable = stable(consumer, &self.config.topic, &long)?;
        let stuck = long.iter().any(|number| stable[number] >= open[number].1);
        if stuck {
            *patience = (*patience * 2).min(PATIENCE_MAX);
        }
        Ok(stuck)
    }
}

/// The last stable offsets: this consumer reads committed.
fn stable(consumer: &BaseConsumer, topic: &str, partitions: &[i32]) -> KafkaResult<BTreeMap<i32, i64>> {
    log_ends::ends(consumer, topic, partitions)
}

fn is_gone(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{UnknownPartition, UnknownTopic, UnknownTopicId, UnknownTopicOrPartition};
    let gone = [UnknownTopicOrPartition, UnknownTopic, UnknownPartition, UnknownTopicId];
    error.rdkafka_error_code().is_some_and(|code| gone.contains(&code))
}
