//! Debezium's JDBC sink, tuned: what a user would take instead of the writer.
//!
//! Its table has a primary key for site → apps and a GIN index for app → sites, so that it answers both look-ups; it holds
//! the columns that they need and no others, and leaves room for updates in place as the view's table does. Deletes, upserts and the newest row of a batch are its own features, all
//! on. The worker is warm: it has drained the topic once before anything is timed.

use std::collections::BTreeMap;
use std::pin::pin;

use anyhow::{Context, Result, ensure};
use devstack::jdbc_sink::CONNECTOR_CLASS;
use futures_util::TryStreamExt;
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::{Drain, Progress};
use crate::compare::Differences;
use crate::database::Database;
use crate::dataset::{Site, Table, installed_apps, site_id};
use crate::topic::Topic;

const TABLE: &str = "create table meta_site (site_id uuid primary key, version bigint, installed_apps jsonb) \
    with (fillfactor = 85); \
    create index meta_site_apps on meta_site using gin (installed_apps jsonb_path_ops)";
const ROWS: &str = "select site_id::text, version, installed_apps::text from meta_site";
const LAST: &str = "select count(*) from unnest($1::text[], $2::int8[]) as last (site_id, version) \
    join meta_site on meta_site.site_id = last.site_id::uuid and meta_site.version >= last.version";
/// One per two partitions; more of them than cores gain nothing.
const TASKS: u32 = 2;
/// Records of a batch, and of the poll that feeds it.
const BATCH_RECORDS: u32 = 2000;
/// A poll of 2,000 records with schema is 12 MB; the default of 1 MiB a partition would make batches of some hundred.
const FETCH_BYTES: u32 = 16 << 20;

/// A connector on its way through a topic.
pub struct JdbcSinkDrain {
    worker_url: String,
    pid: i32,
    connector: String,
    client: Client,
    last_ids: Vec<String>,
    last_versions: Vec<i64>,
}

impl JdbcSinkDrain {
    /// Makes the table and starts the connector `name` on a running worker.
    pub async fn start(
        (worker_url, pid): (&str, i32),
        name: &str,
        database: &Database,
        topic: &Topic,
        table: &Table,
    ) -> Result<Self> {
        let client = database.client().await?;
        client.batch_execute(TABLE).await?;
        let body = json!({"name": name, "config": connector(&database.url, &topic.name)?});
        let answer = reqwest::Client::new().post(format!("{worker_url}/connectors")).json(&body).send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "the connector was refused: {status} {text}");
        Ok(Self {
            worker_url: worker_url.to_owned(),
            pid,
            connector: name.to_owned(),
            client,
            last_ids: table.last_sites().map(|site| site_id(site.number)).collect(),
            last_versions: table.last_sites().map(|site| site.version).collect(),
        })
    }

    fn url(&self) -> String {
        format!("{}/connectors/{}", self.worker_url, self.connector)
    }

    async fn status(&self) -> Result<Value> {
        Ok(reqwest::get(format!("{}/status", self.url())).await?.json().await?)
    }
}

/// The connector's settings, passwords included.
fn connector(database_url: &str, topic: &str) -> Result<Value> {
    let database: tokio_postgres::Config = database_url.parse()?;
    let port = database.get_ports().first().context("the URL has a port")?;
    let name = database.get_dbname().context("the URL names a database")?;
    let mut settings = settings();
    for (key, value) in [
        ("topics", topic.to_owned()),
        ("connection.url", format!("jdbc:postgresql://127.0.0.1:{port}/{name}")),
        ("connection.username", database.get_user().context("the URL names a user")?.to_owned()),
        ("connection.password", String::from_utf8_lossy(database.get_password().unwrap_or_default()).into_owned()),
    ] {
        settings[key] = value.into();
    }
    Ok(settings)
}

/// The tuning: what decides the speed, without addresses.
pub fn settings() -> Value {
    json!({
        "connector.class": CONNECTOR_CLASS,
        "tasks.max": TASKS.to_string(),
        "collection.name.format": "meta_site",
        "insert.mode": "upsert",
        "delete.enabled": "true",
        "primary.key.mode": "record_key",
        "schema.evolution": "none",
        "field.include.list": "site_id,version,installed_apps",
        "batch.size": BATCH_RECORDS.to_string(),
        "use.reduction.buffer": "true",
        "dialect.postgres.unnest.insert.enabled": "true",
        "consumer.override.max.poll.records": BATCH_RECORDS.to_string(),
        "consumer.override.max.partition.fetch.bytes": FETCH_BYTES.to_string(),
        "consumer.override.fetch.max.bytes": (2 * FETCH_BYTES).to_string(),
        "key.converter": "org.apache.kafka.connect.json.JsonConverter",
        "key.converter.schemas.enable": "true",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "true",
    })
}

impl Drain for JdbcSinkDrain {
    const NAME: &'static str = "jdbc-sink";

    fn pid(&self) -> Option<i32> {
        Some(self.pid)
    }

    async fn begun(&self) -> Result<Option<u64>> {
        // The snapshot comes first, one row per event, so that the rows seen first are the events stored first.
        let rows: i64 = self.client.query_one("select count(*) from meta_site", &[]).await?.get(0);
        Ok(u64::try_from(rows).ok().filter(|rows| *rows > 0))
    }

    async fn progress(&self) -> Result<Progress> {
        let there: i64 = self.client.query_one(LAST, &[&self.last_ids, &self.last_versions]).await?.get(0);
        Ok(if there == self.last_ids.len() as i64 { Progress::Done } else { Progress::Running(None) })
    }

    async fn differences(&self, table: &Table) -> Result<Vec<String>> {
        let mut found = Differences::default();
        let mut expected: BTreeMap<String, &Site> =
            table.sites.iter().map(|site| (site_id(site.number), site)).collect();
        let mut rows = pin!(self.client.query_raw(ROWS, Vec::<i64>::new()).await?);
        while let Some(row) = rows.try_next().await? {
            let (site, version): (String, i64) = (row.get(0), row.get(1));
            let apps: Value = serde_json::from_str(row.get(2))?;
            match expected.remove(&site) {
                None => found.note(format!("site {site} is not in the table")),
                Some(wanted) if version != wanted.version || apps != installed_apps(wanted) => {
                    found.note(format!("site {site} is {version} {apps}, expected {wanted:?}"));
                }
                Some(_) => {}
            }
        }
        expected.keys().for_each(|site| found.note(format!("site {site} is missing")));
        Ok(found.into_lines())
    }

    async fn failure(&self) -> Option<String> {
        let status = self.status().await.ok()?;
        let states = [&status["connector"]].into_iter().chain(status["tasks"].as_array().into_iter().flatten());
        let failed = states.into_iter().find(|state| state["state"] == "FAILED")?;
        Some(format!("the JDBC sink failed: {}", failed["trace"].as_str().unwrap_or("no trace")))
    }

    async fn stop(self) -> Result<()> {
        reqwest::Client::new().delete(self.url()).send().await?.error_for_status()?;
        Ok(())
    }
}
