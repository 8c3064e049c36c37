//! The dead-letter topic itself: found, or created like its source, and the producer that writes to it.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicI32, Ordering},
};

use rdkafka::{
    error::KafkaError,
    producer::{FutureProducer, Producer as _},
};

use super::DeadLetterError;
use crate::{
    durable,
    settings::client,
    topics::{self, ANSWER_MAX, Admin, Shape},
};

const CLIENT_ID: &str = "siteview-dead-letters";

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
    let lookup = |error| DeadLetterError::Lookup { topic: names.dead_letter_topic.clone(), error };
    let finder = topics::finder(&settings, CLIENT_ID).map_err(DeadLetterError::Settings)?;
    let wanted = [names.dead_letter_topic.clone(), names.source_topic.clone()];
    let found = tokio::task::spawn_blocking(move || wanted.map(|topic| topics::shape(&finder, &topic)));
    let [found, source] = found.await.map_err(|_| lookup(KafkaError::Canceled))?;
    let partitions = match found.map_err(lookup)? {
        Some(shape) => shape.partitions,
        None => {
            let source = source.map_err(lookup)?;
            let source = source.ok_or_else(|| not_created(&names, "the source topic is missing as well".to_owned()))?;
            let admin: Admin =
                client(&settings, &[("client.id", CLIENT_ID)]).create().map_err(DeadLetterError::Settings)?;
            create(&admin, &names, source).await?;
            source.partitions
        }
    };
    let producer = durable::producer(&settings, CLIENT_ID).map_err(DeadLetterError::Settings)?;
    Ok(Open { producer, names, partitions: AtomicI32::new(partitions) })
}

async fn create(admin: &Admin, names: &Names, source: Shape) -> Result<(), DeadLetterError> {
    let refused = |why| not_created(names, format!("the configuration of its source was refused: {why}"));
    let bytes_max = topics::max_message_bytes(admin, &names.source_topic).await.map_err(refused)?;
    let config = [("max.message.bytes", bytes_max.as_str()), ("retention.ms", "-1"), ("cleanup.policy", "delete")];
    let created = topics::create(admin, &names.dead_letter_topic, source, &config).await;
    created.map_err(|why| not_created(names, format!("creating it was refused: {why}")))
}

fn not_created(names: &Names, why: String) -> DeadLetterError {
    DeadLetterError::NotCreated { topic: names.dead_letter_topic.clone(), why }
}
