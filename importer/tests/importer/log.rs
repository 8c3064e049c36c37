//! What stands in topics, and how far it is worked.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    message::OwnedMessage,
    types::RDKafkaErrorCode,
};

use crate::stage::DEADLINE;

/// How long a broker may take for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long a poll waits.
const POLL_MAX: Duration = Duration::from_secs(1);

/// Whether a group has committed everything that a topic holds, in which no transaction has left a marker.
pub fn is_committed(servers: &str, group: &str, topic: &str) -> Result<bool> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("log_level", "0").set("group.id", group);
    let consumer: BaseConsumer = config.create()?;
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER_MAX)?;
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        list.add_partition(topic, partition.id());
    }
    let mut is_committed = list.count() > 0;
    for element in consumer.committed_offsets(list, ANSWER_MAX)?.elements() {
        let (_, end) = consumer.fetch_watermarks(topic, element.partition(), ANSWER_MAX)?;
        is_committed &= end == 0 || element.offset() == Offset::Offset(end);
    }
    Ok(is_committed)
}

/// The committed records of a topic up to its end.
pub fn read(servers: &str, topic: &str) -> Result<Vec<OwnedMessage>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("log_level", "0").set("group.id", "a-reader");
    config.set("enable.partition.eof", "true").set("isolation.level", "read_committed");
    let consumer: BaseConsumer = config.create()?;
    let metadata = consumer.fetch_metadata(Some(topic), DEADLINE)?;
    let partitions = metadata.topics()[0].partitions().len();
    ensure!(partitions > 0, "{topic} does not exist");
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, i32::try_from(partitions)? - 1);
    list.set_all_offsets(Offset::Beginning)?;
    consumer.assign(&list)?;
    let (mut messages, mut ends, began) = (Vec::new(), HashSet::new(), Instant::now());
    while ends.len() < partitions {
        ensure!(began.elapsed() < DEADLINE, "the end of {topic} was not met");
        match consumer.poll(POLL_MAX) {
            Some(Ok(message)) => messages.push(message.detach()),
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(ends.insert(partition)),
            Some(Err(error)) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) => return Err(error.into()),
            // A broker that is slow or has gone for a moment: the client goes on by itself.
            Some(Err(_)) | None => {}
        }
    }
    messages.sort_by_key(|message| (message.partition(), message.offset()));
    Ok(messages)
}
