//! One test's topic, from the outside: created, filled, measured.

mod raw;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use devstack::eventually;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, ClientContext, Offset, TopicPartitionList};

use crate::record::Record;

pub use raw::RawRecord;

/// An offset per partition.
pub type Ends = BTreeMap<i32, i64>;

/// How long the broker may take for one answer; it may be starting.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A topic, which may or may not exist yet.
#[derive(Debug, Clone)]
pub struct Topic {
    servers: String,
    name: String,
    partitions: Cell<i32>,
}

/// Notes the first record that the broker refused.
#[derive(Debug, Clone, Default)]
struct Deliveries(Arc<Mutex<Option<KafkaError>>>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, delivery: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = delivery {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error.clone());
        }
    }
}

type Producer = ThreadedProducer<Deliveries>;

/// A transaction whose records are in the log and whose fate is open.
pub struct OpenTransaction(Producer);

impl OpenTransaction {
    /// Ends it; its records never were.
    pub fn abort(self) -> Result<()> {
        Ok(self.0.abort_transaction(ANSWER_MAX)?)
    }
}

impl Topic {
    /// Names a topic; creates nothing.
    pub fn new(servers: &str, name: &str, partitions: i32) -> Self {
        Self { servers: servers.to_owned(), name: name.to_owned(), partitions: Cell::new(partitions) }
    }

