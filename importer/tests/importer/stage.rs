//! One test's own topics and database, importers as processes of their own, and what jobs would have written.

use std::{collections::BTreeMap, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use devstack::{Part, eventually};
use rdkafka::{
    ClientConfig, Message as _,
    message::OwnedMessage,
    producer::{FutureProducer, FutureRecord},
};
use serde_json::Value;
use shared::import::{Columns, ImportId, JobRecord, Mode, Notification, ProgressCommand, Row};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tempfile::TempDir;

use crate::{
    log::{is_committed, read},
    process::Importer,
};

pub const DEADLINE: Duration = Duration::from_secs(120);
const GROUP: &str = "siteview.importer";

pub struct Stage {
    servers: String,
    pub prefix: String,
    database_url: String,
    producer: FutureProducer,
    files: TempDir,
}

/// Name and phone by address.
pub type Contacts = BTreeMap<String, (Option<String>, Option<String>)>;

impl Stage {
    pub async fn new() -> Result<Self> {
        let endpoints = tokio::task::spawn_blocking(|| devstack::shared(&[Part::Kafka, Part::Postgres])).await??;
        let servers = endpoints.kafka.context("a broker")?;
        let primary = endpoints.view_primary_url.context("a database server")?;
        let tag = uuid::Uuid::now_v7().simple().to_string();
        let database = format!("import_{tag}");
        let (server, _) = primary.rsplit_once('/').context("a URL names a database")?;
        let create = AssertSqlSafe(format!("create database {database}"));
        PgConnection::connect(&primary).await?.execute(create).await?;
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &servers).set("log_level", "0");
        let producer = client.set("enable.idempotence", "true").create()?;
        let files = tempfile::tempdir()?;
        // A member that is killed is missed soon.
        std::fs::write(files.path().join("kafka.properties"), "session.timeout.ms=6000\nheartbeat.interval.ms=500\n")?;
        Ok(Self { servers, prefix: format!("{tag}."), database_url: format!("{server}/{database}"), producer, files })
    }

    /// With tables.
    pub async fn migrated() -> Result<Self> {
        let stage = Self::new().await?;
        ensure!(stage.migrate()? == serde_json::json!({"applied": ["import/0001_import"]}));
        Ok(stage)
    }

    pub fn migrate(&self) -> Result<Value> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_importer"));
        let output = command.args(["migrate", "--json", "--database-url", &self.database_url]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Starts one; it may take a while until it is ready.
    pub fn start(&self, member: &str) -> Result<Importer> {
        let admin = format!("127.0.0.1:{}", devstack::free_port()?);
        let mut command = Command::new(env!("CARGO_BIN_EXE_importer"));
        command.args(["--kafka-bootstrap-servers", &self.servers, "--database-url", &self.database_url]);
        command.args(["--topic-prefix", &self.prefix, "--group", &self.group(), "--topic-partitions", "3"]);
        command.args(["--member", member, "--admin-listen", &admin, "--rust-log", "warn"]);
        command.arg("--kafka-properties-file").arg(self.files.path().join("kafka.properties"));
        Importer::start(command, admin)
    }

    /// Starts one and waits until it works.
    pub async fn importer(&self, member: &str) -> Result<Importer> {
        let importer = self.start(member)?;
        let is_ready = async || importer.readiness().await.filter(|it| it["ready"] == true).map(drop);
        eventually("the importer is ready", DEADLINE, is_ready).await?;
        Ok(importer)
    }

    fn group(&self) -> String {
        format!("{}{GROUP}", self.prefix)
    }

    pub async fn produce(&self, topic: &str, key: &str, value: &[u8]) -> Result<()> {
        let topic = format!("{}{topic}", self.prefix);
        let sent = self.producer.send(FutureRecord::to(&topic).key(key).payload(value), DEADLINE).await;
        sent.map(drop).map_err(|(error, _)| error.into())
    }

    pub async fn command(&self, import_id: ImportId, command: &ProgressCommand) -> Result<()> {
        self.produce("import.progress.commands", &import_id.to_string(), &serde_json::to_vec(command)?).await
    }

    /// Opens an import as jobs does.
    pub async fn open(&self, import: &Import) -> Result<()> {
        let rows = import.jobs.iter().map(|job| job.rows.len() as u64).sum();
        let (channel_id, owner_id) = (import.channel_id.clone(), "owner".to_owned());
        let jobs = u32::try_from(import.jobs.len())?;
        self.command(import.id, &ProgressCommand::Open { channel_id, owner_id, jobs, rows, mode: import.mode }).await
    }

    pub async fn produce_job(&self, job: &JobRecord) -> Result<()> {
        self.produce("import.jobs", &job.key(), &serde_json::to_vec(job)?).await
    }

    /// Opens it and produces its jobs, each as often as said.
    pub async fn import(&self, import: &Import, times: usize) -> Result<()> {
        self.open(import).await?;
        for _ in 0..times {
            for job in &import.jobs {
                self.produce_job(job).await?;
            }
        }
        Ok(())
    }

    /// What the import's channel was told so far, in order.
    pub async fn told(&self, import: &Import) -> Result<Vec<Notification>> {
        let records = self.records("notifications").await?;
        let of_channel = records.iter().filter(|it| it.key() == Some(import.channel_id.as_bytes()));
        of_channel.map(|it| Ok(serde_json::from_slice(it.payload().unwrap_or_default())?)).collect()
    }

    /// Waits for the end of an import; gives all that was told.
    pub async fn ended(&self, import: &Import) -> Result<Vec<Notification>> {
        let ended = async || {
            let told = self.told(import).await.ok()?;
            told.last().is_some_and(|last| last.state.is_end()).then_some(told)
        };
        eventually("the import ends", DEADLINE, ended).await
    }

    /// Waits until every job that was produced is worked, and what was said of it is counted.
    pub async fn worked_off(&self) -> Result<()> {
        let group = self.group();
        for (topic, group) in
            [("import.jobs", group.clone()), ("import.progress.commands", format!("{group}-progress"))]
        {
            let topic = format!("{}{topic}", self.prefix);
            let is_committed = async || {
                let (servers, group, topic) = (self.servers.clone(), group.clone(), topic.clone());
                let asked = tokio::task::spawn_blocking(move || is_committed(&servers, &group, &topic)).await;
                asked.ok()?.ok()?.then_some(())
            };
            eventually(&format!("{topic} is worked off"), DEADLINE, is_committed).await?;
        }
        Ok(())
    }

    /// The committed records of a topic.
    pub async fn records(&self, topic: &str) -> Result<Vec<OwnedMessage>> {
        let (servers, topic) = (self.servers.clone(), format!("{}{topic}", self.prefix));
        tokio::task::spawn_blocking(move || read(&servers, &topic)).await?
    }

    /// The dead letters' topic, without the prefix.
    pub fn dead_letters(&self) -> String {
        format!("import.jobs-{}-dlq", self.group())
    }

    pub async fn database(&self) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.database_url).await?)
    }

    pub async fn contacts(&self) -> Result<Contacts> {
        let rows: Vec<(String, Option<String>, Option<String>)> =
            sqlx::query_as("select email, name, phone from contact where owner_id = 'owner'")
                .fetch_all(&mut self.database().await?)
                .await?;
        Ok(rows.into_iter().map(|(email, name, phone)| (email, (name, phone))).collect())
    }

    /// Line, column and code of what is wrong with an import's rows.
    pub async fn faults(&self, import: &Import) -> Result<Vec<(i64, String, String)>> {
        let faults =
            "select line, \"column\", code from import_row_error where import_id = $1::text::uuid order by 1, 2";
        let faults = sqlx::query_as(faults).bind(import.id.to_string());
        Ok(faults.fetch_all(&mut self.database().await?).await?)
    }

    /// What the ledger says became of an import's rows: imported, updated, skipped, failed.
    pub async fn ledger(&self, import: &Import) -> Result<[i64; 4]> {
        let ledger =
            "select sum(imported)::int8, sum(updated)::int8, sum(skipped)::int8, sum(failed)::int8 from import_job
            where import_id = $1::text::uuid";
        let ledger = sqlx::query_as(ledger).bind(import.id.to_string());
        let (imported, updated, skipped, failed) = ledger.fetch_one(&mut self.database().await?).await?;
        Ok([imported, updated, skipped, failed])
    }
}

