//! What the examples stand on: a broker, topics, further processes of the same example that can be killed, and what a topic
//! holds in the end.

#![allow(dead_code, missing_docs)] // Each example uses a part of it.
#![allow(clippy::print_stdout)] // A person reads what an example says.

use std::{
    collections::HashMap,
    fs::File,
    io::{Read as _, Write as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use devstack::{Part, eventually};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use tokio_util::sync::CancellationToken;

/// How long the broker may take for one answer; the machine may be busy.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// A real broker.
#[derive(Clone)]
pub struct Broker {
    pub address: String,
}

/// A record of a topic, read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub partition: i32,
    pub offset: i64,
    pub key: String,
    pub value: Option<String>,
}

impl Broker {
    /// The one at this address, or one that is started and stops with this process.
    pub fn at(address: Option<String>) -> Result<Self> {
        let address = match address {
            Some(address) => address,
            None => devstack::shared(&[Part::Kafka])?.kafka.context("a broker")?,
        };
        Ok(Self { address })
    }

    /// Settings of clients. A member that is killed is missed soon.
    pub fn settings(&self) -> HashMap<String, String> {
        let settings = [
            ("bootstrap.servers", self.address.as_str()),
            ("session.timeout.ms", "3000"),
            ("heartbeat.interval.ms", "500"),
            ("log_level", "2"),
        ];
        settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    }

    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address).set("log_level", "0").set("group.id", "stage");
        config
    }

    pub fn admin(&self) -> Result<AdminClient<DefaultClientContext>> {
        Ok(self.client().create()?)
    }

    /// Creates a topic.
    pub async fn create(&self, name: &str, partitions: i32, config: &[(&str, &str)]) -> Result<()> {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let topic = config.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
        let options = AdminOptions::new().operation_timeout(Some(ANSWER_MAX));
        for created in self.admin()?.create_topics([&topic], &options).await? {
            created.map_err(|(name, code)| anyhow!("topic {name}: {code}"))?;
        }
        devstack::topic_is_known(&self.address, name, partitions).await
    }

    /// Writes records; returns when the broker has them all.
    pub fn produce(&self, topic: &str, records: impl IntoIterator<Item = (String, Option<String>)>) -> Result<()> {
        let producer: BaseProducer = self.client().set("enable.idempotence", "true").create()?;
        for (key, value) in records {
            let mut record: BaseRecord<'_, str, str> = BaseRecord::to(topic).key(&key);
            record.payload = value.as_deref();
            while let Err((error, refused)) = producer.send(record) {
                ensure!(error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull), "produce: {error}");
                producer.poll(Duration::from_millis(5));
                record = refused;
            }
        }
        Ok(producer.flush(ANSWER_MAX)?)
    }

    /// Every committed record of a topic, partition by partition, in order.
    pub fn read(&self, topic: &str) -> Result<Vec<Stored>> {
        let mut config = self.client();
        config.set("isolation.level", "read_committed").set("enable.partition.eof", "true");
        let consumer: BaseConsumer = config.create()?;
        let mut open = self.partitions(topic)?;
        let mut list = TopicPartitionList::new();
        for partition in 0..open {
            list.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        let mut records = Vec::new();
        while open > 0 {
            match consumer.poll(ANSWER_MAX).with_context(|| format!("{topic} is not read to its end"))? {
                Ok(message) => records.push(stored(&message)),
                Err(KafkaError::PartitionEOF(_)) => open -= 1,
                Err(error) => return Err(error.into()),
            }
        }
        records.sort_by_key(|record| (record.partition, record.offset));
        Ok(records)
    }

    pub fn partitions(&self, topic: &str) -> Result<i32> {
        let consumer: BaseConsumer = self.client().create()?;
        let metadata = consumer.fetch_metadata(Some(topic), ANSWER_MAX)?;
        Ok(i32::try_from(metadata.topics().iter().map(|topic| topic.partitions().len()).sum::<usize>())?)
    }

    /// How many offsets of a topic a group has committed, of how many there are.
    pub fn consumed(&self, topic: &str, group: &str) -> Result<(i64, i64)> {
        let consumer: BaseConsumer = self.client().set("group.id", group).create()?;
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, self.partitions(topic)? - 1);
        let (mut consumed, mut all) = (0, 0);
        for element in consumer.committed_offsets(list, ANSWER_MAX)?.elements() {
            let (low, high) = consumer.fetch_watermarks(topic, element.partition(), ANSWER_MAX)?;
            consumed += element.offset().to_raw().filter(|offset| *offset > 0).unwrap_or(low) - low;
            all += high - low;
        }
        Ok((consumed, all))
    }
}

