//! One test's own topic, group and consumers on the shared broker.

#![expect(clippy::unwrap_used, reason = "a step of a test that fails ends the test")]

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result};
use devstack::{Part, eventually};
use messaging::{
    blocking::{Audited, Command, PartitionState, Verb, audit_topic, blocking_topic, send},
    consumer::{Consumer, ConsumerConfig, ConsumerError, HandleError, Order, RecordHandler},
    record::Record,
    retry::RetryConfig,
    settings::Settings,
};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    error::KafkaError,
    message::{Headers as _, OwnedMessage},
    producer::{FutureProducer, FutureRecord},
};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub const DEADLINE: Duration = Duration::from_secs(60);

/// What a handler makes of a record.
#[derive(Debug, Clone)]
pub enum Answer {
    Handled,
    Fails(&'static str),
    NeverRetried(&'static str),
    /// Handled when the gate opens.
    Waits,
    Panics,
}

/// An attempt, as the handler saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub value: String,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub retry_attempt: u32,
    pub at_ms: i64,
    pub timestamp_ms: i64,
}

/// The world in which handlers work: it outlives consumers.
#[derive(Default)]
pub struct World {
    attempts: Mutex<Vec<Attempt>>,
    done: Mutex<Vec<String>>,
    answers: Mutex<HashMap<String, Answer>>,
    gate: Notify,
    at_once: Mutex<(usize, usize)>,
}

impl World {
    /// From now on the record with this value meets this answer; the others are handled.
    pub fn answer(&self, value: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(value.to_owned(), answer);
    }

    /// Lets those that wait go on.
    pub fn open_gate(&self, value: &str) {
        self.answer(value, Answer::Handled);
        self.gate.notify_waiters();
    }

    pub fn attempts(&self, value: &str) -> Vec<Attempt> {
        self.attempts.lock().unwrap().iter().filter(|attempt| attempt.value == value).cloned().collect()
    }

    /// Values whose handling succeeded, in that order.
    pub fn done(&self) -> Vec<String> {
        self.done.lock().unwrap().clone()
    }

    /// The most that were in the handler at once.
    pub fn most_at_once(&self) -> usize {
        self.at_once.lock().unwrap().1
    }

    pub async fn until_done(&self, count: usize) -> Result<Vec<String>> {
        let seen = async || Some(self.done()).filter(|done| done.len() >= count);
        eventually(&format!("{count} records are handled"), DEADLINE, seen)
            .await
            .with_context(|| format!("handled: {:?}", self.done()))
    }

    pub async fn until_attempted(&self, value: &str, count: usize) -> Result<Vec<Attempt>> {
        let seen = async || Some(self.attempts(value)).filter(|attempts| attempts.len() >= count);
        eventually(&format!("{count} attempts at {value}"), DEADLINE, seen).await
    }
}

pub struct Handler(Arc<World>);

impl RecordHandler for Handler {
    async fn handle(&self, record: &Record) -> Result<(), HandleError> {
        let value = String::from_utf8(record.value.as_deref().unwrap_or_default().to_vec()).unwrap();
        self.0.attempts.lock().unwrap().push(Attempt {
            value: value.clone(),
            topic: record.place.topic.to_string(),
            partition: record.place.partition,
            offset: record.place.offset,
            retry_attempt: record.trail.retry_attempt,
            at_ms: now_ms(),
            timestamp_ms: record.timestamp_ms.unwrap(),
        });
        {
            let mut at_once = self.0.at_once.lock().unwrap();
            at_once.0 += 1;
            at_once.1 = at_once.1.max(at_once.0);
        }
        let _leaves = Leaves(&self.0);
        loop {
            // Armed before the answer is read, so that no opening is missed.
            let opened = self.0.gate.notified();
            let answer = self.0.answers.lock().unwrap().get(&value).cloned();
            match answer {
                Some(Answer::Fails(class)) => return Err(HandleError::new(class, "not now")),
                Some(Answer::NeverRetried(class)) => return Err(HandleError::never_retried(class, "never")),
                Some(Answer::Panics) => panic!("as it was told"),
                Some(Answer::Waits) => opened.await,
                Some(Answer::Handled) | None => break,
            }
        }
        self.0.done.lock().unwrap().push(value);
        Ok(())
    }
}

struct Leaves<'a>(&'a World);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        self.0.at_once.lock().unwrap().0 -= 1;
    }
}

/// Topic and group of one test.
pub struct Stage {
    servers: String,
    pub topic: String,
    pub group: String,
    pub world: Arc<World>,
    producer: FutureProducer,
}

/// A consumer that runs.
pub struct Member {
    stop: CancellationToken,
    task: JoinHandle<Result<(), ConsumerError>>,
}

impl Member {
    /// Lets it drain.
    pub async fn stop(self) -> Result<()> {
        self.stop.cancel();
        Ok(self.task.await??)
    }

