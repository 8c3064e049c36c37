//! What belongs to a consumed topic: its retries, its retry topics, its dead letters. Made before anything is consumed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use rdkafka::error::KafkaError;

use super::config::ConsumerConfig;
use crate::{
    blocking::Reader,
    dead_letter::DeadLetters,
    retry::{RetryConfig, Stage},
    settings::client,
    topics::{self, Admin, OpenError, Shape, ensure},
};

const CLIENT_ID: &str = "siteview-consumer";
/// Pause before the topics are looked up again.
const OPEN_AGAIN: Duration = Duration::from_secs(1);
/// A record stays in a retry topic for its delay and so much longer.
const RETENTION_BEYOND: Duration = Duration::from_secs(7 * 86_400);

/// A topic that is read, and what becomes of its records when they fail.
#[derive(Clone)]
pub(super) struct Source {
    /// The consumer's topic; for a retry topic the one to which it belongs.
    pub(super) topic: Arc<str>,
    pub(super) stage: Stage,
    pub(super) retries: Arc<RetryConfig>,
    /// Name and partitions of each retry topic.
    pub(super) retry_topics: Arc<[(String, i32)]>,
    pub(super) letters: Arc<DeadLetters>,
}

/// Finds all topics, makes those that are missing, and gives what is to be read and how the group is told. Brokers that are
/// away or busy are waited for.
pub(super) async fn open(config: &ConsumerConfig) -> Result<(HashMap<Arc<str>, Source>, Reader), OpenError> {
    loop {
        match try_open(config).await {
            Err(error) if error.is_passing() => {
                tracing::warn!(error = %error, "the topics cannot be looked up; tried again in {OPEN_AGAIN:?}");
                tokio::time::sleep(OPEN_AGAIN).await;
            }
            opened => return opened,
        }
    }
}

async fn try_open(config: &ConsumerConfig) -> Result<(HashMap<Arc<str>, Source>, Reader), OpenError> {
    let (sources, replicas) = sources(config).await?;
    let reader = Reader::open(&config.settings, &config.group, replicas).await?;
    Ok((sources, reader))
}

/// Finds the topics and makes their retry topics; gives what is to be read, and how many replicas topics have here.
async fn sources(config: &ConsumerConfig) -> Result<(HashMap<Arc<str>, Source>, i32), OpenError> {
    let admin: Admin = client(&config.settings, &[("client.id", CLIENT_ID)]).create()?;
    let (mut sources, mut replicas) = (HashMap::new(), 1);
    for (name, retries) in &config.topics {
        let found = shape(config, name).await?.ok_or_else(|| OpenError::Missing(name.clone()))?;
        replicas = replicas.max(found.replicas);
        let retry_topics = retry_topics(config, &admin, name, retries, found).await?;
        let topic = Arc::<str>::from(name.as_str());
        let source = Source {
            topic: Arc::clone(&topic),
            stage: Stage::Source,
            retries: Arc::new(retries.clone()),
            retry_topics: retry_topics.into(),
            letters: Arc::new(DeadLetters::new(&config.settings, name, &config.group)),
        };
        for (number, (retry_topic, _)) in source.retry_topics.iter().enumerate() {
            let retry = Source { stage: Stage::Retry(number), ..source.clone() };
            sources.insert(retry_topic.as_str().into(), retry);
        }
        sources.insert(topic, source);
    }
    Ok((sources, replicas))
}

async fn shape(config: &ConsumerConfig, topic: &str) -> Result<Option<Shape>, OpenError> {
    let (finder, topic) = (topics::finder(&config.settings, CLIENT_ID)?, topic.to_owned());
    let found = tokio::task::spawn_blocking(move || topics::shape(&finder, &topic)).await;
    Ok(found.map_err(|_| KafkaError::Canceled)??)
}

async fn retry_topics(
    config: &ConsumerConfig,
    admin: &Admin,
    topic: &str,
    retries: &RetryConfig,
    source: Shape,
) -> Result<Vec<(String, i32)>, OpenError> {
    let delays = retries.retry_topic_delays();
    if delays.is_empty() {
        return Ok(Vec::new());
    }
    let refused = |why| OpenError::NotCreated { topic: topic.to_owned(), why };
    let bytes_max = topics::max_message_bytes(admin, topic).await.map_err(refused)?;
    let longest = delays.iter().max().copied().unwrap_or_default();
    let retention_ms = (longest * 2 + RETENTION_BEYOND).as_millis().to_string();
    let settings = [
        // A record is due when the broker has had it for its delay.
        ("message.timestamp.type", "LogAppendTime"),
        ("max.message.bytes", bytes_max.as_str()),
        ("retention.ms", retention_ms.as_str()),
        ("cleanup.policy", "delete"),
    ];
    let mut made = Vec::new();
    for name in config.retry_topics(topic) {
        if !ensure(admin, &config.settings, &name, source, &settings).await?
            && let Some((setting, found, wanted)) = unfit(&topics::settings_of(admin, &name).await?, longest)
        {
            return Err(OpenError::Unfit { topic: name, setting, found, wanted });
        }
        // One that was there before may have another number of partitions than its source has by now.
        let partitions = shape(config, &name).await?.map_or(source.partitions, |shape| shape.partitions);
        made.push((name, partitions));
    }
    Ok(made)
}

/// The first setting of a retry topic by which records would be due early, or gone before they are due: what it is, and must be.
fn unfit(settings: &HashMap<String, String>, longest: Duration) -> Option<(&'static str, String, String)> {
    let of = |name| settings.get(name).map(String::as_str).unwrap_or_default();
    let is_kept = of("retention.ms").parse().is_ok_and(|ms: i128| ms == -1 || ms > longest.as_millis() as i128);
    let rules = [
        ("message.timestamp.type", of("message.timestamp.type") == "LogAppendTime", "LogAppendTime".to_owned()),
        ("cleanup.policy", of("cleanup.policy") == "delete", "delete".to_owned()),
        ("retention.ms", is_kept, format!("-1, or above {}", longest.as_millis())),
    ];
    let broken = rules.into_iter().find(|(_, holds, _)| !holds)?;
    Some((broken.0, of(broken.0).to_owned(), broken.2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_topic_in_which_records_are_due_early_or_gone_too_soon_does_not_fit() {
        for (timestamps, cleanup, retention, expected) in [
            ("LogAppendTime", "delete", "-1", None),
            ("LogAppendTime", "delete", "60001", None),
            ("LogAppendTime", "delete", "60000", Some("retention.ms")),
            ("LogAppendTime", "compact", "-1", Some("cleanup.policy")),
            ("CreateTime", "compact", "1", Some("message.timestamp.type")),
        ] {
            let settings =
                [("message.timestamp.type", timestamps), ("cleanup.policy", cleanup), ("retention.ms", retention)];
            let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            let found = unfit(&settings, Duration::from_secs(60)).map(|(name, ..)| name);
            assert_eq!(found, expected, "{timestamps} {cleanup} {retention}");
        }
        assert!(unfit(&HashMap::new(), Duration::ZERO).is_some(), "what is not told does not fit");
    }
}