fn stored(message: &impl Message) -> Stored {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Stored {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(text).unwrap_or_default(),
        value: message.payload().map(text),
    }
}

/// A name for the topics and groups of one run.
pub fn tag() -> String {
    uuid::Uuid::now_v7().simple().to_string()[20..].to_owned()
}

/// Processes of this example, one per member, each started anew when it ends or is killed.
pub struct Crew {
    program: PathBuf,
    members: Vec<Member>,
    folder: PathBuf,
}

struct Member {
    arguments: Vec<String>,
    child: Child,
}

impl Crew {
    /// Starts one process per list of arguments. Their logs lie in a folder named like the run.
    pub fn start(run: &str, members: impl IntoIterator<Item = Vec<String>>) -> Result<Self> {
        let folder = devstack::target_dir()?.join("messaging-examples").join(run);
        std::fs::create_dir_all(&folder)?;
        let mut crew = Self { program: std::env::current_exe()?, members: Vec::new(), folder };
        for arguments in members {
            let child = crew.spawn(&arguments)?;
            crew.members.push(Member { arguments, child });
        }
        Ok(crew)
    }

    /// Kills one of them with SIGKILL, in whatever it is doing, and starts it anew.
    pub fn kill_any(&mut self) -> Result<()> {
        let number = rand::random_range(0..self.members.len());
        self.members[number].child.kill()?;
        self.members[number].child.wait()?;
        self.members[number].child = self.spawn(&self.members[number].arguments)?;
        Ok(())
    }

    /// Starts those anew that ended by themselves, as a supervisor does; gives how many.
    pub fn supervise(&mut self) -> Result<usize> {
        let mut ended = 0;
        for number in 0..self.members.len() {
            if self.members[number].child.try_wait()?.is_some() {
                self.members[number].child = self.spawn(&self.members[number].arguments)?;
                ended += 1;
            }
        }
        Ok(ended)
    }

    /// One more process joins.
    pub fn join(&mut self, arguments: Vec<String>) -> Result<()> {
        let child = self.spawn(&arguments)?;
        self.members.push(Member { arguments, child });
        Ok(())
    }

    /// The one that joined last finishes what it has in hand, leaves and ends.
    pub async fn leave(&mut self) -> Result<()> {
        let mut guest = self.members.pop().context("a process that has joined")?.child;
        guest.stdin.as_mut().context("its standard input")?.write_all(b"leave\n")?;
        let ended = async || guest.try_wait().transpose();
        let ended = eventually("a guest leaves", ANSWER_MAX * 2, ended).await;
        // Whatever it does: it does not outlive this run.
        let _ = guest.kill();
        let _ = guest.wait();
        let status = ended??;
        ensure!(status.success(), "a guest ended with {status}");
        Ok(())
    }

    /// Where the logs are.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    fn spawn(&self, arguments: &[String]) -> Result<Child> {
        let log = self.folder.join(format!("{}.log", arguments.join("-").replace(['/', ':'], "_")));
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(&self.program);
        // The pipe's end tells the child that this process is gone; see `member`.
        command.args(arguments).stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        command.spawn().with_context(|| self.program.display().to_string())
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.child.kill();
            let _ = member.child.wait();
        }
    }
}

/// For a member: logs to standard error, ends when the process that started it has ended, and gives what says when it is asked
/// to leave.
pub fn member() -> CancellationToken {
    tracing_subscriber::fmt().with_env_filter("info").with_writer(std::io::stderr).with_ansi(false).init();
    let asked = CancellationToken::new();
    let asks = asked.clone();
    std::thread::spawn(move || {
        if std::io::stdin().read(&mut [0; 16]).is_ok_and(|read| read > 0) {
            asks.cancel();
        }
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    asked
}
