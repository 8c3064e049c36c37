//! The group that keeps positions, which has no members; and the topic.

use std::collections::HashMap;

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, ConsumerGroupMetadata},
    error::{KafkaError, KafkaResult},
    types::RDKafkaErrorCode,
};
use tokio::runtime::Handle;

use super::{Positions, RelayConfig, RelayPosition};
use crate::{
    client::{client, without_membership},
    log_ends::{self, ANSWER_MAX},
    settings::Settings,
    topics::{self, Admin, Shape},
    transaction::TransactionError,
};

/// Names and meaning: librdkafka, CONFIGURATION.md.
const OWN: [(&str, &str); 4] = [
    // The client then asks for stable offsets (KIP-447): the answer comes when no transaction is open that would move them.
    ("isolation.level", "read_committed"),
    ("enable.auto.commit", "false"),
    ("allow.auto.create.topics", "false"),
    ("client.id", "siteview-relay"),
];

/// Asks for what belongs to one relay.
pub(super) struct Group {
    settings: Settings,
    consumer: BaseConsumer,
    source_topic: String,
    topic: String,
}

impl Group {
    pub(super) fn new(settings: &HashMap<String, String>, config: &RelayConfig) -> Result<Self, TransactionError> {
        let settings = without_membership(settings);
        let own = [&OWN[..], &[("group.id", config.group.as_str())]].concat();
        let consumer = client(&settings, &own).create().map_err(TransactionError::Settings)?;
        let (source_topic, topic) = (config.source_topic.clone(), config.topic.clone());
        Ok(Self { settings, consumer, source_topic, topic })
    }

    /// Finds the topic, or makes it like the source topic; gives its partitions. Blocks. Errors say what to do.
    pub(super) fn open_topic(&self, runtime: &Handle) -> Result<i32, String> {
        let shape = |topic: &str| {
            let asked = topics::shape(&self.consumer, topic);
            asked.map_err(|error| format!("the brokers do not tell of topic {topic}: {error}"))
        };
        let source = shape(&self.source_topic)?;
        let source = source.ok_or_else(|| format!("the topic {} does not exist; waiting for it", self.source_topic))?;
        if let Some(found) = shape(&self.topic)? {
            return Ok(found.partitions);
        }
        runtime.block_on(self.create(source)).map_err(|error| self.refused(source, &error))?;
        Ok(source.partitions)
    }

    async fn create(&self, source: Shape) -> KafkaResult<()> {
        let admin: Admin = client(&self.settings, &OWN).create()?;
        let bytes_max = topics::max_message_bytes(&admin, &self.source_topic).await?;
        let config = [("max.message.bytes", bytes_max.as_str()), ("cleanup.policy", "delete")];
        topics::create(&admin, &self.topic, source, &config).await
    }

    fn refused(&self, source: Shape, why: &KafkaError) -> String {
        let (topic, Shape { partitions, replicas }) = (&self.topic, source);
        format!(
            "the topic {topic} is missing and cannot be created: {why}; make it: kafka-topics --create --topic {topic} \
             --partitions {partitions} --replication-factor {replicas}"
        )
    }

    /// The group's positions; `None` when it has none. Blocks. An error while a transaction is open that would move them.
    pub(super) fn positions(&self) -> KafkaResult<Option<Positions>> {
        let mut asked = TopicPartitionList::new();
        for partition in log_ends::partitions(&self.consumer, &self.source_topic)? {
            asked.add_partition(&self.source_topic, partition);
        }
        let mut positions = Positions::new();
        for element in self.consumer.committed_offsets(asked, ANSWER_MAX)?.elements() {
            element.error()?;
            if let Offset::Offset(next_offset) = element.offset() {
                let detail = element.metadata().to_owned();
                positions.insert(element.partition(), RelayPosition { next_offset, detail });
            }
        }
        Ok((!positions.is_empty()).then_some(positions))
    }

    /// Whether nobody has ever written to the topic. Blocks.
    pub(super) fn is_untouched(&self) -> KafkaResult<bool> {
        let partitions = log_ends::partitions(&self.consumer, &self.topic)?;
        Ok(log_ends::ends(&self.consumer, &self.topic, &partitions)?.values().all(|end| *end == 0))
    }

    /// Positions as the group keeps them.
    pub(super) fn offsets(&self, positions: &Positions) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::with_capacity(positions.len());
        for (partition, position) in positions {
            let mut element = list.add_partition(&self.source_topic, *partition);
            element.set_offset(Offset::Offset(position.next_offset))?;
            element.set_metadata(&position.detail);
        }
        Ok(list)
    }

    /// In whose name positions are committed: a group without members and generations.
    pub(super) fn metadata(&self) -> KafkaResult<ConsumerGroupMetadata> {
        self.consumer.group_metadata().ok_or(KafkaError::Global(RDKafkaErrorCode::UnknownGroup))
    }
}
