//! The three topics of a group: made, read, written.

use std::{collections::HashMap, time::Duration};

use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, StreamConsumer},
    error::{KafkaError, KafkaResult},
    producer::{FutureProducer, FutureRecord, Producer as _},
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::{Command, PartitionState, partition_key};
use crate::{
    durable,
    settings::{Settings, client},
    topics::{self, ANSWER_MAX, Admin, OpenError, Shape, ensure},
};

const CLIENT_ID: &str = "siteview-blocking";
/// Commands are of use as long as something may wait for them.
const COMMANDS_RETENTION: &str = "604800000";
/// How long states may take to load; there are as many as partitions are held.
const LOAD_MAX: Duration = Duration::from_secs(30);

/// Name of the compacted topic of states.
pub fn blocking_topic(group: &str) -> String {
    format!("{group}.blocking")
}

/// Name of the topic of commands.
pub fn commands_topic(group: &str) -> String {
    format!("{group}.commands")
}

/// Name of the topic in which everything that happened stands.
pub fn audit_topic(group: &str) -> String {
    format!("{group}.audit")
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audited {
    /// When, RFC 3339.
    pub at: String,
    /// `blocked`, `parked`, `left-out`, `followed`, `refused`, `topic-changed` or `out-of-range`.
    pub event: String,
    /// Topic.
    pub topic: String,
    /// Partition of it.
    pub partition: i32,
    /// The record.
    pub offset: i64,
    /// What else there is to say: the error, or why a command was refused.
    pub detail: String,
    /// The command, where one is concerned: with who and why.
    pub command: Option<Command>,
}

/// Makes the three topics of a group, with so many replicas, unless they are there.
async fn ensure_all(settings: &Settings, group: &str, replicas: i32) -> Result<(), OpenError> {
    let admin: Admin = client(settings, &[("client.id", CLIENT_ID)]).create()?;
    let shape = Shape { partitions: 1, replicas };
    let blocking = [("cleanup.policy", "compact")];
    let commands = [("cleanup.policy", "delete"), ("retention.ms", COMMANDS_RETENTION)];
    let audit = [("cleanup.policy", "delete"), ("retention.ms", "-1")];
    ensure(&admin, settings, &blocking_topic(group), shape, &blocking).await?;
    ensure(&admin, settings, &commands_topic(group), shape, &commands).await?;
    ensure(&admin, settings, &audit_topic(group), shape, &audit).await?;
    Ok(())
}

/// Sends a command to a group. `Ok` says that it stands in the commands topic, with its offset there; what came of it stands
/// in the audit topic.
pub async fn send(settings: &Settings, group: &str, command: &Command) -> KafkaResult<i64> {
    let producer = durable::producer(settings, CLIENT_ID)?;
    let (topic, key) = (commands_topic(group), partition_key(&command.topic, command.partition));
    let value = serde_json::to_vec(command).expect("a command is plain data");
    let record = FutureRecord::to(&topic).partition(0).key(&key).payload(&value);
    let sent = producer.send_result(record).map_err(|(error, _)| error)?;
    let delivered = sent.await.map_err(|_| KafkaError::Canceled)?;
    delivered.map(|delivery| delivery.offset).map_err(|(error, _)| error)
}

/// What holds the partitions of a group, as it stands at this moment: none where nothing ever did, nor before a consumer of the group
/// has run; an ordinary state where a command was followed once.
pub async fn states(settings: &Settings, group: &str) -> KafkaResult<Vec<PartitionState>> {
    let reader = Reader { settings: settings.clone(), group: group.to_owned() };
    let finder = topics::finder(settings, CLIENT_ID)?;
    let states = tokio::task::spawn_blocking(move || match topics::shape(&finder, &blocking_topic(&reader.group))? {
        Some(_) => reader.states(),
        None => Ok(HashMap::new()),
    });
    let states = states.await;
    Ok(states.map_err(|_| KafkaError::Canceled)??.into_values().collect())
}

/// What is told of the commands topic.
pub(crate) enum Told {
    /// A command, and the offset at which it stands.
    Command(i64, Command),
    /// There is no further one by now.
    CaughtUp,
}

/// What reads states and commands.
#[derive(Clone)]
pub(crate) struct Reader {
    settings: Settings,
    group: String,
}

impl Reader {
    /// Makes the topics where they are missing.
    pub(crate) async fn open(settings: &Settings, group: &str, replicas: i32) -> Result<Self, OpenError> {
        ensure_all(settings, group, replicas).await?;
        Ok(Self { settings: settings.clone(), group: group.to_owned() })
    }

    /// Reads all states, as they stand at this moment; blocks while it does.
    pub(crate) fn states(&self) -> KafkaResult<HashMap<String, PartitionState>> {
        let consumer: BaseConsumer = self.config().create()?;
        let topic = blocking_topic(&self.group);
        consumer.assign(&from_the_beginning(&topic)?)?;
        let (mut states, deadline) = (HashMap::new(), std::time::Instant::now() + LOAD_MAX);
        while std::time::Instant::now() < deadline {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
                    match message.payload().map(serde_json::from_slice) {
                        Some(Ok(state)) => drop(states.insert(key, state)),
                        Some(Err(error)) => tracing::error!(topic, key, error = %error, "a state cannot be read"),
                        None => drop(states.remove(&key)),
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(states),
                Some(Err(error)) if is_passing(&error) => {}
                Some(Err(error)) => return Err(error),
                None => {}
            }
        }
        Err(KafkaError::MessageConsumption(rdkafka::types::RDKafkaErrorCode::OperationTimedOut))
    }

    /// Follows the commands from the first that is kept. Ends with the receiver.
    pub(crate) fn follow(
        &self,
        told: mpsc::Sender<Told>,
    ) -> KafkaResult<impl Future<Output = KafkaResult<()>> + Send + use<>> {
        let consumer: StreamConsumer = self.config().create()?;
        let topic = commands_topic(&self.group);
        consumer.assign(&from_the_beginning(&topic)?)?;
        Ok(follow(consumer, topic, told))
    }

    /// It never joins the group, whose name it has for the brokers' access rules.
    fn config(&self) -> rdkafka::ClientConfig {
        let of_members = |key: &str| key.starts_with("group.") || key.starts_with("partition.assignment");
        let settings = self.settings.iter().filter(|(key, _)| !of_members(key));
        let settings = settings.map(|(key, value)| (key.clone(), value.clone())).collect();
        let own = [
            ("group.id", self.group.as_str()),
            ("client.id", CLIENT_ID),
            ("enable.auto.commit", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "earliest"),
            ("isolation.level", "read_committed"),
            ("allow.auto.create.topics", "false"),
            ("queued.max.messages.kbytes", "1024"),
            ("fetch.wait.max.ms", "100"),
        ];
        client(&settings, &own)
    }
}

async fn follow(consumer: StreamConsumer, topic: String, told: mpsc::Sender<Told>) -> KafkaResult<()> {
    loop {
        let message = tokio::select! {
            message = consumer.recv() => message,
            () = told.closed() => return Ok(()),
        };
        let tell = match message {
            Ok(message) => match serde_json::from_slice(message.payload().unwrap_or_default()) {
                Ok(command) => Told::Command(message.offset(), command),
                Err(error) => {
                    tracing::error!(topic, offset = message.offset(), error = %error, "a command cannot be read");
                    continue;
                }
            },
            Err(KafkaError::PartitionEOF(_)) => Told::CaughtUp,
            Err(error) if is_passing(&error) => continue,
            Err(error) => return Err(error),
        };
        if told.send(tell).await.is_err() {
            return Ok(());
        }
    }
}

/// Whether the client goes on by itself.
fn is_passing(error: &KafkaError) -> bool {
    !matches!(
        error,
        KafkaError::MessageConsumptionFatal(_)
            | KafkaError::MessageConsumption(
                rdkafka::types::RDKafkaErrorCode::Fatal | rdkafka::types::RDKafkaErrorCode::TopicAuthorizationFailed
            )
    )
}

fn from_the_beginning(topic: &str) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning)?;
    Ok(list)
}