    /// How many partitions it has, or will have.
    pub(crate) fn partitions(&self) -> i32 {
        self.partitions.get()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Creates it.
    pub async fn create(&self) -> Result<()> {
        let topic = NewTopic::new(&self.name, self.partitions.get(), TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(ANSWER_MAX));
        let created = self.admin()?.create_topics([&topic], &options).await?;
        for result in created {
            result.map_err(|(topic, code)| anyhow!("topic {topic}: {code}"))?;
        }
        devstack::topic_is_known(&self.servers, &self.name, self.partitions.get()).await
    }

    /// Deletes it and creates it anew under its old name, empty.
    pub async fn make_anew(&self) -> Result<()> {
        let options = AdminOptions::new().operation_timeout(Some(ANSWER_MAX));
        for result in self.admin()?.delete_topics(&[&self.name], &options).await? {
            result.map_err(|(topic, code)| anyhow!("topic {topic}: {code}"))?;
        }
        // The name is free only when every broker has heard of the deletion.
        let created = async || self.create().await.ok();
        eventually("the topic is there anew", ANSWER_MAX, created).await
    }

    /// Adds partitions until there are so many.
    pub async fn grow(&self, partitions: i32) -> Result<()> {
        let grown = NewPartitions::new(&self.name, usize::try_from(partitions)?);
        for result in self.admin()?.create_partitions(&[grown], &AdminOptions::new()).await? {
            result.map_err(|(topic, code)| anyhow!("topic {topic}: {code}"))?;
        }
        self.partitions.set(partitions);
        Ok(())
    }

    /// Writes the records in order and returns when the broker has them all. Idempotent: a broker that restarts meanwhile
    /// neither loses nor doubles one.
    pub fn produce(&self, records: &[Record]) -> Result<()> {
        let (producer, deliveries) = self.producer(&[("enable.idempotence", "true"), ("acks", "all")])?;
        self.send(&producer, records, |_| ())?;
        flushed(&producer, &deliveries)
    }

    /// As [`Self::produce`] into an empty topic: gives the offset of each record.
    pub(crate) fn produce_for_offsets(&self, records: &[Record]) -> Result<Vec<i64>> {
        self.produce(records)?;
        let mut next = Ends::new();
        let offset = |record: &Record| {
            let next = next.entry(record.partition).or_default();
            *next += 1;
            *next - 1
        };
        Ok(records.iter().map(offset).collect())
    }

    /// Writes each list in a Kafka transaction of its own, which is committed, or aborted where `false` stands beside it.
    pub fn produce_transactions(&self, transactions: &[(&[Record], bool)]) -> Result<()> {
        let id = format!("{}-transactions", self.name);
        let (producer, deliveries) = self.producer(&[("transactional.id", &id), ("message.timeout.ms", "30000")])?;
        producer.init_transactions(ANSWER_MAX)?;
        for (records, commit) in transactions {
            producer.begin_transaction()?;
            self.send(&producer, records, |_| ())?;
            // The records must be in the log before the marker, else an abort would not have to write them at all.
            flushed(&producer, &deliveries)?;
            match commit {
                true => producer.commit_transaction(ANSWER_MAX)?,
                false => producer.abort_transaction(ANSWER_MAX)?,
            }
        }
        Ok(())
    }

    /// Writes the records in a Kafka transaction that stays open.
    pub fn open_transaction(&self, records: &[Record]) -> Result<OpenTransaction> {
        let id = format!("{}-open", self.name);
        let (producer, deliveries) = self.producer(&[("transactional.id", &id), ("message.timeout.ms", "30000")])?;
        producer.init_transactions(ANSWER_MAX)?;
        producer.begin_transaction()?;
        self.send(&producer, records, |_| ())?;
        flushed(&producer, &deliveries)?;
        Ok(OpenTransaction(producer))
    }

    /// The next offset of each partition: its end for a consumer that reads everything. A transaction that was ended counts with
    /// its marker, which the broker writes only after it has answered; one that stays open is an error.
    pub fn ends(&self) -> Result<Ends> {
        let (every, stable) = self.both_levels()?;
        let deadline = Instant::now() + ANSWER_MAX;
        let end = |partition| loop {
            let (end, stable_end) = self.both_ends(&every, &stable, partition)?;
            if stable_end >= end {
                return Ok((partition, end));
            }
            ensure!(Instant::now() < deadline, "partition {partition}: a transaction is open at {stable_end} of {end}");
        };
        (0..self.partitions.get()).map(end).collect()
    }

    /// Waits until the log's ends together are beyond so many, committed or not, or until so long has passed; gives what they are.
    /// Blocks, and looks as often as it can.
    pub fn grown_beyond(&self, ends: i64, within: Duration) -> Result<i64> {
        let (every, stable) = self.both_levels()?;
        let deadline = Instant::now() + within;
        loop {
            let partitions = 0..self.partitions.get();
            let found =
                partitions.map(|partition| Ok(self.both_ends(&every, &stable, partition)?.0)).sum::<Result<i64>>()?;
            if found > ends || Instant::now() >= deadline {
                return Ok(found);
            }
        }
    }

    /// A client's `isolation.level` decides which of a partition's two ends ListOffsets tells it.
    fn both_levels(&self) -> Result<(BaseConsumer, BaseConsumer)> {
        let [every, stable] = ["read_uncommitted", "read_committed"].map(|level| {
            let consumer: BaseConsumer = self.client().set("isolation.level", level).create()?;
            anyhow::Ok(consumer)
        });
        Ok((every?, stable?))
    }

    fn both_ends(&self, every: &BaseConsumer, stable: &BaseConsumer, partition: i32) -> Result<(i64, i64)> {
        let end_for = |consumer: &BaseConsumer| consumer.fetch_watermarks(&self.name, partition, ANSWER_MAX);
        Ok((end_for(every)?.1, end_for(stable)?.1))
    }

    /// What a group has committed; partitions without an offset are left out.
    pub fn committed(&self, group: &str) -> Result<Ends> {
        let consumer: BaseConsumer = self.client().set("group.id", group).create()?;
        let mut asked = TopicPartitionList::new();
        asked.add_partition_range(&self.name, 0, self.partitions.get() - 1);
        let committed = consumer.committed_offsets(asked, ANSWER_MAX)?;
        let offset = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset() {
            Offset::Offset(offset) => Some((element.partition(), offset)),
            _ => None,
        };
        Ok(committed.elements().iter().filter_map(offset).collect())
    }

    /// Removes the records of a partition before an offset, as retention does.
    pub async fn delete_before(&self, partition: i32, offset: i64) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.name, partition, Offset::Offset(offset))?;
        let deleted = self.admin()?.delete_records(&list, &AdminOptions::new()).await?;
        let low = deleted.find_partition(&self.name, partition).context("the partition is answered")?.offset();
        ensure!(
            low == Offset::Offset(offset),
            "the log of partition {partition} begins at {low:?} instead of {offset}"
        );
        Ok(())
    }

    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers).set("log_level", "0");
        config
    }

    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(self.client().create()?)
    }

    fn producer(&self, settings: &[(&str, &str)]) -> Result<(Producer, Deliveries)> {
        let (mut config, deliveries) = (self.client(), Deliveries::default());
        for (key, value) in settings {
            config.set(*key, *value);
        }
        Ok((config.create_with_context(deliveries.clone())?, deliveries))
    }

    /// Hands records to a producer in order; `opaque` gives each one's companion by its number.
    pub(crate) fn send<C: ProducerContext>(
        &self,
        producer: &ThreadedProducer<C>,
        records: &[Record],
        opaque: impl Fn(usize) -> C::DeliveryOpaque,
    ) -> Result<()> {
        for (number, record) in records.iter().enumerate() {
            let headers = record
                .headers
                .iter()
                .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
            let mut message: BaseRecord<'_, str, str, C::DeliveryOpaque> =
                BaseRecord::with_opaque_to(&self.name, opaque(number)).partition(record.partition);
            message = message.key(record.key.as_str()).headers(headers);
            message.payload = record.value.as_deref();
            while let Err((error, refused)) = producer.send(message) {
                ensure!(error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull), "produce: {error}");
                producer.poll(Duration::from_millis(20));
                message = refused;
            }
        }
        Ok(())
    }
}

fn flushed(producer: &Producer, deliveries: &Deliveries) -> Result<()> {
    producer.flush(ANSWER_MAX)?;
    match deliveries.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(error) => Err(error).context("a record was not delivered"),
        None => Ok(()),
    }
}
