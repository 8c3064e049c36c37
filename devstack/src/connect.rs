//! Kafka Connect with Debezium's connector on the source's MetaSite table.
//!
//! One standalone worker: it starts faster than a distributed one and needs no topics of its own.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::artefacts::{CONNECT, DEBEZIUM};
use crate::endpoints::Endpoints;
use crate::kafka::{MESSAGE_BYTES_MAX, create_topic, java_launch};
use crate::options::PortName;
use crate::place::Place;
use crate::postgres;
use crate::server::{Ready, Server};
use crate::wait::eventually;

/// The topic that Debezium writes for the MetaSite table.
pub const TOPIC: &str = "metasite.public.meta_site";
const TOPIC_PARTITIONS: i32 = 4;
const CONNECTOR: &str = "metasite";
const SLOT: &str = "metasite";
const START_DEADLINE: Duration = Duration::from_secs(120);
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Starts the worker and the connector and returns when the connector streams changes. Returns the REST address too.
pub(crate) async fn start(place: &Place, endpoints: &Endpoints) -> Result<(Server, String)> {
    let kafka = endpoints.kafka.as_deref().context("connect needs kafka")?;
    let source_url = endpoints.source_database_url.as_deref().context("connect needs source")?;
    // Made beforehand, so that the topic is there (and has its partitions) while the table is still empty.
    create_source_topic(place, kafka).await?;
    let url = format!("http://127.0.0.1:{}", place.ports.get(PortName::Connect)?);
    let server = worker(place, kafka, &url)?;
    server.start().await?;
    register(&url, source_url)
        .await
        .map_err(|error| server.failure(&format!("registering the connector: {error:#}")))?;
    let streams = async || {
        if server.ended().is_some() { Some(false) } else { streams(source_url).await.then_some(true) }
    };
    match eventually("the connector streams changes", START_DEADLINE, streams).await {
        Ok(true) => Ok((server, url)),
        Ok(false) => Err(server.failure("the worker ended before the connector streamed").into()),
        Err(late) => Err(server.failure(&format!("{late}; connector: {}", status(&url).await)).into()),
    }
}

/// Makes the topic of the MetaSite table unless it is there.
pub(crate) async fn create_source_topic(place: &Place, kafka: &str) -> Result<()> {
    create_topic(place, kafka, TOPIC, TOPIC_PARTITIONS).await
}

fn worker(place: &Place, kafka: &str, url: &str) -> Result<Server> {
    let dir = place.fresh_dir("connect")?;
    // Connect takes every entry of this folder as a plugin.
    let plugins = dir.join("plugins");
    fs::create_dir(&plugins)?;
    symlink(DEBEZIUM.folder(&place.cache_dir), plugins.join("debezium"))?;
    let properties = dir.join("worker.properties");
    let text = format!(
        "bootstrap.servers={kafka}
listeners={url}
plugin.path={plugins}
plugin.discovery=service_load
key.converter=org.apache.kafka.connect.json.JsonConverter
key.converter.schemas.enable=false
value.converter=org.apache.kafka.connect.json.JsonConverter
value.converter.schemas.enable=false
offset.storage.file.filename={offsets}
offset.flush.interval.ms=1000
producer.linger.ms=0
producer.max.request.size={MESSAGE_BYTES_MAX}
",
        plugins = plugins.display(),
        offsets = dir.join("offsets").display()
    );
    fs::write(&properties, text)?;
    let launch = java_launch(place, "connect", &[CONNECT], &dir, &["-Xmx768m"])?
        .args(["org.apache.kafka.connect.cli.ConnectStandalone"])
        .args([&properties]);
    let ready = Ready::Http(format!("{url}/connectors"));
    Ok(Server::new(launch, ready, START_DEADLINE, (Signal::SIGTERM, STOP_GRACE)))
}

async fn register(url: &str, source_url: &str) -> Result<()> {
    let body = json!({ "name": CONNECTOR, "config": connector(source_url)? });
    let answer = reqwest::Client::new().post(format!("{url}/connectors")).json(&body).send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    anyhow::ensure!(status.is_success(), "{status} {text}");
    Ok(())
}

/// The connector's configuration: plain envelopes, tombstones, truncates, a snapshot of what is there, heartbeats.
fn connector(source_url: &str) -> Result<Value> {
    let source: tokio_postgres::Config = source_url.parse()?;
    let (port, password) = (source.get_ports().first().context("port")?, source.get_password().unwrap_or_default());
    Ok(json!({
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "database.hostname": "127.0.0.1",
        "database.port": port.to_string(),
        "database.user": source.get_user().context("user")?,
        "database.password": String::from_utf8_lossy(password),
        "database.dbname": source.get_dbname().context("database")?,
        "plugin.name": "pgoutput",
        "slot.name": SLOT,
        "publication.name": "metasite",
        "publication.autocreate.mode": "filtered",
        "table.include.list": "public.meta_site,public.debezium_signal",
        "signal.data.collection": "public.debezium_signal",
        "topic.prefix": "metasite",
        "topic.creation.default.partitions": TOPIC_PARTITIONS.to_string(),
        "topic.creation.default.replication.factor": "1",
        "snapshot.mode": "initial",
        "skipped.operations": "none",
        "tombstones.on.delete": "true",
        "heartbeat.interval.ms": "4000",
        // The default of 500 ms would be most of the way from source to view.
        "poll.interval.ms": "50",
        "key.converter": "org.apache.kafka.connect.json.JsonConverter",
        "key.converter.schemas.enable": "false",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "false",
    }))
}

/// Whether the connector reads the source's log, so that the next change is seen at once.
async fn streams(source_url: &str) -> bool {
    let query = "select 1 from pg_stat_replication r join pg_replication_slots s on s.active_pid = r.pid \
                 where s.slot_name = $1 and r.state = 'streaming'";
    match postgres::client(source_url).await {
        Ok(client) => client.query_opt(query, &[&SLOT]).await.is_ok_and(|row| row.is_some()),
        Err(_) => false,
    }
}

async fn status(url: &str) -> String {
    let get = async { reqwest::get(format!("{url}/connectors/{CONNECTOR}/status")).await?.text().await };
    get.await.unwrap_or_else(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connector_is_told_where_the_source_is() {
        let connector = connector("postgres://postgres:secret@127.0.0.1:5433/metasite").unwrap();
        for (key, value) in
            [("database.port", "5433"), ("database.password", "secret"), ("database.dbname", "metasite")]
        {
            assert_eq!(connector[key], value);
        }
        let topic = format!("{}.{}", connector["topic.prefix"].as_str().unwrap(), "public.meta_site");
        assert_eq!(topic, TOPIC);
    }
}
