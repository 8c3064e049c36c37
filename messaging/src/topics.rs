//! Topics that this library makes for itself: found as they are, or created like the topic they belong to.

use std::{collections::HashMap, time::Duration};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    metadata::MetadataTopic,
};

use crate::settings::{Settings, client};

const CLIENT_ID: &str = "siteview-topics";
/// How long the brokers may take for one answer.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The admin's client.
pub type Admin = AdminClient<DefaultClientContext>;

/// Partitions and replicas of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// From 1.
    pub partitions: i32,
    /// From 1.
    pub replicas: i32,
}

/// A consumer that looks topics up: doing so with a producer may create them, with the broker's defaults.
pub(crate) fn finder(settings: &Settings, client_id: &str) -> KafkaResult<BaseConsumer> {
    client(settings, &[("allow.auto.create.topics", "false"), ("client.id", client_id)]).create()
}

/// Blocks while it asks; `None` when there is no such topic.
pub(crate) fn shape(finder: &BaseConsumer, topic: &str) -> KafkaResult<Option<Shape>> {
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

/// Creates a topic; one that another member has just created is fine.
pub(crate) async fn create(admin: &Admin, name: &str, shape: Shape, config: &[(&str, &str)]) -> KafkaResult<()> {
    let topic = NewTopic::new(name, shape.partitions, TopicReplication::Fixed(shape.replicas));
    let topic = config.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
    let created = admin.create_topics([&topic], &options()).await?;
    match created.into_iter().next() {
        Some(Ok(_)) => {
            tracing::info!(topic = name, partitions = shape.partitions, "topic created");
            Ok(())
        }
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
        Some(Err((_, code))) => Err(KafkaError::AdminOp(code)),
        None => Err(KafkaError::AdminOp(RDKafkaErrorCode::Unknown)),
    }
}

/// Why a topic of the library's own is not there.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The client, or the brokers.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The broker refuses it.
    #[error("the topic {topic} cannot be created: {why}; create it, or grant what is missing")]
    NotCreated {
        /// Its name.
        topic: String,
        /// The broker's words.
        why: KafkaError,
    },
    /// It was there before, and is not made as its records need it.
    #[error(
        "the topic {topic} has {setting}={found}, which must be {wanted}: alter it, or delete it when it is drained"
    )]
    Unfit {
        /// Its name.
        topic: String,
        /// The setting.
        setting: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        wanted: String,
    },
    /// A topic to consume does not exist.
    #[error("the topic {0} does not exist")]
    Missing(String),
}

impl OpenError {
    /// Whether the brokers are away or busy, so that the same call may succeed later.
    pub fn is_passing(&self) -> bool {
        use RDKafkaErrorCode as Code;
        let (Self::Kafka(error) | Self::NotCreated { why: error, .. }) = self else {
            return false;
        };
        // The client's own answer to this leaves out what was told of one topic.
        let code = match error {
            KafkaError::AdminOp(code) => Some(*code),
            other => other.rdkafka_error_code(),
        };
        matches!(
            code,
            Some(
                Code::OperationTimedOut
                    | Code::BrokerTransportFailure
                    | Code::AllBrokersDown
                    | Code::Resolve
                    | Code::RequestTimedOut
                    | Code::NetworkException
                    | Code::NotController
                    | Code::LeaderNotAvailable
                    | Code::NotLeaderForPartition
                    | Code::BrokerNotAvailable
            )
        )
    }
}

/// Makes a topic unless it is there; says whether it did.
pub async fn ensure(
    admin: &Admin,
    settings: &Settings,
    name: &str,
    wanted: Shape,
    config: &[(&str, &str)],
) -> Result<bool, OpenError> {
    let (finder, topic) = (finder(settings, CLIENT_ID)?, name.to_owned());
    let found = tokio::task::spawn_blocking(move || shape(&finder, &topic)).await;
    if found.map_err(|_| KafkaError::Canceled)??.is_some() {
        return Ok(false);
    }
    let created = create(admin, name, wanted, config).await;
    created.map(|()| true).map_err(|why| OpenError::NotCreated { topic: name.to_owned(), why })
}

/// The settings of a topic, by name.
pub(crate) async fn settings_of(admin: &Admin, topic: &str) -> KafkaResult<HashMap<String, String>> {
    let described = admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options()).await?.into_iter().next();
    let described = described.ok_or(KafkaError::AdminOp(RDKafkaErrorCode::Unknown))?.map_err(KafkaError::AdminOp)?;
    Ok(described.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect())
}

/// What `max.message.bytes` of a topic is.
pub(crate) async fn max_message_bytes(admin: &Admin, topic: &str) -> KafkaResult<String> {
    let bytes = settings_of(admin, topic).await?.remove("max.message.bytes");
    bytes.ok_or(KafkaError::AdminOp(RDKafkaErrorCode::Unknown))
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER_MAX)).operation_timeout(Some(ANSWER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_another_try_may_heal_is_passing() {
        let refused = |code| OpenError::NotCreated { topic: "t".to_owned(), why: KafkaError::AdminOp(code) };
        for passing in [
            OpenError::Kafka(KafkaError::MetadataFetch(RDKafkaErrorCode::BrokerTransportFailure)),
            OpenError::Kafka(KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut)),
            refused(RDKafkaErrorCode::RequestTimedOut),
            refused(RDKafkaErrorCode::NotController),
        ] {
            assert!(passing.is_passing(), "{passing}");
        }
        for lasting in [
            OpenError::Kafka(KafkaError::MetadataFetch(RDKafkaErrorCode::TopicAuthorizationFailed)),
            OpenError::Kafka(KafkaError::ClientCreation("no such setting".to_owned())),
            refused(RDKafkaErrorCode::TopicAuthorizationFailed),
            refused(RDKafkaErrorCode::InvalidReplicationFactor),
            OpenError::Missing("t".to_owned()),
        ] {
            assert!(!lasting.is_passing(), "{lasting}");
        }
    }
}
