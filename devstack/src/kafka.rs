//! One Kafka broker in KRaft mode: its properties, its storage, its readiness, its topics.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::RDKafkaErrorCode;

use crate::artefacts::{KAFKA, Set};
use crate::doctor::Tool;
use crate::failure::Failure;
use crate::options::{Detour, PortName, java};
use crate::place::{Place, remove};
use crate::process::Launch;
use crate::server::{Ready, Server};
use crate::wait::eventually;

const START_DEADLINE: Duration = Duration::from_secs(60);
/// The broker may be busy.
const KNOWN_DEADLINE: Duration = Duration::from_secs(30);
const FORMAT_DEADLINE: Duration = Duration::from_secs(60);
const STOP_GRACE: Duration = Duration::from_secs(10);
/// The broker needs 265 to 440 MB with this heap.
const HEAP: &str = "-Xmx512m";
/// Any well-formed id serves one broker alone: 16 bytes in base64.
const CLUSTER_ID: &str = "c2l0ZXZpZXctZGV2c3RhYw";

/// Formats an empty storage and starts the broker. Returns it with its address.
pub(crate) async fn start(place: &Place) -> Result<(Server, String)> {
    let (port, controller_port) = (place.ports.get(PortName::Kafka)?, crate::ports::free_port()?);
    let dir = place.fresh_dir("kafka")?;
    let properties = dir.join("server.properties");
    fs::write(&properties, server_properties(port, controller_port, place.kafka_detour, &dir.join("data")))?;
    format(place, &dir, &properties).await?;
    let launch = java_launch(place, "kafka", &[KAFKA], &dir, &[HEAP])?.args(["kafka.Kafka"]).args([&properties]);
    let address = format!("127.0.0.1:{port}");
    let server = Server::new(launch, Ready::Kafka(address.clone()), START_DEADLINE, (Signal::SIGTERM, STOP_GRACE));
    server.start().await?;
    Ok((server, address))
}

/// Gives the broker a formatted storage. What the tool writes depends on the version alone, so its first output is kept in
/// the cache: that saves each later start a Java program of a second or two.
async fn format(place: &Place, dir: &Path, properties: &Path) -> Result<()> {
    let (data, kept) = (dir.join("data"), KAFKA.folder(&place.cache_dir).with_extension("storage"));
    if copy_files(&kept, &data).is_ok() {
        return Ok(());
    }
    remove(&data)?;
    // The tool runs so shortly that the first compiler is enough.
    java_launch(place, "kafka", &[KAFKA], dir, &["-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"])?
        .args(["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"])
        .args([properties])
        .run("formatting the storage", FORMAT_DEADLINE)
        .await?;
    let unfinished = kept.with_extension(format!("{}-{}.tmp", std::process::id(), rand::random::<u32>()));
    let keep = copy_files(&data, &unfinished).and_then(|()| fs::rename(&unfinished, &kept));
    if keep.is_err() {
        // Another devstack was first, or the cache is read-only: nothing is lost but time.
        let _ = remove(&unfinished);
    }
    Ok(())
}

fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    let entries = fs::read_dir(from)?;
    fs::create_dir(to)?;
    entries.flatten().try_for_each(|entry| fs::copy(entry.path(), to.join(entry.file_name())).map(drop))
}

/// A Java program with the jars of `sets` that logs to its standard output.
pub(crate) fn java_launch(place: &Place, name: &str, sets: &[Set], dir: &Path, flags: &[&str]) -> Result<Launch> {
    java_program(&place.cache_dir, &place.log(name), name, sets, dir, flags)
}

/// The same outside a devstack's folder.
pub(crate) fn java_program(
    cache_dir: &Path,
    log: &Path,
    name: &str,
    sets: &[Set],
    dir: &Path,
    flags: &[&str],
) -> Result<Launch> {
    let Some(java) = java() else {
        return Err(Tool::Java.missing(name).into());
    };
    let logging = dir.join("log4j2.properties");
    fs::write(&logging, LOG4J2).with_context(|| format!("{} can't be written", logging.display()))?;
    let class_path: Vec<_> = sets.iter().map(|set| set.folder(cache_dir).join("*")).collect();
    Ok(Launch::new(name, java, dir, log)
        .args(flags)
        .args([format!("-Dlog4j2.configurationFile={}", logging.display())])
        .args(["-cp".into(), std::env::join_paths(class_path)?]))
}

