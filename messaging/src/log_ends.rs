//! Where the log of a topic begins and ends, asked of the brokers.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, KafkaResult},
    metadata::MetadataTopic,
    types::RDKafkaErrorCode,
};

/// How long a broker may take for one answer.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The partitions of a topic; an error when there is no such topic. Blocks.
pub(crate) fn partitions(consumer: &BaseConsumer<impl ConsumerContext>, topic: &str) -> KafkaResult<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER_MAX)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    if let Some(error) = found.and_then(MetadataTopic::error) {
        return Err(KafkaError::MetadataFetch(error.into()));
    }
    let partitions: Vec<i32> = found.map_or(&[][..], MetadataTopic::partitions).iter().map(|p| p.id()).collect();
    match partitions.is_empty() {
        true => Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)),
        false => Ok(partitions),
    }
}

/// The oldest offset kept of each partition. Blocks; a partition that is not told makes it an error.
pub(crate) fn starts(
    consumer: &BaseConsumer<impl ConsumerContext>,
    topic: &str,
    partitions: &[i32],
) -> KafkaResult<BTreeMap<i32, i64>> {
    list(consumer, topic, partitions, Offset::Beginning)
}

/// The offset behind the newest record of each partition as this consumer sees it: the high watermark under
/// `read_uncommitted`, the last stable offset under `read_committed` (librdkafka sends its isolation level along). Blocks; a
/// partition that is not told makes it an error.
pub(crate) fn ends(
    consumer: &BaseConsumer<impl ConsumerContext>,
    topic: &str,
    partitions: &[i32],
) -> KafkaResult<BTreeMap<i32, i64>> {
    list(consumer, topic, partitions, Offset::End)
}

/// Kafka's ListOffsets takes a moment; -1 stands for the newest one and -2 for the oldest (KIP-79). One request per broker.
fn list(
    consumer: &BaseConsumer<impl ConsumerContext>,
    topic: &str,
    partitions: &[i32],
    moment: Offset,
) -> KafkaResult<BTreeMap<i32, i64>> {
    let mut asked = TopicPartitionList::new();
    for partition in partitions {
        asked.add_partition_offset(topic, *partition, moment)?;
    }
    let mut told = BTreeMap::new();
    for element in consumer.offsets_for_times(asked, ANSWER_MAX)?.elements() {
        element.error()?;
        match element.offset() {
            Offset::Offset(offset) => drop(told.insert(element.partition(), offset)),
            _ => return Err(KafkaError::OffsetFetch(RDKafkaErrorCode::UnknownTopicOrPartition)),
        }
    }
    Ok(told)
}
