//! Clients that read without a pause and return the position of their last answer; and the changes that they read. None
//! of them may ever see a failed request, an older position or an older version.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use devstack::eventually;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::kafka::Topic;
use crate::model::{App, Site};
use crate::record::{Record, partition_of};
use crate::service::Service;
use crate::source::Source;
use crate::system::System;

/// Until a client must have noticed something; far beyond what it takes.
const NOTICED_MAX: Duration = Duration::from_secs(60);
const CLIENTS: usize = 4;
/// Sites whose version rises with every change and that are never deleted: what clients read.
const RISING: usize = 8;
/// Pause between two bundles of changes.
const PRODUCE_INTERVAL: Duration = Duration::from_millis(40);
const BUNDLE_RECORDS: usize = 12;

/// Reads and changes that go on until they are stopped.
#[derive(Debug)]
pub struct Live {
    shared: Arc<Shared>,
    tasks: JoinSet<Result<()>>,
}

#[derive(Debug)]
struct Shared {
    /// Readers; a client stays with its own.
    urls: Vec<String>,
    /// Seconds that a client waits for its position; `None`: it must be there.
    wait: Option<u32>,
    over: AtomicBool,
    answers: AtomicU32,
    slowest_micros: AtomicU32,
    /// The generation of each client's last answer.
    generations: [AtomicI32; CLIENTS],
    records: Mutex<Vec<Record>>,
}

/// The first records of the rising sites, to be in the view before clients ask for them.
pub fn rising(partitions: i32, version: i64) -> Vec<Record> {
    (0..RISING).map(|number| rising_site(partitions, &format!("rising-{number}"), version)).collect()
}

/// A record of a site with one app, whose version is the site's.
pub fn rising_site(partitions: i32, site_id: &str, version: i64) -> Record {
    let app = App { app_id: "rising".to_owned(), instance_id: String::new(), version: version as u32 };
    let element = json!({"appDefId": "rising", "version": format!("{version}.0"), "status": "INSTALLED",
                         "permissions": ["SITE.READ"], "unprojected": true});
    let row = json!({"site_id": site_id, "version": version, "installed_apps": json!([element]).to_string()});
    let value = json!({"op": "u", "after": row, "source": {"connector": "postgresql", "lsn": version}});
    let apps = BTreeMap::from([((app.app_id.clone(), String::new()), app)]);
    Record {
        partition: partition_of(site_id, partitions),
        key: json!({"site_id": site_id}).to_string(),
        value: Some(value.to_string()),
        headers: Vec::new(),
        site_id: site_id.to_owned(),
        after: Some(Arc::new(Site { version, apps_version: version, apps })),
    }
}

