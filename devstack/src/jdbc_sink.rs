//! Kafka Connect with Debezium's JDBC sink: what a user would take instead of the writer, for benchmarks beside it.
//!
//! A worker of its own, so that its process does nothing but sink. It is tuned to be quick, not to be small: heap for large
//! batches, the collector with the best throughput on few cores, fetches that fill a batch of 2,000 large records, and
//! connectors may override what the consumer does.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::artefacts::{self, CONNECT, JDBC_SINK};
use crate::kafka::java_program;
use crate::place::remove;
use crate::ports::free_port;
use crate::progress::Progress;
use crate::server::{Ready, Server};

/// The connector's class.
pub const CONNECTOR_CLASS: &str = "io.debezium.connector.jdbc.JdbcSinkConnector";
/// The connector's version, as pinned in `artefacts/jdbc-sink.pom.xml`.
pub const VERSION: &str = "3.5.0.Final";
/// Flags of the worker's Java.
pub const JAVA_FLAGS: [&str; 3] = ["-Xms1g", "-Xmx1g", "-XX:+UseParallelGC"];

const START_DEADLINE: Duration = Duration::from_secs(120);
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Starts a worker on a broker, without a connector; all it writes goes below `dir`. Returns it with its REST address.
pub async fn start(kafka: &str, dir: &Path, cache_dir: &Path, progress: &Progress) -> Result<(Server, String)> {
    artefacts::ensure(&[CONNECT, JDBC_SINK], cache_dir, progress).await?;
    remove(dir).and_then(|()| fs::create_dir_all(dir)).with_context(|| format!("{} can't be made", dir.display()))?;
    // Connect takes every entry of this folder as a plugin.
    let plugins = dir.join("plugins");
    fs::create_dir(&plugins)?;
    symlink(JDBC_SINK.folder(cache_dir), plugins.join("jdbc-sink"))?;
    let (url, properties) = (format!("http://127.0.0.1:{}", free_port()?), dir.join("worker.properties"));
    fs::write(&properties, worker_properties(kafka, &url, dir, &plugins))?;
    let log = dir.join("jdbc-sink.log");
    let launch = java_program(cache_dir, &log, "jdbc-sink", &[CONNECT], dir, &JAVA_FLAGS)?
        .args(["org.apache.kafka.connect.cli.ConnectStandalone"])
        .args([&properties]);
    let ready = Ready::Http(format!("{url}/connectors"));
    let server = Server::new(launch, ready, START_DEADLINE, (Signal::SIGTERM, STOP_GRACE));
    server.start().await?;
    Ok((server, url))
}

fn worker_properties(kafka: &str, url: &str, dir: &Path, plugins: &Path) -> String {
    format!(
        "bootstrap.servers={kafka}
listeners={url}
plugin.path={plugins}
plugin.discovery=service_load
key.converter=org.apache.kafka.connect.json.JsonConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
offset.storage.file.filename={offsets}
connector.client.config.override.policy=All
",
        plugins = plugins.display(),
        offsets = dir.join("offsets").display()
    )
}
