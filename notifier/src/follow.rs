//! The thread that reads topic `notifications`, all of it, into the hub. It joins no group and commits nothing: every instance knows every
//! channel, so a browser may come to any of them.
//!
//! It is *caught up* when it has met the end of each partition once. What an open transaction holds back then was told to nobody, since
//! everybody reads committed records only; it comes later, as any other.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use messaging::{
    settings::{Settings, client},
    topic_id::{self, TopicId},
};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, KafkaResult},
    message::BorrowedMessage,
    metadata::MetadataTopic,
    types::RDKafkaErrorCode,
};
use shared::admin::Condition;
use tokio_util::sync::CancellationToken;

use crate::{cursor::Place, frame::Frame, hub::Hub, observe};

/// How long a broker may take for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long a poll waits; so long a stop may take to be noticed.
const POLL_MAX: Duration = Duration::from_millis(100);
/// Pause before brokers that did not answer are asked again.
const RETRY: Duration = Duration::from_millis(500);
/// How often it is looked whether the topic is still the same, with the same partitions.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Records taken before positions are told.
const BATCH_RECORDS_MAX: usize = 500;

/// Settings of the consumer. Names and meaning: librdkafka, CONFIGURATION.md.
const READS: [(&str, &str); 11] = [
    ("client.id", "siteview-notifier"),
    // What an aborted transaction wrote never was.
    ("isolation.level", "read_committed"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    // A position outside the log means that frames are lost to this instance: it begins anew and says so.
    ("auto.offset.reset", "error"),
    ("enable.partition.eof", "true"),
    ("allow.auto.create.topics", "false"),
    ("check.crcs", "true"),
    // Bounds the memory of records that wait in the client (default 64 MiB).
    ("queued.max.messages.kbytes", "8192"),
    // With a small queue the default of 1 s stalls the fetcher each time the queue was full.
    ("fetch.queue.backoff.ms", "10"),
    ("fetch.wait.max.ms", "100"),
];
/// Of the one that asks where the log begins, and which topic it is.
const ASKS: [(&str, &str); 3] =
    [("client.id", "siteview-notifier"), ("allow.auto.create.topics", "false"), ("enable.auto.commit", "false")];

/// What is followed, and where it is told.
pub(crate) struct Following {
    pub(crate) settings: Settings,
    pub(crate) topic: String,
    pub(crate) hub: Hub,
    pub(crate) caught_up: Condition,
}

/// One assignment of all partitions.
struct Reading {
    consumer: BaseConsumer,
    partitions: BTreeSet<i32>,
    topic_id: Option<TopicId>,
    /// Partitions whose end was not met yet.
    ahead: BTreeSet<i32>,
    looked_at: Instant,
}

/// Why an assignment ends.
enum End {
    /// The log is another one, or has a hole: begin anew.
    Anew(String),
    Stopped,
}

impl Following {
    /// Reads until `stop`. Errors: the client refuses its settings. Brokers that are away are waited for.
    pub(crate) fn run(self, stop: &CancellationToken) -> KafkaResult<()> {
        // It joins no group; the client wants the name of one.
        let settings = without_membership(&self.settings);
        let observer: BaseConsumer = client(&settings, &ASKS).set("group.id", "siteview.notifier").create()?;
        let mut reads = client(&settings, &READS);
        reads.set("group.id", "siteview.notifier").create_native_config()?;
        while !stop.is_cancelled() {
            let ended = self.open(&observer, &reads).map(|reading| self.read(reading, &observer, stop));
            let why = match ended {
                Ok(End::Stopped) => return Ok(()),
                Ok(End::Anew(why)) => {
                    tracing::warn!(
                        topic = self.topic,
                        why,
                        "the notifications are read anew; those who listen are told of a gap"
                    );
                    why
                }
                Err(error) => error.to_string(),
            };
            self.caught_up.set(false, format!("topic {} cannot be read: {why}", self.topic));
            // Nothing is assigned to it: it serves the client's own events for so long.
            drop(observer.poll(RETRY));
        }
        Ok(())
    }

    /// Assigns every partition from the log's start on.
    fn open(&self, observer: &BaseConsumer, reads: &rdkafka::ClientConfig) -> KafkaResult<Reading> {
        let topic = self.topic.as_str();
        let (topic_id, partitions) = (topic_id::fetch(observer, topic)?, partitions(observer, topic)?);
        let mut assigned = TopicPartitionList::new();
        for partition in &partitions {
            let (start, _) = observer.fetch_watermarks(topic, *partition, ANSWER_MAX)?;
            assigned.add_partition_offset(topic, *partition, Offset::Offset(start))?;
        }
        let consumer: BaseConsumer = reads.create()?;
        // Explicit offsets: a seek after an assignment is not reliable.
        consumer.assign(&assigned)?;
        for element in assigned.elements() {
            self.hub.begin(element.partition(), element.offset().to_raw().unwrap_or_default());
        }
        self.caught_up.set(false, "the notifications are being read");
        let ahead = partitions.clone();
        Ok(Reading { consumer, partitions, topic_id, ahead, looked_at: Instant::now() })
    }

    fn read(&self, mut reading: Reading, observer: &BaseConsumer, stop: &CancellationToken) -> End {
        while !stop.is_cancelled() {
            if let Err(why) = self.take_batch(&mut reading) {
                return End::Anew(why);
            }
            if reading.looked_at.elapsed() >= LOOK_INTERVAL {
                if let Some(why) = self.changed(&reading, observer) {
                    return End::Anew(why);
                }
                reading.looked_at = Instant::now();
            }
        }
        End::Stopped
    }

    /// Takes what is there, then tells positions.
    fn take_batch(&self, reading: &mut Reading) -> Result<(), String> {
        let mut places = std::collections::BTreeMap::new();
        let mut wait = POLL_MAX;
        for _ in 0..BATCH_RECORDS_MAX {
            match reading.consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    self.append(&message);
                    places.insert(message.partition(), message.offset() + 1);
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    reading.ahead.remove(&partition);
                }
                Some(Err(error)) if is_lost(&error) => return Err(error.to_string()),
                Some(Err(error)) => tracing::debug!(%error, "the client goes on by itself"),
            }
            wait = Duration::ZERO;
        }
        if !places.is_empty() {
            self.hub.advanced(places);
        }
        if reading.ahead.is_empty() && !self.caught_up.holds() {
            self.caught_up.set(true, "all notifications that are kept are read");
        }
        Ok(())
    }

    fn append(&self, message: &BorrowedMessage<'_>) {
        let place = Place { partition: message.partition(), offset: message.offset() };
        let channel = message.key().and_then(|key| str::from_utf8(key).ok());
        match (channel, Frame::read(place, message.payload().unwrap_or_default())) {
            (Some(channel), Ok(frame)) => {
                observe::received(message.timestamp().to_millis());
                self.hub.append(channel, frame);
            }
            (_, read) => {
                let why = read.err().map_or_else(|| "its key is no channel".to_owned(), |error| error.to_string());
                let Place { partition, offset } = place;
                tracing::error!(
                    topic = self.topic,
                    partition,
                    offset,
                    why,
                    "a notification cannot be read; nobody is told of it"
                );
                observe::unreadable();
            }
        }
    }

    /// What is different about the topic, if anything is. Brokers that do not answer say nothing.
    fn changed(&self, reading: &Reading, observer: &BaseConsumer) -> Option<String> {
        let known = reading.topic_id.as_ref().map(TopicId::as_str);
        if topic_id::fetch(observer, &self.topic).is_ok_and(|now| topic_id::differ(known, now.as_ref())) {
            return Some("the topic was deleted and made anew".to_owned());
        }
        let now = partitions(observer, &self.topic).ok()?;
        (now != reading.partitions).then(|| format!("the topic has {} partitions now", now.len()))
    }
}

