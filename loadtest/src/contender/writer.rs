//! The writer: the release binary on a migrated database, with default settings unless flags are given.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use devstack::Server;
use futures_util::TryStreamExt;
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::{Drain, Progress};
use crate::compare::{Differences, Digest};
use crate::config::WriterOptions;
use crate::database::Database;
use crate::dataset::{Table, document, members, site_id};
use crate::stack::Stack;
use crate::topic::Topic;

const POSITIONS: &str = "select coalesce(sum(next_offset), 0)::int8 from view_g1.position where topic = $1";
const DOCUMENTS: &str = "select site_id, document, version from view_g1.site_apps where deleted_at is null";
const MEMBERS: &str = "select app_id, site_id, instance_id from view_g1.app_site";
const COUNTS: &str = "select app_id, sum(sites)::int8 from view_g1.app_count group by app_id having sum(sites) <> 0";

/// A writer on its way through a topic.
pub struct WriterDrain {
    server: Server,
    client: Client,
    topic: String,
    events: i64,
}

/// What a writer is started with.
#[derive(Debug, Clone)]
pub struct WriterSetup {
    binary: PathBuf,
    log: PathBuf,
    flags: Vec<String>,
}

impl WriterSetup {
    /// The writer that was asked for, with its log in the stack's folder.
    pub fn new(stack: &Stack, options: &WriterOptions) -> Result<Self> {
        let binary = match &options.writer {
            Some(binary) => binary.clone(),
            None => devstack::bin_dir()?.join("writer"),
        };
        Ok(Self { binary, log: stack.folder.join("writer.log"), flags: options.writer_flags.clone() })
    }

    /// What results say of it.
    pub fn json(&self) -> Value {
        json!({"writer": self.binary, "writer_flags": self.flags})
    }
}

impl WriterDrain {
    /// Migrates the database and starts a writer on the topic, which holds this many events.
    pub async fn start(
        setup: &WriterSetup,
        kafka: &str,
        database: &Database,
        topic: &Topic,
        events: u64,
    ) -> Result<Self> {
        migrate(&setup.binary, &database.url)?;
        let admin = format!("127.0.0.1:{}", devstack::free_port()?);
        let env = [
            ("DATABASE_URL", database.url.as_str()),
            ("KAFKA_BOOTSTRAP_SERVERS", kafka),
            ("WRITER_TOPIC", &topic.name),
            ("WRITER_ADMIN_LISTEN", &admin),
        ];
        let flags: Vec<OsString> = setup.flags.iter().map(OsString::from).collect();
        let server =
            devstack::start_beside(&setup.binary, &flags, &env, &setup.log, &format!("http://{admin}/livez")).await?;
        let client = database.client().await?;
        Ok(Self { server, client, topic: topic.name.clone(), events: i64::try_from(events)? })
    }

    async fn stored(&self) -> Result<i64> {
        Ok(self.client.query_one(POSITIONS, &[&self.topic]).await?.get(0))
    }
}

/// `writer migrate`.
fn migrate(binary: &Path, database_url: &str) -> Result<()> {
    let way_out = || format!("{} can't be run\n  way out: cargo build --release --workspace", binary.display());
    let output =
        Command::new(binary).arg("migrate").env("DATABASE_URL", database_url).output().with_context(way_out)?;
    ensure!(output.status.success(), "`writer migrate` failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

impl Drain for WriterDrain {
    const NAME: &'static str = "writer";

    fn pid(&self) -> Option<i32> {
        self.server.pid()
    }

    async fn begun(&self) -> Result<Option<u64>> {
        Ok(u64::try_from(self.stored().await?).ok().filter(|stored| *stored > 0))
    }

    async fn progress(&self) -> Result<Progress> {
        let stored = self.stored().await?;
        Ok(if stored >= self.events { Progress::Done } else { Progress::Running(u64::try_from(stored).ok()) })
    }

    async fn differences(&self, table: &Table) -> Result<Vec<String>> {
        let mut found = Differences::default();
        documents(&self.client, table, &mut found).await?;
        memberships(&self.client, table, &mut found).await?;
        counts(&self.client, table, &mut found).await?;
        Ok(found.into_lines())
    }

    async fn failure(&self) -> Option<String> {
        let ended = self.server.pid().is_none();
        ended.then(|| format!("the writer ended by itself; its log: {}", self.server.log().display()))
    }

    async fn stop(self) -> Result<()> {
        self.server.stop();
        Ok(())
    }
}

async fn documents(client: &Client, table: &Table, found: &mut Differences) -> Result<()> {
    let mut expected: BTreeMap<String, &crate::dataset::Site> =
        table.sites.iter().map(|site| (site_id(site.number), site)).collect();
    let mut rows = pin!(client.query_raw(DOCUMENTS, Vec::<i64>::new()).await?);
    while let Some(row) = rows.try_next().await? {
        let (site, text, version): (String, String, Option<i64>) = (row.get(0), row.get(1), row.get(2));
        let Some(wanted) = expected.remove(&site) else {
            found.note(format!("site {site} is in the view and not in the table"));
            continue;
        };
        let served: Value = serde_json::from_str(&text)?;
        if served != document(wanted) || version != Some(wanted.apps_version) {
            found.note(format!("document of {site} is {text}, expected {}", document(wanted)));
        }
    }
    expected.keys().for_each(|site| found.note(format!("site {site} is missing")));
    Ok(())
}

async fn memberships(client: &Client, table: &Table, found: &mut Differences) -> Result<()> {
    let mut stored = Digest::default();
    let mut rows = pin!(client.query_raw(MEMBERS, Vec::<i64>::new()).await?);
    while let Some(row) = rows.try_next().await? {
        stored.add(&[row.get::<_, &str>(0), row.get(1), row.get(2)]);
    }
    let mut expected = Digest::default();
    for (app, site, instance) in table.sites.iter().flat_map(members) {
        expected.add(&[&app, &site, &instance]);
    }
    if stored != expected {
        found.note(format!("app_site has {stored}, expected {expected}"));
    }
    Ok(())
}

async fn counts(client: &Client, table: &Table, found: &mut Differences) -> Result<()> {
    let mut expected: BTreeMap<String, i64> = BTreeMap::new();
    for (app, _, _) in table.sites.iter().flat_map(members) {
        *expected.entry(app).or_default() += 1;
    }
    for row in client.query(COUNTS, &[]).await? {
        let (app, sites): (String, i64) = (row.get(0), row.get(1));
        let wanted = expected.remove(&app).unwrap_or_default();
        if sites != wanted {
            found.note(format!("app_count of {app} is {sites}, expected {wanted}"));
        }
    }
    expected.keys().for_each(|app| found.note(format!("app_count of {app} is missing")));
    Ok(())
}
