//! One test's own topics and groups on the shared broker, and consoles as processes of their own, which can be killed.

use std::{
    collections::HashMap,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use devstack::{Part, eventually};
use messaging::{
    consumer::{Consumer, ConsumerConfig, ConsumerError, HandleError, RecordHandler},
    dead_letter::{DeadLetters, Letter},
    record::Record,
    retry::RetryConfig,
    settings::Settings,
};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
    message::{Header, OwnedHeaders, OwnedMessage},
    producer::{FutureProducer, FutureRecord},
};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const DEADLINE: Duration = Duration::from_secs(120);

/// Topic and group of one test.
pub struct Stage {
    pub servers: String,
    pub topic: String,
    pub group: String,
    pub files: TempDir,
}

impl Stage {
    pub async fn new(partitions: i32) -> Result<Self> {
        let endpoints = tokio::task::spawn_blocking(|| devstack::shared(&[Part::Kafka])).await??;
        let servers = endpoints.kafka.context("a broker")?;
        let tag = uuid::Uuid::now_v7().simple().to_string();
        let (topic, group) = (format!("orders-{tag}"), format!("group-{tag}"));
        let stage = Self { servers, topic, group, files: tempfile::tempdir()? };
        let admin: AdminClient<DefaultClientContext> = stage.client().create()?;
        let new = NewTopic::new(&stage.topic, partitions, TopicReplication::Fixed(1));
        admin.create_topics([&new], &AdminOptions::new()).await?.remove(0).map_err(|(_, code)| code)?;
        devstack::topic_is_known(&stage.servers, &stage.topic, partitions).await?;
        Ok(stage)
    }

    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers).set("log_level", "0");
        config
    }

    pub fn settings(&self) -> Settings {
        [("bootstrap.servers", self.servers.as_str()), ("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "500")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    pub fn dead_letter_topic(&self) -> String {
        format!("{}-{}-dlq", self.topic, self.group)
    }

    pub fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.files.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Puts a record there, with a header `trace-id`.
    pub async fn produce(&self, partition: i32, key: &str, value: &str) -> Result<()> {
        let producer: FutureProducer = self.client().create()?;
        let headers = OwnedHeaders::new().insert(Header { key: "trace-id", value: Some("t-17") });
        let record = FutureRecord::to(&self.topic).key(key).payload(value).partition(partition).headers(headers);
        producer.send(record, DEADLINE).await.map(drop).map_err(|(error, _)| error.into())
    }

    /// Starts a consumer that refuses values in which `refused` stands.
    pub fn consume(&self, retries: RetryConfig, refused: &'static str) -> Result<Member> {
        self.consume_with(retries, Refusing(refused))
    }

    /// Starts a consumer with a handler of the test's own.
    pub fn consume_with(&self, retries: RetryConfig, handler: impl RecordHandler) -> Result<Member> {
        let mut config = ConsumerConfig::new(self.settings(), &self.group, [(self.topic.clone(), retries)]);
        config.drain_max = Duration::from_secs(2);
        let (stop, consumer) = (CancellationToken::new(), Consumer::new(config, handler)?);
        let task = tokio::spawn(consumer.run(stop.clone()));
        Ok(Member { stop, task })
    }

    /// Puts letters into the dead-letter topic as a consumer would: `(value, reason, text, redrive count)`.
    pub async fn bury(&self, letters: &[Buried]) -> Result<()> {
        let dead = DeadLetters::new(&self.settings(), &self.topic, &self.group);
        for chunk in letters.chunks(1000) {
            let all: Vec<Letter<'_>> = chunk.iter().map(Buried::letter).collect();
            for answer in dead.deliver(&all, DEADLINE).await {
                answer?;
            }
        }
        Ok(())
    }

    pub async fn committed_records(&self) -> Result<Vec<OwnedMessage>> {
        self.committed_records_of(&self.topic).await
    }

    pub async fn committed_records_of(&self, topic: &str) -> Result<Vec<OwnedMessage>> {
        let (config, topic) = (self.client(), topic.to_owned());
        tokio::task::spawn_blocking(move || read_committed(config, &topic)).await?
    }

    pub async fn console(&self, args: &[&str]) -> Result<Console> {
        Console::start(&self.servers, args).await
    }

    /// Runs a verb; gives its JSON and its exit code.
    pub async fn verb(&self, args: &[&str]) -> Result<(Value, i32)> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_console"));
        command.args(["--kafka-bootstrap-servers", &self.servers, "--json", "--only-groups", &self.group]).args(args);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let text = String::from_utf8_lossy(&output.stdout);
        let json = serde_json::from_str(text.trim()).unwrap_or_else(|_| json!(text.trim()));
        Ok((json, output.status.code().context("it exits")?))
    }
}

/// A letter to be.
pub struct Buried {
    pub partition: i32,
    pub offset: i64,
    pub key: String,
    pub value: String,
    pub reason: String,
    pub message: String,
    pub redrive_count: Option<String>,
}

impl Buried {
    /// One of the first partition, of a provider that was away.
    pub fn of(offset: i64, key: &str, value: &str) -> Self {
        Self {
            partition: 0,
            offset,
            key: key.to_owned(),
            value: value.to_owned(),
            reason: "provider-away".to_owned(),
            message: "nobody answers".to_owned(),
            redrive_count: None,
        }
    }

