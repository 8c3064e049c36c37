//! Callbacks: the store topic consumed by a group of its own, whose offsets are committed behind what was called back.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::Future,
    pin::pin,
    time::Duration,
};

use bytes::Bytes;
use rdkafka::{
    Message,
    consumer::{Consumer, StreamConsumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::OwnedMessage,
};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::{AtomicKvStoreConfig, observe};
use crate::client::client;

/// Pause after the first failure of a callback; doubled with each further one.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A callback that takes longer has fetching paused, so that the client can be polled for the group's sake.
const QUICK: Duration = Duration::from_secs(1);

/// Settings of the consumer. Names and meaning: librdkafka, CONFIGURATION.md.
const UPDATES: [(&str, &str); 7] = [
    // Offsets are stored behind each callback; the client commits what is stored, each second, at a rebalance and at the end.
    ("enable.auto.commit", "true"),
    ("auto.commit.interval.ms", "1000"),
    ("enable.auto.offset.store", "false"),
    ("isolation.level", "read_committed"),
    // The first start calls back for what the topic holds. Of a compacted topic that is at least each key's last value.
    ("auto.offset.reset", "earliest"),
    ("allow.auto.create.topics", "false"),
    ("queued.max.messages.kbytes", "16384"),
];

/// A value that was committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredUpdate<V> {
    /// The same at each call for this update, and of no other: topic, partition and offset.
    pub id: String,
    /// The key.
    pub key: Bytes,
    /// Its new value; `None` when it was removed.
    pub value: Option<V>,
}

/// Why callbacks can't go on.
#[derive(Debug, thiserror::Error)]
pub enum UpdatesError {
    /// The client refuses its settings, or can't go on.
    #[error("following the updates: {0}")]
    Kafka(#[from] KafkaError),
    /// A value can't be decoded. Nothing behind it is called back until that is seen to.
    #[error("the value at {id} can't be decoded: {error}")]
    Unreadable {
        /// Where it lies.
        id: String,
        /// Why.
        error: serde_json::Error,
    },
}

/// Until shutdown.
pub(super) async fn follow<V, F, E>(
    settings: &HashMap<String, String>,
    config: &AtomicKvStoreConfig,
    mut on_update: impl FnMut(StoredUpdate<V>) -> F,
    shutdown: CancellationToken,
) -> Result<(), UpdatesError>
where
    V: DeserializeOwned,
    F: Future<Output = Result<(), E>>,
    E: fmt::Display,
{
    let group = format!("{}-updates", config.group);
    let consumer: StreamConsumer = client(settings, &UPDATES).set("group.id", &group).create()?;
    consumer.subscribe(&[&config.store_topic])?;
    let mut updates = Updates { consumer, group, waiting: VecDeque::new() };
    let follow = async {
        loop {
            let record = updates.next().await?;
            updates.call_back(&record, &mut on_update).await?;
            updates.is_called_back(&record)?;
        }
    };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => Ok(()),
        ended = follow => ended,
    }
}

struct Updates {
    consumer: StreamConsumer,
    group: String,
    /// What came in spite of a pause, as of partitions given meanwhile.
    waiting: VecDeque<OwnedMessage>,
}

impl Updates {
    async fn next(&mut self) -> Result<OwnedMessage, UpdatesError> {
        while let Some(record) = self.waiting.pop_front() {
            if self.consumer.assignment()?.find_partition(record.topic(), record.partition()).is_some() {
                return Ok(record);
            }
        }
        self.receive().await
    }

    fn is_called_back(&self, record: &OwnedMessage) -> Result<(), UpdatesError> {
        match self.consumer.store_offset(record.topic(), record.partition(), record.offset()) {
            // The partition was taken meanwhile: its new owner calls back once more.
            Err(KafkaError::StoreOffset(RDKafkaErrorCode::State)) => Ok(()),
            stored => Ok(stored?),
        }
    }

    async fn receive(&self) -> Result<OwnedMessage, UpdatesError> {
        loop {
            match self.consumer.recv().await {
                Ok(record) => return Ok(record.detach()),
                Err(error @ KafkaError::MessageConsumptionFatal(_)) => return Err(error.into()),
                Err(error) => tracing::debug!(group = self.group, error = %error, "the client goes on by itself"),
            }
        }
    }

    /// Until it succeeds.
    async fn call_back<V, F, E>(
        &mut self,
        record: &OwnedMessage,
        on_update: &mut impl FnMut(StoredUpdate<V>) -> F,
    ) -> Result<(), UpdatesError>
    where
        V: DeserializeOwned,
        F: Future<Output = Result<(), E>>,
        E: fmt::Display,
    {
        let mut pause = PAUSE;
        loop {
            let update = update(record)?;
            let id = update.id.clone();
            let Err(error) = self.while_polled(on_update(update)).await? else {
                observe::called_back(&self.group);
                return Ok(());
            };
            tracing::warn!(group = self.group, id, error = %error, "a callback failed; it is called again");
            observe::callback_failed(&self.group);
            self.while_polled(tokio::time::sleep(pause)).await?;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Waits for something that may take long, without the group taking this member for dead.
    async fn while_polled<T>(&mut self, work: impl Future<Output = T>) -> Result<T, UpdatesError> {
        let mut work = pin!(work);
        if let Ok(done) = tokio::time::timeout(QUICK, &mut work).await {
            return Ok(done);
        }
        self.consumer.pause(&self.consumer.assignment()?)?;
        let done = loop {
            tokio::select! {
                done = &mut work => break done,
                record = self.receive() => {
                    self.waiting.push_back(record?);
                    self.consumer.pause(&self.consumer.assignment()?)?;
                }
            }
        };
        self.consumer.resume(&self.consumer.assignment()?)?;
        Ok(done)
    }
}

fn update<V: DeserializeOwned>(record: &OwnedMessage) -> Result<StoredUpdate<V>, UpdatesError> {
    let id = format!("{}-{}-{}", record.topic(), record.partition(), record.offset());
    let key = Bytes::copy_from_slice(record.key().unwrap_or_default());
    match record.payload().map(serde_json::from_slice).transpose() {
        Ok(value) => Ok(StoredUpdate { id, key, value }),
        Err(error) => Err(UpdatesError::Unreadable { id, error }),
    }
}
