//! What a log is made to hold: transactions that commit, abort or stay open, records removed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::{
    Offset, TopicPartitionList,
    admin::AdminOptions,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use crate::stage::Broker;

const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A transaction whose records are in the log and whose fate is open.
pub struct OpenTransaction(BaseProducer);

impl OpenTransaction {
    /// Writes records into one partition and leaves the transaction open.
    pub fn begin(broker: &Broker, topic: &str, partition: i32, records: &[(&str, &str)]) -> Result<Self> {
        let id = format!("{topic}-{}", rand::random::<u32>());
        let producer: BaseProducer =
            broker.client().set("transactional.id", id).set("message.timeout.ms", "30000").create()?;
        producer.init_transactions(ANSWER_MAX)?;
        producer.begin_transaction()?;
        for (key, value) in records {
            let record = BaseRecord::to(topic).partition(partition).key(*key).payload(*value);
            producer.send(record).map_err(|(error, _)| error)?;
        }
        // In the log before its fate is decided, else an abort would have nothing to undo.
        producer.flush(ANSWER_MAX)?;
        Ok(Self(producer))
    }

    pub fn commit(self) -> Result<()> {
        Ok(self.0.commit_transaction(ANSWER_MAX)?)
    }

    pub fn abort(self) -> Result<()> {
        Ok(self.0.abort_transaction(ANSWER_MAX)?)
    }
}

/// Writes records into one partition.
pub fn write(broker: &Broker, topic: &str, partition: i32, records: &[(&str, Option<&str>)]) -> Result<()> {
    let producer: BaseProducer = broker.client().set("enable.idempotence", "true").create()?;
    for (key, value) in records {
        let mut record: BaseRecord<'_, str, str> = BaseRecord::to(topic).partition(partition).key(key);
        record.payload = *value;
        producer.send(record).map_err(|(error, _)| error)?;
    }
    Ok(producer.flush(ANSWER_MAX)?)
}

/// Where the log of a partition begins and ends, uncommitted records included.
pub fn bounds(broker: &Broker, topic: &str, partition: i32) -> Result<(i64, i64)> {
    let consumer: BaseConsumer = broker.client().set("isolation.level", "read_uncommitted").create()?;
    Ok(consumer.fetch_watermarks(topic, partition, ANSWER_MAX)?)
}

/// Removes the records before an offset, as retention does.
pub async fn delete_before(broker: &Broker, topic: &str, partition: i32, offset: i64) -> Result<()> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    let deleted = broker.admin()?.delete_records(&list, &AdminOptions::new()).await?;
    let answer = deleted.find_partition(topic, partition).context("the partition is answered")?;
    answer.error()?;
    let low = answer.offset();
    ensure!(low == Offset::Offset(offset), "the log begins at {low:?} instead of {offset}");
    Ok(())
}

/// Deletes a topic.
pub async fn delete(broker: &Broker, topic: &str) -> Result<()> {
    for deleted in broker.admin()?.delete_topics(&[topic], &AdminOptions::new()).await? {
        deleted.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
    }
    Ok(())
}