    fn letter(&self) -> Letter<'_> {
        let count = self.redrive_count.as_ref().map(|count| (&b"dlq-redrive-count"[..], Some(count.as_bytes())));
        Letter {
            partition: self.partition,
            offset: self.offset,
            timestamp_ms: Some(1),
            key: Some(self.key.as_bytes()),
            value: Some(self.value.as_bytes()),
            headers: [(&b"own"[..], Some(&b"1"[..]))].into_iter().chain(count).collect(),
            reason: &self.reason,
            message: &self.message,
        }
    }
}

/// A service that is broken until it is mended, and whoever asks it.
#[derive(Clone, Default)]
pub struct Mended {
    is_mended: Arc<AtomicBool>,
    refused: Arc<AtomicU32>,
    handled: Arc<Mutex<Vec<String>>>,
}

impl Mended {
    pub fn mend(&self, is_mended: bool) {
        self.is_mended.store(is_mended, Ordering::SeqCst);
    }

    /// How often it was asked in vain.
    pub fn refused(&self) -> u32 {
        self.refused.load(Ordering::SeqCst)
    }

    /// Values, in the order in which they were handled.
    pub fn handled(&self) -> Vec<String> {
        self.handled.lock().expect("no panic holds it").clone()
    }
}

/// Refuses values in which `bad` stands, until it is mended.
impl RecordHandler for Mended {
    async fn handle(&self, record: &Record) -> Result<(), HandleError> {
        let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
        if value.contains("bad") && !self.is_mended.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(HandleError::new("provider-away", format!("nobody takes {value}")));
        }
        self.handled.lock().expect("no panic holds it").push(value);
        Ok(())
    }
}

struct Refusing(&'static str);

impl RecordHandler for Refusing {
    async fn handle(&self, record: &Record) -> Result<(), HandleError> {
        let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
        match value.contains(self.0) {
            true => Err(HandleError::never_retried("refused", format!("cannot use {value}"))),
            false => Ok(()),
        }
    }
}

/// A consumer that runs.
pub struct Member {
    stop: CancellationToken,
    task: JoinHandle<Result<(), ConsumerError>>,
}

impl Member {
    pub async fn stop(self) -> Result<()> {
        self.stop.cancel();
        Ok(self.task.await??)
    }
}

/// A console that runs; killed when it is dropped.
pub struct Console {
    child: Child,
    pub url: String,
    pub http: Client,
}

impl Console {
    pub async fn start(servers: &str, args: &[&str]) -> Result<Self> {
        let (port, admin) = (devstack::free_port()?, devstack::free_port()?);
        let mut command = Command::new(env!("CARGO_BIN_EXE_console"));
        command.args(["--kafka-bootstrap-servers", servers, "--survey-interval", "200ms", "--rust-log", "warn"]);
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--admin-listen", &format!("127.0.0.1:{admin}")]);
        let child = command.args(args).stdin(Stdio::null()).spawn().context("console")?;
        let console = Self { child, url: format!("http://127.0.0.1:{port}"), http: Client::new() };
        let ready = format!("http://127.0.0.1:{admin}/readyz");
        let is_ready = async || console.http.get(&ready).send().await.is_ok_and(|it| it.status() == 200).then_some(());
        eventually("the console is ready", DEADLINE, is_ready).await?;
        Ok(console)
    }

    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status == StatusCode::OK, "{path}: {status} {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Sends as the page's script does.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Response> {
        let asked = self.http.post(format!("{}{path}", self.url)).header("x-console", "1").json(body);
        Ok(asked.send().await?)
    }

    /// As `post`, and gives status and body.
    pub async fn post_json(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        let answer = self.post(path, body).await?;
        let (status, text) = (answer.status().as_u16(), answer.text().await?);
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
    }

    /// Waits until something in an answer is as it should be.
    pub async fn until<T>(&self, what: &str, path: &str, holds: impl Fn(&Value) -> Option<T>) -> Result<T> {
        let mut last = Value::Null;
        let seen = async || {
            last = self.get(path).await.ok()?;
            holds(&last)
        };
        eventually(what, DEADLINE, seen).await.with_context(|| format!("{last:#}"))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_committed(mut config: ClientConfig, topic: &str) -> Result<Vec<OwnedMessage>> {
    config.set("group.id", "a-reader").set("enable.partition.eof", "true").set("enable.auto.commit", "false");
    config.set("isolation.level", "read_committed").set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = config.create()?;
    let metadata = consumer.fetch_metadata(Some(topic), DEADLINE)?;
    let partitions = metadata.topics()[0].partitions().len();
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, i32::try_from(partitions)? - 1);
    list.set_all_offsets(Offset::Beginning)?;
    consumer.assign(&list)?;
    let (mut messages, mut ends) = (Vec::new(), HashMap::new());
    while ends.len() < partitions {
        match consumer.poll(DEADLINE).context("the topic's end")? {
            Ok(message) => messages.push(message.detach()),
            Err(KafkaError::PartitionEOF(partition)) => drop(ends.insert(partition, ())),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(messages)
}

pub fn text(message: &OwnedMessage) -> String {
    String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned()
}