impl Live {
    /// Starts; `version` is that of the rising sites so far. With `wait`, clients wait so many seconds for their position.
    pub fn start(system: &System, readers: &[&Service], source: Source, version: i64, wait: Option<u32>) -> Self {
        let shared = Arc::new(Shared {
            urls: readers.iter().map(|reader| reader.url().to_owned()).collect(),
            wait,
            over: AtomicBool::new(false),
            answers: AtomicU32::new(0),
            slowest_micros: AtomicU32::new(0),
            generations: Default::default(),
            records: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(produce(Arc::clone(&shared), system.topic().clone(), source, version));
        (0..CLIENTS).for_each(|client| drop(tasks.spawn(read(Arc::clone(&shared), client))));
        Self { shared, tasks }
    }

    /// Waits until every client is answered from this generation; errors when one of them has met an error.
    pub async fn follow(&mut self, generation: i32) -> Result<()> {
        let what = format!("every client reads generation {generation}");
        let follow = async || {
            let seen = |seen: &AtomicI32| seen.load(Ordering::Relaxed) == generation;
            (self.shared.generations.iter().all(seen) || self.shared.over.load(Ordering::Relaxed)).then_some(())
        };
        eventually(&what, NOTICED_MAX, follow).await?;
        self.is_well().await
    }

    /// From now on the slowest answer is looked for.
    pub fn mark(&self) {
        self.shared.slowest_micros.store(0, Ordering::Relaxed);
    }

    /// Waits for so many answers more, and gives what the slowest took since the mark; errors when a client has met an error.
    pub async fn answers(&mut self, count: u32) -> Result<Duration> {
        let before = self.shared.answers.load(Ordering::Relaxed);
        let reached = async || {
            let reached = self.shared.answers.load(Ordering::Relaxed) >= before + count;
            (reached || self.shared.over.load(Ordering::Relaxed)).then_some(())
        };
        eventually(&format!("{count} answers more"), NOTICED_MAX, reached).await?;
        self.is_well().await?;
        Ok(self.slowest())
    }

    fn slowest(&self) -> Duration {
        Duration::from_micros(self.shared.slowest_micros.load(Ordering::Relaxed).into())
    }

    /// Errors when a client has met an error.
    pub async fn is_well(&mut self) -> Result<()> {
        while let Some(ended) = self.tasks.try_join_next() {
            ended??;
        }
        Ok(())
    }

    /// Ends all; gives the records that were produced, and how many answers there were.
    pub async fn stop(mut self) -> Result<(Vec<Record>, u32)> {
        self.shared.over.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        let records = std::mem::take(&mut *self.shared.records.lock().unwrap_or_else(PoisonError::into_inner));
        Ok((records, self.shared.answers.load(Ordering::Relaxed)))
    }
}

async fn produce(shared: Arc<Shared>, topic: Topic, mut source: Source, mut version: i64) -> Result<()> {
    let mut ticks = tokio::time::interval(PRODUCE_INTERVAL);
    while !shared.over.load(Ordering::Relaxed) {
        ticks.tick().await;
        version += 1;
        let mut bundle = source.records(BUNDLE_RECORDS);
        bundle.extend(rising(topic.partitions(), version));
        tokio::task::block_in_place(|| topic.produce(&bundle))?;
        shared.records.lock().unwrap_or_else(PoisonError::into_inner).extend(bundle);
    }
    Ok(())
}

/// What one client knows: its last position, and the version of each site at its last look.
#[derive(Default)]
struct Seen {
    token: Option<String>,
    offsets: BTreeMap<i32, i64>,
    versions: BTreeMap<String, i64>,
}

async fn read(shared: Arc<Shared>, client: usize) -> Result<()> {
    let (http, mut seen, mut number) = (Client::new(), Seen::default(), client);
    while !shared.over.load(Ordering::Relaxed) {
        let read = look(&shared, client, &http, &mut seen, number % RISING).await;
        if read.is_err() {
            // The others need not go on.
            shared.over.store(true, Ordering::Relaxed);
        }
        read.with_context(|| format!("client {client}, look-up {number}"))?;
        number += 1;
    }
    Ok(())
}

async fn look(shared: &Shared, client: usize, http: &Client, seen: &mut Seen, site: usize) -> Result<()> {
    let site_id = format!("rising-{site}");
    let mut request =
        http.get(format!("{}/v1/sites/{site_id}/installed-apps", shared.urls[client % shared.urls.len()]));
    if let Some(token) = &seen.token {
        request = request.header("projection-min-position", token);
    }
    if let Some(wait) = shared.wait {
        request = request.header("prefer", format!("wait={wait}"));
    }
    let asked_at = Instant::now();
    let answer = request.send().await?;
    let status = answer.status();
    let token =
        answer.headers().get("projection-position").map(|value| value.to_str().map(str::to_owned)).transpose()?;
    let body: Value = answer.json().await?;
    ensure!(status == 200, "{status} with the position {:?}: {body}", seen.token);
    let token = token.context("an answer names its position")?;
    let (generation, offsets) = token.split_once('/').context("a position names its generation")?;
    for pair in offsets.split(',') {
        let (partition, offset) = pair.split_once(':').context("partition and offset")?;
        let (partition, offset): (i32, i64) = (partition.parse()?, offset.parse()?);
        let before = seen.offsets.insert(partition, offset).unwrap_or(0);
        ensure!(
            offset >= before,
            "partition {partition} goes back from {before} to {offset}: {:?}, {token}",
            seen.token
        );
    }
    let version = body["version"].as_i64().context("a version")?;
    let before = seen.versions.insert(site_id.clone(), version).unwrap_or(0);
    ensure!(version >= before, "{site_id} goes back from {before} to {version}: {:?}, {token}", seen.token);
    let took = u32::try_from(asked_at.elapsed().as_micros()).unwrap_or(u32::MAX);
    shared.slowest_micros.fetch_max(took, Ordering::Relaxed);
    shared.generations[client].store(generation.parse()?, Ordering::Relaxed);
    // All partitions that were ever told, so that the next answer is held to each of them.
    let offsets: Vec<String> = seen.offsets.iter().map(|(partition, offset)| format!("{partition}:{offset}")).collect();
    seen.token = Some(format!("{generation}/{}", offsets.join(",")));
    shared.answers.fetch_add(1, Ordering::Relaxed);
    Ok(())
}
