//! `loadtest latency`: an open loop. Each event has a moment at which it is *due*, fixed before the start; its latency runs
//! from that moment until a server shows a position behind it. A producer or a broker that is late makes the latency longer
//! and thins out nothing (no coordinated omission).
//!
//! Who watches: one connection per server reads the `position` rows, which commit together with the view's rows, every
//! millisecond. So a latency is known to about a millisecond and a query, always rounded up.

mod seen;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::seen::{Schedule, follow};
use crate::compare::{refuse_rate, refuse_void};
use crate::config::LatencyOptions;
use crate::contender::writer::{WriterDrain, WriterSetup};
use crate::contender::{Drain, Progress};
use crate::cpu;
use crate::database::{Database, sibling};
use crate::dataset::{Encoder, Recipe, Table};
use crate::machine::Circumstances;
use crate::report::{Report, percentiles, percentiles_text, say, spread};
use crate::stack::{Stack, unused_name};
use crate::topic::{Producer, Topic};

/// Between the end of the set-up and the first event.
const LEAD: Duration = Duration::from_millis(500);
/// How long the view may take for the sites that are there before the stream.
const CATCH_UP_MAX: Duration = Duration::from_secs(300);
const MICROSECONDS_MAX: u64 = 600_000_000;

/// The servers that are watched.
const SERVERS: [&str; 2] = ["primary", "replica"];

/// Measures one stream after the other, each into a fresh database.
pub async fn run(options: LatencyOptions) -> Result<()> {
    let stack = Stack::take(&options.place).await?;
    let mut report = Report::open(&options.place, "latency")?;
    let mut p99s = vec![Vec::new(); SERVERS.len()];
    for _ in 0..options.repeat {
        let circumstances = Circumstances::now()?;
        let stream = stream(&stack, &options).await?;
        for (n, histogram) in stream.histograms.iter().enumerate() {
            say(&format!("produce → {}: {}", SERVERS[n], percentiles_text(histogram)));
            p99s[n].push(histogram.value_at_quantile(0.99) as f64 / 1000.0);
        }
        let setup = json!({"setup": WriterSetup::new(&stack, &options.writer)?.json()});
        report.write(&[&settings(&options), &setup, &json!(circumstances), &stream.json()])?;
    }
    for (server, p99) in SERVERS.iter().zip(&p99s) {
        say(&format!("p99 produce → {server}, ms, median of {}: {}", p99.len(), spread(p99)));
    }
    Ok(())
}

/// What one stream came to.
struct Stream {
    histograms: Vec<Histogram<u64>>,
    rate_achieved: f64,
    cpu_us_per_event: Value,
    peak_rss_bytes: u64,
    dataset_bytes: u64,
}

async fn stream(stack: &Stack, options: &LatencyOptions) -> Result<Stream> {
    let recipe = Recipe { sites: options.sites, ..options.dataset.recipe(events(options)) };
    let topic = Topic::create(stack.kafka()?, &unused_name("latency"), recipe.partitions).await?;
    let name = unused_name("latency");
    let database = Database::create(stack.primary_url()?, &name).await?;
    let setup = WriterSetup::new(stack, &options.writer)?;
    let (lines, dataset_bytes) = encode(&recipe, options);
    let producer = topic.producer(&[("linger.ms", "0")])?;
    let snapshot = usize::try_from(options.sites)?;
    tokio::task::block_in_place(|| send_all(&producer, &lines.records[..snapshot]))?;
    let writer = WriterDrain::start(&setup, stack.kafka()?, &database, &topic, recipe.events).await?;
    caught_up(&writer, options.sites).await?;

    let urls = [database.url.clone(), sibling(stack.replica_url()?, &name)?];
    let measured = measure(stack, options, &lines, &producer, &writer, &urls, &topic.name).await?;
    refuse_void("the writer", &writer.differences(&lines.table).await?)?;
    writer.stop().await?;
    database.drop().await?;
    topic.delete().await?;
    Ok(Stream { dataset_bytes, ..measured })
}

