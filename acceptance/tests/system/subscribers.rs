//! Thousands of subscribers on one reader: each hears each change, look-ups are served beside them, and each costs little.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use acceptance::{Record, Service, rising_site, scenario};
use anyhow::{Context, Result, bail, ensure};
use devstack::eventually;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use reqwest::Client;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

use crate::{NOTICED_MAX, PARTITIONS, servers};

/// Streams that are open at once; below `READER_FEEDS_MAX`, which is 5,000 by default.
const STREAMS: u64 = 2000;
/// Changes that each of them must hear, and how many of them are made at once.
const CHANGES: usize = 50;
const BUNDLE: usize = 5;
/// What a stream may cost the reader at its peak, its connection included. Some 40 KiB were measured, without optimization.
const STREAM_BYTES_MAX: u64 = 64 * 1024;
/// The time that the reader gives a request, `READER_REQUEST_TIME_MAX` by default.
const LOOK_UP_MAX: Duration = Duration::from_secs(5);
/// Until the last subscriber must have heard the last change; far beyond what it takes.
const HEARD_MAX: Duration = Duration::from_secs(60);
/// Enough to be read from.
const BUFFER_BYTES: usize = 4096;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_thousand_streams_hear_every_change_and_cost_little() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    scenario(&servers()?, PARTITIONS, async |system| {
        let asked_for = "before-all";
        system.topic().produce(&[rising_site(PARTITIONS, asked_for, 1)])?;
        let mut writer = system.writer(&[])?;
        writer.ready().await?;
        system.drained().await?;
        system.replica_caught_up().await?;
        let mut reader = system.reader(&[])?;
        reader.ready().await?;
        let before = memory_bytes(&reader, "VmRSS:")?;
        let sites: Arc<BTreeSet<String>> = Arc::new((0..CHANGES).map(|number| format!("heard-{number}")).collect());
        let mut streams = JoinSet::new();
        for _ in 0..STREAMS {
            let stream = open(&reader).await?;
            streams.spawn(hear(stream, Arc::clone(&sites)));
        }
        let all = async || (reader.metric("reader_feeds", &[]).await.ok()?? >= STREAMS as f64).then_some(());
        eventually("all streams are open", NOTICED_MAX, all).await?;
        let open_bytes = memory_bytes(&reader, "VmRSS:")?.saturating_sub(before) / STREAMS;

        let look_ups = LookUps::start(&reader, asked_for);
        let changes: Vec<Record> = sites.iter().map(|site_id| rising_site(PARTITIONS, site_id, 1)).collect();
        let mut begun = Instant::now();
        for bundle in changes.chunks(BUNDLE) {
            begun = Instant::now();
            system.topic().produce(bundle)?;
        }
        let heard = tokio::time::timeout(HEARD_MAX, all_heard(streams)).await;
        let (first, last) = heard.context("some have not heard everything")??;
        let (answers, slowest) = look_ups.end().await?;
        let each = memory_bytes(&reader, "VmHWM:")?.saturating_sub(before) / STREAMS;
        println!(
            "{STREAMS} streams cost {open_bytes} bytes each when open, {each} at the peak; the last heard the last of {CHANGES} \
             changes {:?} after the first did, {:?} after its producer was started; {answers} look-ups, the slowest {slowest:?}",
            last - first,
            last - begun
        );
        ensure!(each < STREAM_BYTES_MAX, "a stream costs {each} bytes");
        ensure!(answers > 0, "no look-up was answered meanwhile");
        Ok(())
    })
    .await
}

/// Waits for all; gives when the first and when the last of them had heard everything.
async fn all_heard(mut streams: JoinSet<Result<Instant>>) -> Result<(Instant, Instant)> {
    let mut moments = Vec::new();
    while let Some(heard) = streams.join_next().await {
        moments.push(heard??);
    }
    moments.iter().min().copied().zip(moments.iter().max().copied()).context("nobody listens")
}

/// Subscribes to everything from now on.
async fn open(reader: &Service) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(reader.url().trim_start_matches("http://")).await?;
    stream.write_all(b"GET /v1/changes HTTP/1.1\r\nhost: x\r\n\r\n").await?;
    Ok(stream)
}

/// Listens until each of the sites has been heard of, once; gives the moment of the last. Chunks begin and end between
/// events, so an event's lines are whole.
async fn hear(stream: TcpStream, sites: Arc<BTreeSet<String>>) -> Result<Instant> {
    let mut lines = BufReader::with_capacity(BUFFER_BYTES, stream).lines();
    let (mut status, mut missing) = (None, (*sites).clone());
    while !missing.is_empty() {
        let line = lines.next_line().await?.with_context(|| format!("the stream ends, {missing:?} are missing"))?;
        let status = status.get_or_insert_with(|| line.clone());
        ensure!(status == "HTTP/1.1 200 OK", "{status}");
        let Some(data) = line.strip_prefix("data: ") else {
            ensure!(!line.starts_with("event: "), "{line}");
            continue;
        };
        let change: Value = serde_json::from_str(data).with_context(|| line.clone())?;
        let site_id = change["site_id"].as_str().unwrap_or_default();
        if !missing.remove(site_id) {
            bail!("it is not to be heard, or not again: {change}");
        }
    }
    Ok(Instant::now())
}

/// A value of the process' memory: resident now (`VmRSS:`), or at most so far (`VmHWM:`).
fn memory_bytes(reader: &Service, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", reader.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("memory")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// A client that looks a site up, again and again; no answer may be an error, or late.
struct LookUps {
    over: Arc<AtomicBool>,
    client: JoinHandle<Result<(usize, Duration)>>,
}

impl LookUps {
    fn start(reader: &Service, site_id: &str) -> Self {
        let (over, url) =
            (Arc::new(AtomicBool::new(false)), format!("{}/v1/sites/{site_id}/installed-apps", reader.url()));
        let shared = Arc::clone(&over);
        let client = tokio::spawn(async move {
            let http = Client::builder().timeout(LOOK_UP_MAX).build()?;
            let (mut answers, mut slowest) = (0, Duration::ZERO);
            while !shared.load(Ordering::Relaxed) {
                let asked_at = Instant::now();
                let answer = http.get(&url).send().await.context("a look-up beside the streams")?;
                ensure!(answer.status() == 200, "a look-up beside the streams: {}", answer.status());
                answer.bytes().await?;
                (answers, slowest) = (answers + 1, slowest.max(asked_at.elapsed()));
            }
            Ok((answers, slowest))
        });
        Self { over, client }
    }

    /// How many answers there were, and what the slowest took.
    async fn end(self) -> Result<(usize, Duration)> {
        self.over.store(true, Ordering::Relaxed);
        self.client.await?
    }
}
