//! The live stream: chunk after chunk of a [`Feed`] into the topic, whatever happens to the broker, until it is told to end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::message::Message;
use rdkafka::producer::{DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};

use super::history::History;
use crate::feed::{Chunk, Feed};
use crate::kafka::Topic;
use crate::record::Record;

/// How long the broker may be away.
const BROKER_AWAY_MAX: Duration = Duration::from_secs(120);
/// One call of the client; several make up [`BROKER_AWAY_MAX`].
const CALL_MAX: Duration = Duration::from_secs(10);
/// Pause between two chunks: the stream's rate, some hundred records a second.
const PAUSE: Duration = Duration::from_millis(40);

/// A record of a chunk, and where the broker put it.
type Delivery = (usize, KafkaResult<i64>);

/// Offsets of the records of a chunk, by their number in it.
#[derive(Debug, Clone, Default)]
struct Deliveries(Arc<Mutex<Vec<Delivery>>>);

impl rdkafka::ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, delivery: &DeliveryResult<'_>, number: usize) {
        let offset = match delivery {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.clone()),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((number, offset));
    }
}

/// A producer, idempotent or in transactions.
struct Writing {
    topic: Topic,
    producer: ThreadedProducer<Deliveries>,
    deliveries: Deliveries,
}

/// Produces until `stop`; each chunk is added to the history once the topic has it. Blocks its thread.
pub(super) fn stream(topic: &Topic, mut feed: Feed, history: &Mutex<History>, stop: &AtomicBool) -> Result<()> {
    let plain = Writing::new(topic, &[("enable.idempotence", "true"), ("message.timeout.ms", "600000")])?;
    let id = format!("{}-stream", topic.name());
    let settings =
        [("transactional.id", id.as_str()), ("transaction.timeout.ms", "60000"), ("message.timeout.ms", "60000")];
    let transactional = Writing::new(topic, &settings)?;
    transactional.until_done("init", || transactional.producer.init_transactions(CALL_MAX))?;
    let add = |records: &[Record], offsets: &[i64]| {
        history.lock().unwrap_or_else(PoisonError::into_inner).add(records, offsets);
    };
    while !stop.load(Ordering::Relaxed) {
        match feed.chunk() {
            Chunk::Plain(records) => add(&records, &plain.write(&records)?),
            Chunk::Aborted(never, records) => {
                transactional.begin()?;
                transactional.write(&never)?;
                transactional.abort()?;
                add(&records, &transactional.commit(&records)?);
            }
        }
        pause();
    }
    let last = feed.end();
    add(&last, &plain.write(&last)?);
    // An answer is judged once a later chunk is known; there is none any more.
    add(&[], &[]);
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the rate of the stream, not a wait for anything")]
fn pause() {
    std::thread::sleep(PAUSE);
}

impl Writing {
    fn new(topic: &Topic, settings: &[(&str, &str)]) -> Result<Self> {
        let deliveries = Deliveries::default();
        let mut config: ClientConfig = topic.client();
        config.set("reconnect.backoff.max.ms", "200").set("linger.ms", "0");
        for (key, value) in settings {
            config.set(*key, *value);
        }
        Ok(Self { topic: topic.clone(), producer: config.create_with_context(deliveries.clone())?, deliveries })
    }

    /// Writes the records in order and gives their offsets.
    fn write(&self, records: &[Record]) -> Result<Vec<i64>> {
        self.topic.send(&self.producer, records, |number| number)?;
        self.until_done("flush", || self.producer.flush(CALL_MAX))?;
        let mut delivered = std::mem::take(&mut *self.deliveries.0.lock().unwrap_or_else(PoisonError::into_inner));
        delivered.sort_unstable_by_key(|(number, _)| *number);
        ensure!(delivered.len() == records.len(), "{} of {} records delivered", delivered.len(), records.len());
        delivered.into_iter().map(|(number, offset)| offset.with_context(|| format!("record {number}"))).collect()
    }

    /// Writes the records in a transaction, again when the broker makes it abort.
    fn commit(&self, records: &[Record]) -> Result<Vec<i64>> {
        let started = Instant::now();
        loop {
            self.begin()?;
            let written = self.write(records);
            let committed = written.and_then(|offsets| {
                self.until_done("commit", || self.producer.commit_transaction(CALL_MAX)).map(|()| offsets)
            });
            match committed {
                Ok(offsets) => return Ok(offsets),
                Err(error) if started.elapsed() > BROKER_AWAY_MAX => return Err(error),
                Err(_) => self.abort()?,
            }
        }
    }

    fn begin(&self) -> Result<()> {
        // What an aborted transaction has left behind.
        self.deliveries.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(self.producer.begin_transaction()?)
    }

    fn abort(&self) -> Result<()> {
        self.until_done("abort", || self.producer.abort_transaction(CALL_MAX))
    }

    /// Calls again while the client says that another try may do.
    fn until_done(&self, what: &str, mut call: impl FnMut() -> KafkaResult<()>) -> Result<()> {
        let started = Instant::now();
        loop {
            let error = match call() {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let may_pass = match &error {
                KafkaError::Transaction(error) => error.is_retriable(),
                KafkaError::Flush(_) => true,
                _ => false,
            };
            ensure!(may_pass && started.elapsed() < BROKER_AWAY_MAX, "{what} of the stream's producer: {error}");
        }
    }
}