/// What writes states and audits, in order, without being waited for: a state that is lost by a crash is found again, since the
/// record's offset is not committed.
pub(crate) struct Writer {
    producer: FutureProducer,
    blocking: String,
    audit: String,
}

impl Writer {
    pub(crate) fn new(settings: &Settings, group: &str) -> KafkaResult<Self> {
        let producer = durable::producer(settings, CLIENT_ID)?;
        Ok(Self { producer, blocking: blocking_topic(group), audit: audit_topic(group) })
    }

    /// Keeps a state; one that says nothing needs none.
    pub(crate) fn keep(&self, state: &PartitionState) {
        let value = serde_json::to_vec(state).expect("a state is plain data");
        let key = partition_key(&state.topic, state.partition);
        self.write(&self.blocking, &key, state.is_worth_keeping().then_some(&value[..]));
    }

    /// Notes what happened to a record of this partition.
    pub(crate) fn audit(
        &self,
        state: &PartitionState,
        offset: i64,
        event: &str,
        detail: &str,
        command: Option<&Command>,
    ) {
        let audited = Audited {
            at: jiff::Timestamp::now().to_string(),
            event: event.to_owned(),
            topic: state.topic.clone(),
            partition: state.partition,
            offset,
            detail: detail.to_owned(),
            command: command.cloned(),
        };
        let value = serde_json::to_vec(&audited).expect("plain data");
        self.write(&self.audit, &partition_key(&state.topic, state.partition), Some(&value));
    }

    /// Waits until the brokers have all of it, for a bounded time; blocks.
    pub(crate) fn flush(&self) -> KafkaResult<()> {
        self.producer.flush(ANSWER_MAX)
    }

    fn write(&self, topic: &str, key: &str, value: Option<&[u8]>) {
        let mut record = FutureRecord::<str, [u8]>::to(topic).partition(0).key(key);
        record.payload = value;
        let sent = self.producer.send_result(record).map_err(|(error, _)| error);
        let topic = topic.to_owned();
        tokio::spawn(async move {
            let failed = match sent {
                Ok(delivery) => delivery.await.ok().and_then(|answer| answer.err().map(|(error, _)| error)),
                Err(error) => Some(error),
            };
            if let Some(error) = failed {
                tracing::error!(topic, error = %error, "what holds a partition could not be written down");
            }
        });
    }
}

impl Command {
    /// A command with a new id.
    pub fn new(verb: super::Verb, topic: &str, partition: i32, offset: i64, by: &str, reason: &str) -> Self {
        let (topic, by, reason) = (topic.to_owned(), by.to_owned(), reason.to_owned());
        Self { id: Uuid::now_v7().to_string(), verb, topic, partition, offset, by, reason }
    }
}
