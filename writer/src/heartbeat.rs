//! Debezium's heartbeats: how far the source has been read, as its connector says.
//!
//! What Debezium promises. A heartbeat is a record with the connector's clock, `{"ts_ms":…}`, made by the thread that hands
//! on changes and put behind them into the same queue (`EventDispatcher`, `HeartbeatImpl`: always partition 0 of
//! `<topic.heartbeat.prefix>.<topic.prefix>`); so it is *sent* after every change that was read before it. It is not
//! *acknowledged* after them: Connect sends to several partitions at once, and a retry may hold one of them up. Nothing here
//! rests on that order. A heartbeat is read first, then the ends of the topic; a position that has reached these ends contains
//! every change that Kafka had acknowledged when the heartbeat was read, and may say so for the heartbeat's moment, which is
//! earlier. What heartbeats add is that the moment stands still while Debezium does: `as_of` then tells how old the view may
//! be against the source, save for what was on its way to Kafka.
//!
//! The connector's clock may be ahead; a heartbeat counts as no later than now.

use std::time::Duration;

use jiff::Timestamp;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaResult,
};
use serde::Deserialize;

/// How long the brokers may take to tell the topic's partitions.
const METADATA_MAX: Duration = Duration::from_secs(5);
/// Heartbeats that one look reads at most: more than a connector writes between two looks.
const READ_MAX: usize = 1000;

/// The heartbeat topic, read from its newest record on.
#[derive(Debug)]
pub struct Heartbeats {
    topic: String,
    newest: Option<Timestamp>,
    follows: bool,
}

impl Heartbeats {
    /// A topic of which nothing has been read.
    pub fn new(topic: String) -> Self {
        Self { topic, newest: None, follows: false }
    }

    /// Reads what has come, without waiting for more, and gives the newest heartbeat's moment; `None` while there was none.
    /// An error changes nothing and is tried again by the next call.
    pub fn read(&mut self, consumer: &BaseConsumer) -> KafkaResult<Option<Timestamp>> {
        if !self.follows {
            self.follows = self.follow(consumer)?;
        }
        for _ in 0..READ_MAX {
            let Some(message) = consumer.poll(Duration::ZERO) else { break };
            let moment = message?.payload().and_then(moment);
            self.newest = self.newest.max(moment);
        }
        Ok(self.newest)
    }

    /// Begins at the newest record of each partition; a topic that is not there yet is looked for again.
    fn follow(&self, consumer: &BaseConsumer) -> KafkaResult<bool> {
        let metadata = consumer.fetch_metadata(Some(&self.topic), METADATA_MAX)?;
        let mut tails = TopicPartitionList::new();
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            tails.add_partition_offset(&self.topic, partition.id(), Offset::OffsetTail(1))?;
        }
        if tails.count() == 0 {
            return Ok(false);
        }
        consumer.assign(&tails)?;
        tracing::info!(topic = self.topic, "following the source's heartbeats");
        Ok(true)
    }
}

/// The value of a heartbeat, with the schema or without.
#[derive(Deserialize)]
struct Value {
    ts_ms: Option<i64>,
    payload: Option<Payload>,
}

#[derive(Deserialize)]
struct Payload {
    ts_ms: Option<i64>,
}

/// The moment of a heartbeat; a record that is none says nothing.
fn moment(value: &[u8]) -> Option<Timestamp> {
    let value: Value = serde_json::from_slice(value).ok()?;
    let ts_ms = value.ts_ms.or(value.payload.and_then(|payload| payload.ts_ms))?;
    Timestamp::from_millisecond(ts_ms).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_are_read_with_and_without_schema() {
        for (value, expected) in [
            (r#"{"ts_ms":1700000000123}"#, Some(1_700_000_000_123)),
            (r#"{"schema":{"type":"struct"},"payload":{"ts_ms":5}}"#, Some(5)),
            (r#"{"ts_ms":null}"#, None),
            (r#"{"ts_ms":9223372036854775807}"#, None),
            (r#"{"ts_ms":"soon"}"#, None),
            ("", None),
        ] {
            assert_eq!(moment(value.as_bytes()).map(|moment| moment.as_millisecond()), expected, "{value}");
        }
    }
}