/// Errors after which the position means nothing any more.
fn is_lost(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{
        AutoOffsetReset, Fatal, OffsetOutOfRange, UnknownPartition, UnknownTopic, UnknownTopicOrPartition,
    };
    let lost = [AutoOffsetReset, Fatal, OffsetOutOfRange, UnknownPartition, UnknownTopic, UnknownTopicOrPartition];
    error.rdkafka_error_code().is_some_and(|code| lost.contains(&code))
}

fn partitions(observer: &BaseConsumer, topic: &str) -> KafkaResult<BTreeSet<i32>> {
    let metadata = observer.fetch_metadata(Some(topic), ANSWER_MAX)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    if let Some(error) = found.and_then(MetadataTopic::error) {
        return Err(KafkaError::MetadataFetch(error.into()));
    }
    let numbers: BTreeSet<i32> = found.map_or(&[][..], MetadataTopic::partitions).iter().map(|it| it.id()).collect();
    match numbers.is_empty() {
        true => Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)),
        false => Ok(numbers),
    }
}

/// Settings of group members would be refused here, or mean nothing.
fn without_membership(settings: &Settings) -> Settings {
    let is_of_members = |key: &str| key.starts_with("group.") || key.starts_with("partition.assignment");
    settings.iter().filter(|(key, _)| !is_of_members(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}
