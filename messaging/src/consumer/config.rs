//! What a consumer is told: data, checked once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::partition::Load;
use crate::{
    brake::BrakeLimits,
    retry::{RetryConfig, RetryConfigError, retry_topic},
    settings::Settings,
};

/// Which records must follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// All of a partition.
    ByPartition,
    /// Those of one key; records without a key count as one. `parallel_max` keys of a partition are handled at once.
    ByKey {
        /// From 1.
        parallel_max: usize,
    },
}

impl Order {
    pub(super) fn parallel_max(self) -> usize {
        match self {
            Self::ByPartition => 1,
            Self::ByKey { parallel_max } => parallel_max.max(1),
        }
    }
}

/// Where a group begins that has committed nothing yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the first record that is kept.
    Earliest,
    /// At the end.
    Latest,
}

/// How much of a partition is kept in memory. It is fetched until one of the highs is reached, and again from the lows on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// Records.
    pub high_records: usize,
    /// Records.
    pub low_records: usize,
    /// Bytes of keys and values.
    pub high_bytes: usize,
    /// Bytes of keys and values.
    pub low_bytes: usize,
}

/// A consumer's configuration.
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    /// Of the Kafka client, as [`crate::settings`] reads them.
    pub settings: Settings,
    /// Consumer group; its name is also that of retry topics, dead letters and blocking state.
    pub group: String,
    /// The topics, each with its retries.
    pub topics: BTreeMap<String, RetryConfig>,
    /// Which records must follow one another.
    pub order: Order,
    /// Where to begin.
    pub start: Start,
    /// Bounds the memory of a partition.
    pub watermarks: Watermarks,
    /// Records of a partition that may be parked; beyond them it stops. They stay in memory.
    pub parked_max: usize,
    /// Bytes of them.
    pub parked_bytes_max: usize,
    /// Stops a partition when too many of its records become dead letters.
    pub brake: BrakeLimits,
    /// How long one attempt may take.
    pub handle_max: Duration,
    /// Time for what is in hand, when the consumer stops or a partition goes to another member. Shorter than the group's
    /// `max.poll.interval.ms`.
    pub drain_max: Duration,
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is nothing to consume.
    #[error("no topic")]
    NoTopic,
    /// A topic's retries do not fit together.
    #[error("retries of {topic}: {error}")]
    Retries {
        /// The topic.
        topic: String,
        /// Why.
        error: RetryConfigError,
    },
    /// Parking lets other keys go on; the order of a partition forbids it.
    #[error("a key of {0} cannot be parked where the whole partition is one order")]
    ParkedInPartitionOrder(String),
    /// A name would be that of two topics.
    #[error("the topic {0} is also a retry topic")]
    RetryTopicConsumed(String),
    /// A low mark must lie below its high mark.
    #[error("watermarks: low must be below high, and high above 0")]
    Watermarks,
}

impl ConsumerConfig {
    /// A configuration with the usual limits: per key, 16 keys of a partition at once, from the earliest record.
    pub fn new(settings: Settings, group: &str, topics: impl IntoIterator<Item = (String, RetryConfig)>) -> Self {
        Self {
            settings,
            group: group.to_owned(),
            topics: topics.into_iter().collect(),
            order: Order::ByKey { parallel_max: 16 },
            start: Start::Earliest,
            watermarks: Watermarks { high_records: 1000, low_records: 500, high_bytes: 8 << 20, low_bytes: 4 << 20 },
            parked_max: 1000,
            parked_bytes_max: 16 << 20,
            brake: BrakeLimits { percent_max: 10, window_records: 10_000, run_records: 100 },
            handle_max: Duration::from_secs(300),
            drain_max: Duration::from_secs(5),
        }
    }

    /// Names what does not fit.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.topics.is_empty() {
            return Err(ConfigError::NoTopic);
        }
        let Watermarks { high_records, low_records, high_bytes, low_bytes } = self.watermarks;
        if low_records >= high_records || low_bytes >= high_bytes {
            return Err(ConfigError::Watermarks);
        }
        for (topic, retries) in &self.topics {
            retries.check().map_err(|error| ConfigError::Retries { topic: topic.clone(), error })?;
            if retries.exhausted == crate::retry::Exhausted::ParkKey && self.order == Order::ByPartition {
                return Err(ConfigError::ParkedInPartitionOrder(topic.clone()));
            }
        }
        let retry_topics: BTreeSet<String> = self.topics.keys().flat_map(|topic| self.retry_topics(topic)).collect();
        match self.topics.keys().find(|topic| retry_topics.contains(*topic)) {
            Some(topic) => Err(ConfigError::RetryTopicConsumed(topic.clone())),
            None => Ok(()),
        }
    }

    /// What may be parked in a partition.
    pub(super) fn parked_load_max(&self) -> Load {
        Load { records: self.parked_max, bytes: self.parked_bytes_max }
    }

    /// The retry topics of a topic, in the order of their numbers.
    pub fn retry_topics(&self, topic: &str) -> Vec<String> {
        let count = self.topics.get(topic).map_or(0, |retries| retries.retry_topic_delays().len());
        (0..count).map(|number| retry_topic(topic, &self.group, number)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::Exhausted;

    fn config(topic: &str, retries: RetryConfig) -> ConsumerConfig {
        ConsumerConfig::new(Settings::new(), "g", [(topic.to_owned(), retries)])
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let parked = RetryConfig::empty().exhausted(Exhausted::ParkKey);
        assert_eq!(config("t", parked.clone()).check(), Ok(()));
        let by_partition = ConsumerConfig { order: Order::ByPartition, ..config("t", parked) };
        assert_eq!(by_partition.check(), Err(ConfigError::ParkedInPartitionOrder("t".to_owned())));
        let mut nested = config("t", RetryConfig::non_blocking_retry([Duration::from_secs(1)]));
        assert_eq!(nested.retry_topics("t"), ["t-g-retry-0"]);
        nested.topics.insert("t-g-retry-0".to_owned(), RetryConfig::empty());
        assert_eq!(nested.check(), Err(ConfigError::RetryTopicConsumed("t-g-retry-0".to_owned())));
        assert_eq!(ConsumerConfig { topics: BTreeMap::new(), ..nested }.check(), Err(ConfigError::NoTopic));
    }
}