    /// Whether it ends by itself in this time.
    pub async fn ends_within(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, &mut self.task).await.is_ok()
    }

    /// What it ends with by itself.
    pub async fn ended(self) -> Result<()> {
        Ok(tokio::time::timeout(DEADLINE, self.task).await???)
    }

    /// Ends it as a crash would: nothing is finished or committed. The group learns of it from the dropped client.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

impl Stage {
    pub async fn new(partitions: i32) -> Result<Self> {
        let endpoints = tokio::task::spawn_blocking(|| devstack::shared(&[Part::Kafka])).await??;
        let servers = endpoints.kafka.context("a broker")?;
        let tag = uuid::Uuid::now_v7().simple().to_string();
        let (topic, group) = (format!("renewals-{tag}"), format!("group-{tag}"));
        let config = client(&servers);
        let admin: AdminClient<DefaultClientContext> = config.create()?;
        let new = NewTopic::new(&topic, partitions, TopicReplication::Fixed(1));
        admin.create_topics([&new], &AdminOptions::new()).await?.remove(0).map_err(|(_, code)| code)?;
        devstack::topic_is_known(&servers, &topic, partitions).await?;
        Ok(Self { producer: config.create()?, servers, topic, group, world: Arc::default() })
    }

    /// Another topic of the same group, in the same world.
    pub async fn beside(&self, partitions: i32) -> Result<Self> {
        let (group, world) = (self.group.clone(), Arc::clone(&self.world));
        Ok(Self { group, world, ..Self::new(partitions).await? })
    }

    /// Produces values; `k:v` has key `k`, and goes to the partition of that number if it is one.
    pub async fn produce(&self, values: &[&str]) -> Result<()> {
        for value in values {
            let key = value.split(':').next().unwrap_or_default();
            self.produce_to(key.parse().unwrap_or_default(), key, value).await?;
        }
        Ok(())
    }

    pub async fn produce_to(&self, partition: i32, key: &str, value: &str) -> Result<i64> {
        let record = FutureRecord::to(&self.topic).key(key).payload(value).partition(partition);
        let sent = self.producer.send(record, DEADLINE).await.map_err(|(error, _)| error)?;
        Ok(sent.offset)
    }

    /// Where the broker listens.
    pub fn servers(&self) -> &str {
        &self.servers
    }

    pub fn config(&self, retries: RetryConfig) -> ConsumerConfig {
        let mut config = ConsumerConfig::new(self.settings(), &self.group, [(self.topic.clone(), retries)]);
        config.order = Order::ByKey { parallel_max: 4 };
        config
    }

