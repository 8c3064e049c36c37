//! One test's own topics on the shared broker, a process of jobs that can be killed, and what the log holds.

use std::{
    collections::HashMap,
    io::Write as _,
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use devstack::{Part, eventually};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaError,
};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;
use shared::{
    config::Secret,
    import::{ChannelId, ChannelSecret, JOBS_TOPIC, JobRecord, PROGRESS_COMMANDS_TOPIC},
};
use tempfile::TempDir;

pub const DEADLINE: Duration = Duration::from_secs(120);
const SECRET: &str = "a secret for tests, which is long enough";

/// Jobs in their order, and commands with their keys.
pub type Log = (Vec<JobRecord>, Vec<(String, Value)>);

/// The first answer that is no 503: on a busy machine the log may take longer than a request waits for it.
pub async fn answered(request: impl Fn() -> RequestBuilder) -> Result<Response> {
    let one = async || match request().send().await {
        Ok(answer) if answer.status() == 503 => None,
        sent => Some(sent),
    };
    Ok(eventually("jobs answers", DEADLINE, one).await??)
}

/// Topics and spool of one test, and the process that works them.
pub struct Stage {
    servers: String,
    prefix: String,
    files: TempDir,
    port: u16,
    admin: u16,
    child: Child,
    pub http: Client,
    pub channel: ChannelId,
}

impl Stage {
    pub async fn start(more: &[&str]) -> Result<Self> {
        let endpoints = tokio::task::spawn_blocking(|| devstack::shared(&[Part::Kafka])).await??;
        let servers = endpoints.kafka.context("a broker")?;
        let prefix = format!("{}.", uuid::Uuid::now_v7().simple());
        let (files, port, admin) = (tempfile::tempdir()?, devstack::free_port()?, devstack::free_port()?);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let channel = secret()?.make(*uuid::Uuid::now_v7().as_bytes(), now + 3600);
        let child = spawn(&servers, &prefix, &files, (port, admin), more)?;
        let stage = Self { servers, prefix, files, port, admin, child, http: Client::new(), channel };
        stage.ready().await?;
        Ok(stage)
    }

    async fn ready(&self) -> Result<()> {
        let url = format!("http://127.0.0.1:{}/readyz", self.admin);
        let is_ready = async || self.http.get(&url).send().await.is_ok_and(|it| it.status() == 200).then_some(());
        eventually("jobs is ready", DEADLINE, is_ready).await
    }

    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// A new process on the same topics and spool.
    pub async fn start_again(&mut self) -> Result<()> {
        self.child = spawn(&self.servers, &self.prefix, &self.files, (self.port, self.admin), &[])?;
        self.ready().await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// An upload that is only to be sent.
    pub fn upload(&self, more: &str) -> RequestBuilder {
        let channel = self.channel.as_str();
        self.http.post(self.url(&format!("/v1/imports?channel_id={channel}&owner_id=ada{more}")))
    }

    /// A connection on which an upload has begun that says to have so many bytes and sends these.
    pub fn begin_upload(&self, bytes: usize, sent: &str) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        let channel = self.channel.as_str();
        write!(
            stream,
            "POST /v1/imports?channel_id={channel}&owner_id=ada HTTP/1.1\r\nhost: localhost\r\ncontent-length: {bytes}\r\n\r\n{sent}"
        )?;
        Ok(stream)
    }

    /// The most memory that the process has had resident.
    pub fn peak_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
        Ok(peak.context("a peak")?.parse()?)
    }

    /// Files in the spool.
    pub fn spooled(&self) -> Result<usize> {
        let names = std::fs::read_dir(self.files.path())?.map(|entry| Ok(entry?.file_name()));
        let names: Vec<_> = names.collect::<Result<_>>()?;
        Ok(names.iter().filter(|name| name.to_string_lossy().ends_with(".csv")).count())
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        let answer = answered(|| self.http.get(self.url(path))).await?;
        ensure!(answer.status() == 200, "{path}: {}", answer.status());
        Ok(answer.json().await?)
    }

    /// What is committed, once it is so many jobs and commands, or more: a commit is answered before its readers see it.
    pub async fn log(&self, jobs: usize, commands: usize) -> Result<Log> {
        let is_there =
            async || self.committed().await.ok().filter(|log| log.0.len() >= jobs && log.1.len() >= commands);
        eventually(&format!("the log has {jobs} jobs and {commands} commands"), DEADLINE, is_there).await
    }

    async fn committed(&self) -> Result<Log> {
        let (servers, prefix) = (self.servers.clone(), self.prefix.clone());
        let read = move || -> Result<_> {
            let text = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes);
            let jobs = committed(&servers, &format!("{prefix}{JOBS_TOPIC}"))?;
            let mut jobs: Vec<JobRecord> =
                jobs.iter().map(|(_, value)| serde_json::from_slice(value)).collect::<Result<_, _>>()?;
            jobs.sort_by_key(|job| (job.import_id, job.job));
            let commands = committed(&servers, &format!("{prefix}{PROGRESS_COMMANDS_TOPIC}"))?;
            let commands = commands.into_iter().map(|(key, value)| Ok((key, text(&value)?)));
            Ok((jobs, commands.collect::<Result<_>>()?))
        };
        tokio::task::spawn_blocking(read).await?
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn secret() -> Result<ChannelSecret> {
    Ok(ChannelSecret::new(&Secret::from(SECRET.to_owned()))?)
}

fn spawn(servers: &str, prefix: &str, files: &TempDir, ports: (u16, u16), more: &[&str]) -> Result<Child> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jobs"));
    command.args([
        "--kafka-bootstrap-servers",
        servers,
        "--topic-prefix",
        prefix,
        "--channel-secret",
        SECRET,
        "--rust-log",
        "warn",
    ]);
    command.args(["--listen", &format!("127.0.0.1:{}", ports.0), "--admin-listen", &format!("127.0.0.1:{}", ports.1)]);
    command.args(["--topic-partitions", "2", "--topic-replicas", "1"]).arg("--spool").arg(files.path());
    command.args(more).stdin(Stdio::null()).spawn().context("jobs")
}

/// Keys and values of a topic to its end, as readers of committed records see them.
fn committed(servers: &str, topic: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("group.id", "a-reader").set("enable.partition.eof", "true");
    config.set("isolation.level", "read_committed").set("enable.auto.commit", "false").set("log_level", "0");
    let consumer: BaseConsumer = config.create()?;
    let metadata = consumer.fetch_metadata(Some(topic), DEADLINE)?;
    let partitions = metadata.topics()[0].partitions().len();
    ensure!(partitions > 0, "{topic} is not there");
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, i32::try_from(partitions)? - 1);
    list.set_all_offsets(Offset::Beginning)?;
    consumer.assign(&list)?;
    let (mut records, mut ends, until) = (Vec::new(), HashMap::new(), Instant::now() + DEADLINE);
    while ends.len() < partitions {
        ensure!(Instant::now() < until, "{topic} is not read to its end");
        match consumer.poll(DEADLINE).context("the topic's end")? {
            Ok(message) => {
                let bytes = |bytes: Option<&[u8]>| bytes.unwrap_or_default().to_vec();
                records.push((String::from_utf8(bytes(message.key()))?, bytes(message.payload())));
            }
            Err(KafkaError::PartitionEOF(partition)) => drop(ends.insert(partition, ())),
            Err(error) if consumer.client().fatal_error().is_some() => return Err(error.into()),
            // A connection that comes and goes.
            Err(_) => {}
        }
    }
    Ok(records)
}