/// The stream itself: from the first due moment to the last event seen on every server.
async fn measure(
    stack: &Stack,
    options: &LatencyOptions,
    lines: &Lines,
    producer: &Producer,
    writer: &WriterDrain,
    urls: &[String],
    topic: &str,
) -> Result<Stream> {
    let step = stack.progress.bar("streaming", lines.records.len() as u64 - options.sites);
    let schedule = Arc::new(schedule(options, lines));
    let followers: Vec<JoinHandle<Result<Histogram<u64>>>> =
        urls.iter().map(|url| tokio::spawn(follow(url.clone(), topic.to_owned(), Arc::clone(&schedule)))).collect();
    let mut processes = stack.processes();
    processes.extend(writer.pid().map(|pid| (WriterDrain::NAME.to_owned(), pid)));
    let used = || processes.iter().map(|(name, pid)| Ok((name.clone(), cpu::used(*pid)?))).collect::<Result<Vec<_>>>();
    let before = used()?;
    let rate_achieved = produce(options, lines, producer, &schedule, |sent| step.position(sent, "sent")).await?;
    let mut histograms = Vec::new();
    for follower in followers {
        histograms.push(follower.await??);
    }
    let (after, events) = (used()?, (lines.records.len() as u64 - options.sites) as f64);
    refuse_rate(options.rate as f64, rate_achieved)?;
    step.done(&format!("streamed {events} events at {rate_achieved:.1}/s"));
    let per_event = |n: usize| (after[n].1 - before[n].1).as_secs_f64() * 1e6 / events;
    Ok(Stream {
        histograms,
        rate_achieved,
        cpu_us_per_event: after.iter().enumerate().map(|(n, (name, _))| (name.clone(), json!(per_event(n)))).collect(),
        peak_rss_bytes: writer.pid().map_or(Ok(0), cpu::peak_rss_bytes)?,
        dataset_bytes: 0,
    })
}

/// All records of a run, ready to send: encoding must not make an event late.
struct Lines {
    records: Vec<(i32, String, String)>,
    table: Table,
}

fn encode(recipe: &Recipe, options: &LatencyOptions) -> (Lines, u64) {
    let (mut encoder, mut records, mut bytes) = (Encoder::new(options.dataset.form), Vec::new(), 0);
    let played = recipe.play(|change| {
        encoder.write(change);
        bytes += (encoder.key.len() + encoder.value.len()) as u64;
        records.push((change.partition, encoder.key.clone(), encoder.value.clone()));
        Ok::<_, std::convert::Infallible>(())
    });
    let Ok(table) = played;
    (Lines { records, table }, bytes)
}

fn events(options: &LatencyOptions) -> u64 {
    options.sites + options.rate * (options.seconds + options.warm_up_seconds)
}

fn schedule(options: &LatencyOptions, lines: &Lines) -> Schedule {
    let snapshot = options.sites as usize;
    let partitions: Vec<i32> = lines.records.iter().map(|(partition, ..)| *partition).collect();
    let uncounted = options.rate * options.warm_up_seconds;
    Schedule::new(Instant::now() + LEAD, options.rate, &partitions, snapshot, uncounted as usize)
}

fn send_all(producer: &Producer, records: &[(i32, String, String)]) -> Result<()> {
    records.iter().try_for_each(|(partition, key, value)| producer.send(*partition, key, value))?;
    producer.flush()
}

/// Sends each event when it is due, or at once when that is past; gives the rate of sending.
async fn produce(
    options: &LatencyOptions,
    lines: &Lines,
    producer: &Producer,
    schedule: &Schedule,
    mut told: impl FnMut(u64),
) -> Result<f64> {
    let stream = &lines.records[options.sites as usize..];
    for (n, (partition, key, value)) in stream.iter().enumerate() {
        tokio::time::sleep_until(schedule.due(n)).await;
        producer.send(*partition, key, value)?;
        if (n as u64).is_multiple_of(options.rate) {
            told(n as u64);
        }
    }
    let sent_in = Instant::now() - schedule.due(0);
    tokio::task::block_in_place(|| producer.flush())?;
    // n events span n - 1 intervals.
    Ok((stream.len() as f64 - 1.0) / sent_in.as_secs_f64())
}

async fn caught_up(writer: &WriterDrain, sites: u64) -> Result<()> {
    let stored = async || matches!(writer.progress().await, Ok(Progress::Running(Some(n))) if n >= sites).then_some(());
    devstack::eventually("the sites before the stream are stored", CATCH_UP_MAX, stored).await
}

fn settings(options: &LatencyOptions) -> Value {
    json!({
        "benchmark": "latency", "label": options.place.label, "quick": options.place.quick,
        "recipe": Recipe { sites: options.sites, ..options.dataset.recipe(events(options)) },
        "form": options.dataset.form, "rate_asked": options.rate,
    })
}

impl Stream {
    fn json(&self) -> Value {
        let latencies: Value = SERVERS
            .iter()
            .zip(&self.histograms)
            .map(|(server, histogram)| (format!("latency_ms_{server}"), percentiles(histogram)))
            .collect();
        let mut all = json!({
            "rate_achieved": self.rate_achieved, "errors": 0, "cpu_us_per_event": self.cpu_us_per_event,
            "peak_rss_bytes": self.peak_rss_bytes, "dataset_bytes": self.dataset_bytes,
        });
        for (key, value) in latencies.as_object().into_iter().flatten() {
            all[key] = value.clone();
        }
        all
    }
}
