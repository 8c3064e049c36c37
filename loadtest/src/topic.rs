//! The topic that is drained: made, filled in order, checked, removed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};

use crate::dataset::{Change, Encoder, Form, Recipe, Table};

/// How long the broker may take for one answer; it shares its cores with everybody.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Pause of a producer whose queue is full.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(5);
/// Records after which the progress is told.
pub const TOLD_EVERY: u64 = 5_000;

/// A topic of this run.
#[derive(Debug, Clone)]
pub struct Topic {
    servers: String,
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: i32,
}

/// A topic with a whole dataset in it.
#[derive(Debug)]
pub struct Filled {
    /// The topic.
    pub topic: Topic,
    /// Form of its values.
    pub form: Form,
    /// The table behind it, as it is after the last record.
    pub table: Table,
    /// Bytes of all keys and values.
    pub bytes: u64,
}

/// Notes the first record that the broker refused.
#[derive(Debug, Clone, Default)]
struct Refusals(Arc<Mutex<Option<KafkaError>>>);

impl ClientContext for Refusals {}

impl ProducerContext for Refusals {
    type DeliveryOpaque = ();

    fn delivery(&self, delivery: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = delivery {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.clone());
        }
    }
}

impl Topic {
    /// Makes an empty topic.
    pub async fn create(servers: &str, name: &str, partitions: i32) -> Result<Self> {
        let topic = Self { servers: servers.to_owned(), name: name.to_owned(), partitions };
        let wanted = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for made in topic.admin()?.create_topics([&wanted], &options()).await? {
            made.map_err(|(name, code)| anyhow::anyhow!("topic {name} can't be made: {code}"))?;
        }
        Ok(topic)
    }

    /// Removes it with its records.
    pub async fn delete(&self) -> Result<()> {
        self.admin()?.delete_topics(&[&self.name], &options()).await?;
        Ok(())
    }

    /// Writes all events of a recipe, telling how many are on their way, and returns when the broker has them.
    pub fn fill(self, recipe: &Recipe, form: Form, mut told: impl FnMut(u64)) -> Result<Filled> {
        self.fill_from(0, recipe, form, |change| {
            if change.number % TOLD_EVERY == 0 {
                told(change.number);
            }
        })
    }

    /// The same without the first events, which an earlier fill has written, telling each; bytes are of those written now.
    pub fn fill_from(
        self,
        first: u64,
        recipe: &Recipe,
        form: Form,
        mut told: impl FnMut(&Change<'_>),
    ) -> Result<Filled> {
        let producer = self.producer(&[("linger.ms", "20"), ("batch.size", "1000000")])?;
        let (mut encoder, mut bytes) = (Encoder::new(form), 0);
        let table = recipe.play(|change| {
            if change.number < first {
                return Ok(());
            }
            encoder.write(change);
            bytes += (encoder.key.len() + encoder.value.len()) as u64;
            told(change);
            producer.send(change.partition, &encoder.key, &encoder.value)
        })?;
        producer.flush()?;
        ensure!(self.ends()? == table.ends(), "topic {} does not hold what was written to it", self.name);
        Ok(Filled { topic: self, form, table, bytes })
    }

    /// The next offset of each partition.
    pub fn ends(&self) -> Result<Vec<i64>> {
        let consumer: BaseConsumer = self.client().create()?;
        let end = |partition| Ok(consumer.fetch_watermarks(&self.name, partition, ANSWER_MAX)?.1);
        (0..self.partitions).map(end).collect()
    }

    /// A producer that keeps the order of a partition.
    pub fn producer(&self, settings: &[(&str, &str)]) -> Result<Producer> {
        let (mut config, refusals) = (self.client(), Refusals::default());
        config.set("enable.idempotence", "true");
        for (key, value) in settings {
            config.set(*key, *value);
        }
        let producer = config.create_with_context(refusals.clone())?;
        Ok(Producer { topic: self.name.clone(), producer, refusals })
    }

    fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers).set("log_level", "0");
        config
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(self.client().create()?)
    }
}

/// Writes to one topic.
pub struct Producer {
    topic: String,
    producer: ThreadedProducer<Refusals>,
    refusals: Refusals,
}

impl Producer {
    /// Hands a record over; waits while the queue is full.
    pub fn send(&self, partition: i32, key: &str, value: &str) -> Result<()> {
        let mut record = BaseRecord::to(&self.topic).partition(partition).key(key).payload(value);
        while let Err((error, refused)) = self.producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                bail!("topic {}: a record was not taken: {error}", self.topic);
            }
            // Its own thread serves the deliveries that make room; this only waits.
            self.producer.poll(QUEUE_FULL_PAUSE);
            record = refused;
        }
        Ok(())
    }

    /// Returns when the broker has all that was sent.
    pub fn flush(&self) -> Result<()> {
        self.producer.flush(ANSWER_MAX)?;
        match self.refusals.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error).context("a record was not delivered"),
            None => Ok(()),
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(ANSWER_MAX))
}