/// An import as jobs would have cut it.
pub struct Import {
    pub id: ImportId,
    pub channel_id: String,
    mode: Mode,
    pub jobs: Vec<JobRecord>,
}

impl Import {
    /// Of rows of name, email and phone; the first is on line 2.
    pub fn new(rows: &[[&str; 3]], rows_per_job: usize, mode: Mode) -> Self {
        Self::with_columns(rows, rows_per_job, mode, Columns { email: 1, name: Some(0), phone: Some(2) })
    }

    pub fn with_columns(rows: &[[&str; 3]], rows_per_job: usize, mode: Mode, columns: Columns) -> Self {
        let (id, channel_id) = (ImportId::new(), format!("channel-{}", uuid::Uuid::now_v7()));
        let row = |(at, fields): (usize, &[&str; 3])| Row(at as u64 + 2, fields.map(ToOwned::to_owned).to_vec());
        let rows: Vec<Row> = rows.iter().enumerate().map(row).collect();
        let jobs = rows.chunks(rows_per_job).count() as u32;
        let job = |(number, rows): (usize, &[Row])| JobRecord {
            import_id: id,
            channel_id: channel_id.clone(),
            owner_id: "owner".to_owned(),
            job: number as u32,
            jobs,
            mode,
            first_line: rows[0].0,
            fields: 3,
            columns,
            rows: rows.to_vec(),
        };
        Self { id, mode, jobs: rows.chunks(rows_per_job).enumerate().map(job).collect(), channel_id }
    }
}