/// Replication factor 1 everywhere, few partitions for internal topics, no wait before a group's first rebalance, short
/// session timeouts allowed (tests freeze consumers; groups of KIP-848 have the broker's), and no topic by accident.
fn server_properties(port: u16, controller_port: u16, detour: Option<Detour>, data: &Path) -> String {
    let detour_on = |port: u16| format!(",DETOUR://127.0.0.1:{port}");
    let listened = detour.map(|detour| detour_on(detour.port)).unwrap_or_default();
    let advertised = detour.map(|detour| detour_on(detour.advertised_port)).unwrap_or_default();
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port}{listened},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{advertised}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,DETOUR:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
num.partitions=1
default.replication.factor=1
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=100
group.consumer.session.timeout.ms=4000
group.consumer.heartbeat.interval.ms=500
message.max.bytes={MESSAGE_BYTES_MAX}
replica.fetch.max.bytes={MESSAGE_BYTES_MAX}
log.cleaner.dedupe.buffer.size=16777216
log.cleaner.backoff.ms=1000
log.retention.hours=-1
",
        data = data.display()
    )
}

/// Large enough for the 64 MB value that the writer has to refuse by itself.
pub(crate) const MESSAGE_BYTES_MAX: usize = 68 * 1024 * 1024;

const LOG4J2: &str = "status = warn
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
rootLogger.level = info
rootLogger.appenderRef.out.ref = out
";

/// Whether the broker serves: its port is open and it names itself as a member of the cluster.
pub(crate) async fn answers(address: &str) -> bool {
    let Ok(socket) = address.parse::<SocketAddr>() else {
        return false;
    };
    if tokio::net::TcpStream::connect(socket).await.is_err() {
        return false;
    }
    let client = client(address);
    let brokers = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = client.create().ok()?;
        Some(!consumer.fetch_metadata(None, Duration::from_secs(2)).ok()?.brokers().is_empty())
    });
    brokers.await.ok().flatten().unwrap_or(false)
}

/// A client configuration that is silent: whoever uses it says what went wrong.
pub(crate) fn client(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address).set("log_level", "0").set("reconnect.backoff.max.ms", "200");
    config
}

/// Waits until the broker knows of a topic: it may do so a moment later than it says that it made it.
pub async fn topic_is_known(address: &str, name: &str, partitions: i32) -> Result<()> {
    let consumer: BaseConsumer = client(address).set("allow.auto.create.topics", "false").create()?;
    let (consumer, partitions) = (Arc::new(consumer), usize::try_from(partitions)?);
    let is_known = async || {
        let (consumer, name) = (Arc::clone(&consumer), name.to_owned());
        let looked_at = move || {
            let metadata = consumer.fetch_metadata(Some(&name), KNOWN_DEADLINE).ok()?;
            let found = metadata.topics().first()?;
            (found.error().is_none() && found.partitions().len() == partitions).then_some(())
        };
        tokio::task::spawn_blocking(looked_at).await.ok()?
    };
    eventually(&format!("the broker knows of topic {name}"), KNOWN_DEADLINE, is_known).await
}

/// Makes a topic; one that exists already is fine.
pub(crate) async fn create_topic(place: &Place, address: &str, name: &str, partitions: i32) -> Result<()> {
    let failure = |error: anyhow::Error| {
        Failure::new("kafka", format!("topic {name} can't be made: {error:#}")).log(&place.log("kafka")).into()
    };
    ask_for_topic(address, name, partitions).await.map_err(failure)
}

async fn ask_for_topic(address: &str, name: &str, partitions: i32) -> Result<()> {
    let admin: AdminClient<_> = client(address).create()?;
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
    match admin.create_topics([&topic], &options).await?.pop() {
        Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
        Some(Err((_, code))) => bail!("{code}"),
        None => bail!("no answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    #[tokio::test]
    async fn a_topic_that_is_not_made_is_an_error_that_names_the_brokers_log() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::take(&Options::new([], dir.path()).unwrap()).unwrap();
        fs::write(place.log("kafka"), "the broker's last words").unwrap();
        // The client itself refuses so many partitions: nobody has to listen.
        let text = create_topic(&place, "127.0.0.1:1", "sites", -2).await.unwrap_err().to_string();
        assert!(text.starts_with("kafka: topic sites can't be made: "), "{text}");
        assert!(text.contains(&place.log("kafka").display().to_string()) && text.contains("last words"), "{text}");
    }
}