    pub fn settings(&self) -> Settings {
        [("bootstrap.servers", self.servers.as_str()), ("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "500")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    #[expect(clippy::print_stderr, reason = "a test that waits for what a member would do shows why it does not")]
    pub fn start(&self, config: ConsumerConfig) -> Result<Member> {
        let (stop, consumer) = (CancellationToken::new(), Consumer::new(config, Handler(Arc::clone(&self.world)))?);
        let run = consumer.run(stop.clone());
        let task = tokio::spawn(async {
            let ended = run.await;
            if let Err(error) = &ended {
                eprintln!("a member has ended: {error}");
            }
            ended
        });
        Ok(Member { stop, task })
    }

    /// What is kept of a partition, if anything.
    pub async fn state(&self, partition: i32) -> Result<Option<PartitionState>> {
        let key = messaging::blocking::partition_key(&self.topic, partition);
        let all = self.read(&blocking_topic(&self.group)).await?;
        let last = all.iter().rev().find(|message| message.key() == Some(key.as_bytes()));
        Ok(last.and_then(|message| message.payload()).map(serde_json::from_slice).transpose()?)
    }

    pub async fn until_state(
        &self,
        what: &str,
        partition: i32,
        holds: impl Fn(&Option<PartitionState>) -> bool,
    ) -> Result<Option<PartitionState>> {
        let seen = async || self.state(partition).await.ok().filter(&holds);
        eventually(what, DEADLINE, seen).await.with_context(|| format!("handled: {:?}", self.world.done()))
    }

    /// Waits until the partition stands at this record.
    pub async fn until_blocked(&self, partition: i32, offset: i64) -> Result<PartitionState> {
        let holds = |state: &Option<PartitionState>| {
            state.as_ref().is_some_and(|state| state.blocked.contains_key(&offset) && state.waits_for_operator())
        };
        let state = self.until_state("the partition stands", partition, holds).await?;
        state.context("it is kept")
    }

    pub async fn until_ordinary(&self, partition: i32) -> Result<()> {
        let holds = |state: &Option<PartitionState>| state.as_ref().is_none_or(PartitionState::is_ordinary);
        self.until_state("the partition is ordinary", partition, holds).await.map(drop)
    }

    pub async fn command(&self, verb: Verb, partition: i32, offset: i64) -> Result<Command> {
        let command = Command::new(verb, &self.topic, partition, offset, "a tester", "because");
        self.send(&command).await?;
        Ok(command)
    }

    pub async fn send(&self, command: &Command) -> Result<()> {
        send(&self.settings(), &self.group, command).await?;
        Ok(())
    }

    /// What the audit topic says of this command, once it does: one event for each time that it was read.
    pub async fn until_audited(&self, command: &Command, times: usize) -> Result<Vec<Audited>> {
        let seen = async || {
            let about = |audited: &Audited| audited.command.as_ref().is_some_and(|found| found.id == command.id);
            Some(self.audits().await.ok()?.into_iter().filter(about).collect::<Vec<_>>())
                .filter(|audits| audits.len() >= times)
        };
        eventually("a command is audited", DEADLINE, seen).await
    }

    pub async fn audits(&self) -> Result<Vec<Audited>> {
        let all = self.read(&audit_topic(&self.group)).await?;
        all.iter().map(|message| Ok(serde_json::from_slice(message.payload().context("a value")?)?)).collect()
    }

    pub fn dead_letter_topic(&self) -> String {
        format!("{}-{}-dlq", self.topic, self.group)
    }

    /// The dead letters: value and headers.
    pub async fn dead_letters(&self) -> Result<Vec<(String, BTreeMap<String, String>)>> {
        let letters = self.read(&self.dead_letter_topic()).await?;
        Ok(letters.iter().map(|letter| (text(letter.payload()), headers(letter))).collect())
    }

    pub async fn until_dead(&self, count: usize) -> Result<Vec<(String, BTreeMap<String, String>)>> {
        let seen = async || self.dead_letters().await.ok().filter(|letters| letters.len() >= count);
        eventually(&format!("{count} dead letters"), DEADLINE, seen).await
    }

    /// Waits until the group's offset of a partition is this.
    pub async fn until_committed(&self, partition: i32, offset: i64) -> Result<()> {
        let seen = async || (self.committed(partition).await.ok()? == Offset::Offset(offset)).then_some(());
        eventually(&format!("offset {offset} is committed"), DEADLINE, seen).await
    }

    pub async fn committed(&self, partition: i32) -> Result<Offset> {
        let (config, topic) = (self.group_client(), self.topic.clone());
        let look = move || {
            let consumer: BaseConsumer = config.create()?;
            let mut list = TopicPartitionList::new();
            list.add_partition(&topic, partition);
            let list = consumer.committed_offsets(list, DEADLINE)?;
            Ok(list.elements()[0].offset())
        };
        tokio::task::spawn_blocking(look).await?
    }

    /// Sets the group's offset, as `kafka-consumer-groups.sh --reset-offsets` does.
    pub async fn reset(&self, partition: i32, offset: i64) -> Result<()> {
        let (config, topic) = (self.group_client(), self.topic.clone());
        let reset = move || {
            let consumer: BaseConsumer = config.create()?;
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&topic, partition, Offset::Offset(offset))?;
            Ok(consumer.commit(&list, CommitMode::Sync)?)
        };
        tokio::task::spawn_blocking(reset).await?
    }

    fn group_client(&self) -> ClientConfig {
        let mut config = client(&self.servers);
        config.set("group.id", &self.group);
        config
    }

    /// All that a topic holds now.
    pub async fn read(&self, topic: &str) -> Result<Vec<OwnedMessage>> {
        let (servers, topic) = (self.servers.clone(), topic.to_owned());
        tokio::task::spawn_blocking(move || read(&servers, &topic)).await?
    }
}

fn read(servers: &str, topic: &str) -> Result<Vec<OwnedMessage>> {
    let mut config = client(servers);
    config.set("group.id", "a-reader").set("enable.partition.eof", "true").set("auto.offset.reset", "earliest");
    config.set("enable.auto.commit", "false").set("allow.auto.create.topics", "false").set("fetch.wait.max.ms", "20");
    let consumer: BaseConsumer = config.create()?;
    let metadata = consumer.fetch_metadata(Some(topic), DEADLINE)?;
    let partitions = metadata.topics()[0].partitions().len();
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, i32::try_from(partitions)? - 1);
    list.set_all_offsets(Offset::Beginning)?;
    let (mut messages, mut ends) = (Vec::new(), 0);
    if partitions == 0 {
        return Ok(messages);
    }
    consumer.assign(&list)?;
    while ends < partitions {
        match consumer.poll(DEADLINE).context("the topic's end")? {
            Ok(message) => messages.push(message.detach()),
            Err(KafkaError::PartitionEOF(_)) => ends += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(messages)
}

pub fn client(servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("log_level", "0");
    config
}

fn headers(message: &OwnedMessage) -> BTreeMap<String, String> {
    let all = message.headers().into_iter().flat_map(|headers| headers.iter());
    all.map(|header| (header.key.to_owned(), text(header.value))).collect()
}

pub fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}

pub fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64
}
