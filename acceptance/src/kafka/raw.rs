//! Records as bytes: what no well-behaved producer would write, and what stands in a topic afterwards.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use rdkafka::admin::{AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers as _, Message, OwnedHeaders};
use rdkafka::producer::BaseRecord;
use rdkafka::{Offset, TopicPartitionList};

use super::{ANSWER_MAX, Topic, flushed};
use crate::record::Record;

/// Until a topic must be read to its end.
const READ_MAX: Duration = Duration::from_secs(60);
/// Larger than anything the broker takes.
const CLIENT_BYTES_MAX: &str = "200000000";

/// A record's bytes, and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRecord {
    /// Partition.
    pub partition: i32,
    /// Offset; means nothing in a record that is yet to be produced.
    pub offset: i64,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value.
    pub value: Option<Vec<u8>>,
    /// Headers in their order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
}

impl RawRecord {
    /// The last header of this name, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rev().find(|(key, _)| key == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }
}

impl From<&Record> for RawRecord {
    fn from(record: &Record) -> Self {
        let header = |(key, value): &(&str, String)| ((*key).to_owned(), Some(value.clone().into_bytes()));
        Self {
            partition: record.partition,
            offset: 0,
            key: Some(record.key.clone().into_bytes()),
            value: record.value.clone().map(String::into_bytes),
            headers: record.headers.iter().map(header).collect(),
            timestamp_ms: 0,
        }
    }
}

impl Topic {
    /// The topic of another name on the same broker.
    pub fn named(&self, name: &str) -> Self {
        Self { name: name.to_owned(), ..self.clone() }
    }

    /// Creates it with settings of its own.
    pub async fn create_with(&self, settings: &[(&str, &str)]) -> Result<()> {
        let topic = NewTopic::new(&self.name, self.partitions.get(), TopicReplication::Fixed(1));
        let topic = settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
        let created = self.admin()?.create_topics([&topic], &AdminOptions::new()).await?;
        created
            .into_iter()
            .try_for_each(|created| created.map(drop).map_err(|(name, code)| anyhow!("{name}: {code}")))?;
        devstack::topic_is_known(&self.servers, &self.name, self.partitions.get()).await
    }

    /// Changes a setting.
    pub async fn set(&self, key: &str, value: &str) -> Result<()> {
        let change = AlterConfig::new(ResourceSpecifier::Topic(&self.name)).set(key, value);
        let changed = self.admin()?.alter_configs([&change], &AdminOptions::new()).await?;
        changed.into_iter().try_for_each(|changed| changed.map(drop).map_err(|(_, code)| anyhow!("{key}: {code}")))
    }

    /// The value of a setting.
    pub async fn setting(&self, key: &str) -> Result<String> {
        let topic = ResourceSpecifier::Topic(&self.name);
        let described = self.admin()?.describe_configs([&topic], &AdminOptions::new()).await?;
        let described = described.into_iter().next().context("an answer")?.map_err(|code| anyhow!("{code}"))?;
        described.get(key).and_then(|entry| entry.value.clone()).with_context(|| format!("a value of {key}"))
    }

    /// The number of its partitions; 0 when it does not exist.
    pub fn partitions_found(&self) -> Result<usize> {
        let consumer: BaseConsumer = self.client().set("allow.auto.create.topics", "false").create()?;
        let metadata = consumer.fetch_metadata(Some(&self.name), ANSWER_MAX)?;
        Ok(metadata.topics().iter().map(|topic| topic.partitions().len()).sum())
    }

    /// Writes the records in order and returns when the broker has them all.
    pub fn produce_raw(&self, records: &[RawRecord]) -> Result<()> {
        let settings = [("enable.idempotence", "true"), ("message.max.bytes", CLIENT_BYTES_MAX)];
        let (producer, deliveries) = self.producer(&settings)?;
        for record in records {
            let headers = record.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header { key, value: value.as_deref() })
            });
            let mut message: BaseRecord<'_, [u8], [u8]> =
                BaseRecord::to(&self.name).partition(record.partition).headers(headers);
            message.key = record.key.as_deref();
            message.payload = record.value.as_deref();
            while let Err((error, refused)) = producer.send(message) {
                ensure!(error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull), "produce: {error}");
                producer.poll(Duration::from_millis(20));
                message = refused;
            }
        }
        flushed(&producer, &deliveries)
    }

    /// All its records, partition by partition in offset order; none when it does not exist.
    pub fn read(&self) -> Result<Vec<RawRecord>> {
        if self.partitions_found()? == 0 {
            return Ok(Vec::new());
        }
        let consumer: BaseConsumer =
            self.client().set("group.id", "acceptance-reads").set("receive.message.max.bytes", "500000000").create()?;
        let ends = self.ends()?;
        let mut list = TopicPartitionList::new();
        for partition in ends.keys() {
            list.add_partition_offset(&self.name, *partition, Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        let (mut records, deadline) = (Vec::new(), Instant::now() + READ_MAX);
        let wanted: i64 = ends.values().sum();
        while i64::try_from(records.len())? < wanted {
            ensure!(Instant::now() < deadline, "{} of {wanted} records of {}", records.len(), self.name);
            if let Some(message) = consumer.poll(Duration::from_millis(100)) {
                records.push(raw(&message?));
            }
        }
        records.sort_by_key(|record| (record.partition, record.offset));
        Ok(records)
    }

    /// What a consumer with `read_committed` sees, partition by partition in offset order, up to the first open transaction.
    pub fn read_committed(&self) -> Result<Vec<RawRecord>> {
        let mut client = self.client();
        client.set("isolation.level", "read_committed").set("enable.partition.eof", "true");
        let consumer: BaseConsumer = client.set("group.id", "acceptance-reads").create()?;
        let (mut list, partitions) = (TopicPartitionList::new(), i32::try_from(self.partitions_found()?)?);
        for partition in 0..partitions {
            list.add_partition_offset(&self.name, partition, Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        let (mut records, mut ended, deadline) = (Vec::new(), BTreeSet::new(), Instant::now() + READ_MAX);
        while i32::try_from(ended.len())? < partitions {
            ensure!(Instant::now() < deadline, "{} was not read to its end: {ended:?}", self.name);
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => records.push(raw(&message)),
                Some(Err(KafkaError::PartitionEOF(partition))) => drop(ended.insert(partition)),
                Some(Err(error)) => return Err(error.into()),
                None => {}
            }
        }
        records.sort_by_key(|record| (record.partition, record.offset));
        Ok(records)
    }

    /// Takes a group away, with the offsets that it has committed.
    pub async fn delete_group(&self, group: &str) -> Result<()> {
        let deleted = self.admin()?.delete_groups(&[group], &AdminOptions::new()).await?;
        deleted.into_iter().try_for_each(|deleted| deleted.map(drop).map_err(|(name, code)| anyhow!("{name}: {code}")))
    }
}

fn raw(message: &impl Message) -> RawRecord {
    let headers = message.headers().map(|headers| {
        let header = |index| headers.get(index);
        let owned = |header: Header<'_, &[u8]>| (header.key.to_owned(), header.value.map(<[u8]>::to_vec));
        (0..headers.count()).map(header).map(owned).collect()
    });
    RawRecord {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
    }
}
