//! What a topic is like, and transactions that commit, abort or stay open.

use std::time::Duration;

use anyhow::{Context as _, Result};
use devstack::eventually;
use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    producer::{BaseProducer, BaseRecord, Producer as _},
};

use crate::stage::{DEADLINE, Stage, client};

const ANSWER_MAX: Duration = Duration::from_secs(60);

impl Stage {
    fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(client(self.servers()).create()?)
    }

    /// Makes a topic of one partition that has this setting.
    pub async fn create_with(&self, topic: &str, name: &str, value: &str) -> Result<()> {
        let new = NewTopic::new(topic, 1, TopicReplication::Fixed(1)).set(name, value);
        let created = self.admin()?.create_topics([&new], &AdminOptions::new()).await?;
        created.into_iter().next().context("an answer")?.map_err(|(_, code)| code)?;
        devstack::topic_is_known(self.servers(), topic, 1).await
    }

    /// Deletes the test's topic and makes another one of its name.
    pub async fn make_anew(&self, partitions: i32) -> Result<()> {
        for deleted in self.admin()?.delete_topics(&[&self.topic], &AdminOptions::new()).await? {
            deleted.map_err(|(topic, code)| anyhow::anyhow!("{topic}: {code}"))?;
        }
        let create = async || {
            let new = NewTopic::new(&self.topic, partitions, TopicReplication::Fixed(1));
            let created = self.admin().ok()?.create_topics([&new], &AdminOptions::new()).await.ok()?;
            created.into_iter().next()?.ok()
        };
        eventually("the name is free again", DEADLINE, create).await?;
        devstack::topic_is_known(self.servers(), &self.topic, partitions).await
    }

    /// Removes the records before an offset, as retention does.
    pub async fn delete_before(&self, partition: i32, offset: i64) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, partition, Offset::Offset(offset))?;
        let deleted = self.admin()?.delete_records(&list, &AdminOptions::new()).await?;
        Ok(deleted.find_partition(&self.topic, partition).context("an answer")?.error()?)
    }

    /// Gives a topic this setting.
    pub async fn set(&self, topic: &str, name: &str, value: &str) -> Result<()> {
        let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
        let changed = self.admin()?.alter_configs([&change], &AdminOptions::new()).await?;
        changed.into_iter().next().context("an answer")?.map_err(|(_, code)| code)?;
        Ok(())
    }

    /// A setting of a topic.
    pub async fn setting(&self, topic: &str, name: &str) -> Result<String> {
        let topic = ResourceSpecifier::Topic(topic);
        let described = self.admin()?.describe_configs([&topic], &AdminOptions::new()).await?;
        let described = described.into_iter().next().context("an answer")??;
        described.get(name).and_then(|entry| entry.value.clone()).with_context(|| name.to_owned())
    }

    /// How many replicas each partition of a topic has.
    pub async fn replicas(&self, topic: &str) -> Result<Vec<usize>> {
        let (config, topic) = (client(self.servers()), topic.to_owned());
        let look = move || {
            let consumer: BaseConsumer = config.create()?;
            let metadata = consumer.fetch_metadata(Some(&topic), DEADLINE)?;
            let partitions = metadata.topics()[0].partitions();
            Ok(partitions.iter().map(|partition| partition.replicas().len()).collect())
        };
        tokio::task::spawn_blocking(look).await?
    }
}

/// A transaction whose records are in partition 0 and whose fate is open.
pub struct OpenTransaction(BaseProducer);

impl OpenTransaction {
    pub fn begin(stage: &Stage, values: &[&str]) -> Result<Self> {
        let id = format!("{}-{}", stage.topic, uuid::Uuid::now_v7());
        let producer: BaseProducer = client(stage.servers()).set("transactional.id", id).create()?;
        producer.init_transactions(ANSWER_MAX)?;
        producer.begin_transaction()?;
        for value in values {
            let record = BaseRecord::to(&stage.topic).partition(0).key("0").payload(*value);
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
