//! Clients that write through the source's topic and read their own writes, by version and by position, from whatever
//! replica answers: never less than they wrote, never a wait past the deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use acceptance::{Record, Service, System, Topic, rising_site};
use anyhow::{Context, Result, bail, ensure};
use reqwest::Client;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::PARTITIONS;

/// The longest wait of the contract, and what a busy machine may add to it.
const WAIT: &str = "wait=10";
const WAITED_MAX: Duration = Duration::from_secs(25);
/// Pause between two writes of a client.
const PAUSE: Duration = Duration::from_millis(100);

/// For each reader one client that demands versions and one that demands positions.
pub struct OwnWrites {
    over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Result<Vec<Record>>>>,
}

#[derive(Debug, Clone, Copy)]
enum Demand {
    Version,
    Position,
}

impl OwnWrites {
    pub fn start(system: &System, readers: &[&Service]) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let client = |(number, (reader, demand)): (usize, (&&Service, Demand))| {
            let own = Own { topic: system.topic().clone(), url: reader.url().to_owned(), demand, number };
            tokio::spawn(own.write_and_read(Arc::clone(&over)))
        };
        let demands = readers.iter().flat_map(|reader| [(reader, Demand::Version), (reader, Demand::Position)]);
        Self { clients: demands.enumerate().map(client).collect(), over }
    }

    /// Errors when a client has met an error; `stop` has it.
    pub fn is_well(&self) -> Result<()> {
        ensure!(!self.clients.iter().any(JoinHandle::is_finished), "a client does not read its own writes");
        Ok(())
    }

    /// Ends them; gives what they wrote.
    pub async fn stop(self) -> Result<Vec<Record>> {
        self.over.store(true, Ordering::Relaxed);
        let mut records = Vec::new();
        for client in self.clients {
            records.extend(client.await??);
        }
        Ok(records)
    }
}

/// One client and the site that only it writes.
struct Own {
    topic: Topic,
    url: String,
    demand: Demand,
    number: usize,
}

impl Own {
    async fn write_and_read(self, over: Arc<AtomicBool>) -> Result<Vec<Record>> {
        let Self { topic, url, demand, number } = self;
        let (http, site_id, mut written) = (Client::new(), format!("own-{number}"), Vec::new());
        let mut ticks = tokio::time::interval(PAUSE);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for version in 1.. {
            ticks.tick().await;
            if over.load(Ordering::Relaxed) {
                break;
            }
            let record = rising_site(PARTITIONS, &site_id, version);
            tokio::task::block_in_place(|| topic.produce(std::slice::from_ref(&record)))?;
            let partition = record.partition;
            written.push(record);
            let (header, value) = match demand {
                Demand::Version => ("projection-min-version", version.to_string()),
                Demand::Position => {
                    let ends = tokio::task::block_in_place(|| topic.ends())?;
                    ("projection-min-position", format!("1/{partition}:{}", ends[&partition]))
                }
            };
            let own = format!("{url}/v1/sites/{site_id}/installed-apps");
            let read = read_own(&http, &own, (header, &value), version);
            read.await.with_context(|| format!("{header}: {value}"))?;
        }
        Ok(written)
    }
}

/// Reads until the write is there: a refusal is no answer, and asking again is what `Retry-After` means.
async fn read_own(http: &Client, url: &str, (header, value): (&str, &str), version: i64) -> Result<()> {
    for _ in 0..6 {
        let asked_at = Instant::now();
        let answer = http.get(url).header(header, value).header("prefer", WAIT).send().await?;
        let (status, took) = (answer.status(), asked_at.elapsed());
        let body: Value = answer.json().await?;
        ensure!(took < WAITED_MAX, "{status} after {took:?}");
        if status == 503 && body["type"] == "/problems/position-not-reached" {
            continue;
        }
        ensure!(status == 200, "{status}: {body}");
        ensure!(body["version"].as_i64() >= Some(version), "wrote {version}, read {body}");
        return Ok(());
    }
    bail!("nobody has reached it in a minute")
}
