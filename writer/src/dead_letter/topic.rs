//! The dead-letter topic itself: found, or created like its source, and the producer that writes to it.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicI32, Ordering},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    metadata::MetadataTopic,
    producer::{FutureProducer, Producer as _},
};

use super::DeadLetterError;

/// How long the brokers may take for one answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Settings of the producer. Names and meaning: librdkafka, CONFIGURATION.md.
const PRODUCER: [(&str, &str); 7] = [
    // With `acks=all`, which it implies: what is retried on the way stands once.
    ("enable.idempotence", "true"),
    // The client never gives a letter up while the broker may have it: it would have to be sent anew, and stand twice.
    // Who waits is bounded elsewhere, and comes back for the answer.
    ("message.timeout.ms", "0"),
    // A refusal for size is about one letter, not about those that happened to share its request.
    ("batch.num.messages", "1"),
    ("linger.ms", "0"),
    // The broker decides what is too large (the client's own limit is 1 MB by default, and this at most).
    ("message.max.bytes", "1000000000"),
    // A source whose large records are compressed gives letters of the same kind.
    ("compression.type", "zstd"),
    // A deleted topic is noticed within this time; default 30 s.
    ("topic.metadata.propagation.max.ms", "5000"),
];

/// What belongs to what.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub(super) source_topic: String,
    pub(super) group: String,
    pub(super) dead_letter_topic: String,
}

impl Names {
    pub(super) fn new(source_topic: &str, group: &str) -> Self {
        let dead_letter_topic = format!("{source_topic}-{group}-dlq");
        Self { source_topic: source_topic.to_owned(), group: group.to_owned(), dead_letter_topic }
    }
}

/// The topic, ready to be written.
pub(super) struct Open {
    pub(super) producer: FutureProducer,
    names: Names,
    partitions: AtomicI32,
}

impl Open {
    /// The number of partitions; asked anew, once, when a letter is of a partition beyond those that are known.
    pub(super) async fn partitions_for(&self, partition: i32) -> i32 {
        let known = self.partitions.load(Ordering::Relaxed);
        if partition < known {
            return known;
        }
        let (producer, topic) = (self.producer.clone(), self.names.dead_letter_topic.clone());
        let asking = tokio::task::spawn_blocking(move || {
            let metadata = producer.client().fetch_metadata(Some(&topic), ANSWER_MAX).ok()?;
            i32::try_from(metadata.topics().first()?.partitions().len()).ok()
        });
        let found = asking.await.ok().flatten().unwrap_or(known).max(known);
        self.partitions.store(found, Ordering::Relaxed);
        found
    }
}

/// Finds the topic, or creates it: with the source's number of partitions, replicas and `max.message.bytes`, and kept for
/// ever.
pub(super) async fn open(settings: HashMap<String, String>, names: Names) -> Result<Open, DeadLetterError> {
    let client = |own: &[(&str, &str)]| {
        let mut config = ClientConfig::new();
        config.extend(settings.iter().map(|(key, value)| (key.clone(), value.clone())));
        config.extend(own.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        config.set("client.id", "siteview-dead-letters");
        config
    };
    let lookup = |error| DeadLetterError::Lookup { topic: names.dead_letter_topic.clone(), error };
    // A consumer: looking a topic up with a producer may create it, with the broker's defaults.
    let finder: BaseConsumer =
        client(&[("allow.auto.create.topics", "false")]).create().map_err(DeadLetterError::Settings)?;
    let topics = [names.dead_letter_topic.clone(), names.source_topic.clone()];
    let found = tokio::task::spawn_blocking(move || topics.map(|topic| shape(&finder, &topic)));
    let [found, source] = found.await.map_err(|_| lookup(KafkaError::Canceled))?;
    let partitions = match found.map_err(lookup)? {
        Some(shape) => shape.partitions,
        None => {
            let source = source.map_err(lookup)?;
            let source = source.ok_or_else(|| not_created(&names, "the source topic is missing as well".to_owned()))?;
            let admin: AdminClient<DefaultClientContext> = client(&[]).create().map_err(DeadLetterError::Settings)?;
            create(&admin, &names, source).await?;
            source.partitions
        }
    };
    let producer = client(&PRODUCER).create().map_err(DeadLetterError::Settings)?;
    Ok(Open { producer, names, partitions: AtomicI32::new(partitions) })
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    partitions: i32,
    replicas: i32,
}

/// `None` when there is no such topic.
fn shape(finder: &BaseConsumer, topic: &str) -> KafkaResult<Option<Shape>> {
    let metadata = finder.fetch_metadata(Some(topic), ANSWER_MAX)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    match found.and_then(MetadataTopic::error).map(RDKafkaErrorCode::from) {
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => return Ok(None),
        Some(code) => return Err(KafkaError::MetadataFetch(code)),
        None => {}
    }
    let partitions = found.map_or(&[][..], MetadataTopic::partitions);
    let replicas = partitions.iter().map(|partition| partition.replicas().len()).max().unwrap_or_default();
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    Ok((!partitions.is_empty()).then(|| Shape { partitions: count(partitions.len()), replicas: count(replicas) }))
}

async fn create(
    admin: &AdminClient<DefaultClientContext>,
    names: &Names,
    source: Shape,
) -> Result<(), DeadLetterError> {
    let bytes_max = max_message_bytes(admin, names).await?;
    let topic = NewTopic::new(&names.dead_letter_topic, source.partitions, TopicReplication::Fixed(source.replicas))
        .set("max.message.bytes", &bytes_max)
        .set("retention.ms", "-1")
        .set("cleanup.policy", "delete");
    let refused = |why: String| not_created(names, format!("creating it was refused: {why}"));
    let created = admin.create_topics([&topic], &options()).await.map_err(|error| refused(error.to_string()))?;
    match created.into_iter().next() {
        Some(Ok(_)) => {
            tracing::info!(
                topic = names.dead_letter_topic,
                partitions = source.partitions,
                "dead-letter topic created"
            );
            Ok(())
        }
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
        Some(Err((_, code))) => Err(refused(code.to_string())),
        None => Err(refused("the broker said nothing about it".to_owned())),
    }
}

async fn max_message_bytes(
    admin: &AdminClient<DefaultClientContext>,
    names: &Names,
) -> Result<String, DeadLetterError> {
    let source = names.source_topic.as_str();
    let refused = |why: String| not_created(names, format!("the configuration of {source} was refused: {why}"));
    let described = admin.describe_configs([&ResourceSpecifier::Topic(source)], &options()).await;
    let described = described.map_err(|error| refused(error.to_string()))?.into_iter().next();
    let described =
        described.ok_or_else(|| refused("no answer".to_owned()))?.map_err(|code| refused(code.to_string()))?;
    let entry = described.get("max.message.bytes").and_then(|entry| entry.value.clone());
    entry.ok_or_else(|| refused("max.message.bytes is not told".to_owned()))
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER_MAX)).operation_timeout(Some(ANSWER_MAX))
}

fn not_created(names: &Names, why: String) -> DeadLetterError {
    DeadLetterError::NotCreated { topic: names.dead_letter_topic.clone(), why }
}
