//! Says that a job has ended: a command to the progress of its import, acknowledged by all in-sync replicas.

use std::time::Duration;

use rdkafka::{
    error::KafkaResult,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use shared::{
    import::{ImportId, ProgressCommand},
    telemetry::TRACEPARENT,
};

use crate::{config::Config, error::JobError};

/// Settings of the producer. Names and meaning: librdkafka, CONFIGURATION.md.
const OWN: [(&str, &str); 4] = [
    ("client.id", "siteview-importer"),
    // With `acks=all`, which it implies. A command may stand twice all the same, after a crash: progress counts a job once.
    ("enable.idempotence", "true"),
    ("linger.ms", "1"),
    // Shorter than what a consumer gives an attempt: then the job is tried again, and its ledger answers.
    ("message.timeout.ms", "60000"),
];
/// How long a full queue is waited for.
const QUEUE_MAX: Duration = Duration::from_secs(10);

/// Produces commands.
pub(crate) struct Announcer {
    producer: FutureProducer,
    topic: String,
}

impl Announcer {
    pub(crate) fn new(config: &Config) -> KafkaResult<Self> {
        let producer = messaging::settings::client(&config.kafka, &OWN).create()?;
        Ok(Self { producer, topic: config.topics.commands.clone() })
    }

    /// Returns when the command cannot be lost any more. `traceparent` is the span that it comes of.
    pub(crate) async fn announce(
        &self,
        import_id: ImportId,
        command: &ProgressCommand,
        traceparent: Option<&str>,
    ) -> Result<(), JobError> {
        let (key, value) = (import_id.to_string(), serde_json::to_string(command).expect("numbers and names are JSON"));
        // No partition: the key decides, as for all who produce commands.
        let mut record = FutureRecord::to(&self.topic).key(&key).payload(&value);
        if traceparent.is_some() {
            record = record.headers(OwnedHeaders::new().insert(Header { key: TRACEPARENT, value: traceparent }));
        }
        let sent = self.producer.send(record, QUEUE_MAX).await;
        sent.map(drop).map_err(|(error, _)| JobError::Announce(error))
    }
}
