//! How fast the patterns are, on one broker on this machine: a load of a compacted topic, consume → produce exactly once, and
//! commands to an `AtomicKvStore`. One line of JSON per figure; rates are of records that are there, to the last one.
//!
//! `cargo run -p messaging --release --example throughput -- --records 1000000`

#![allow(clippy::print_stdout)] // Its output is the result.

mod stage;

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use devstack::eventually;
use messaging::{
    AtomicKvStore, AtomicKvStoreConfig, KvStore, KvStoreConfig,
    atomic_kv_store::Decision,
    transaction::{self, Output, Record, TransactionConfig},
};
use stage::Broker;
use tokio_util::sync::CancellationToken;

const DONE_MAX: Duration = Duration::from_secs(600);

#[derive(Parser)]
struct Arguments {
    /// Address of a broker; one is started without it.
    #[arg(long)]
    kafka: Option<String>,
    /// Records of the load; the other figures take a tenth of them.
    #[arg(long, default_value_t = 1_000_000)]
    records: u32,
    /// Bytes of a value.
    #[arg(long, default_value_t = 100)]
    value_bytes: usize,
    /// How often each figure is taken.
    #[arg(long, default_value_t = 3)]
    repeat: u32,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let broker = Broker::at(arguments.kafka.clone())?;
    for _ in 0..arguments.repeat {
        load(&broker, &arguments).await?;
        transact(&broker, &arguments).await?;
        command(&broker, &arguments).await?;
    }
    Ok(())
}

fn records(count: u32, value_bytes: usize) -> impl Iterator<Item = (String, Option<String>)> {
    (0..count).map(move |number| (format!("key-{number:08}"), Some("7".repeat(value_bytes))))
}

/// CPU time of this process: client and handler, without the broker.
fn cpu() -> f64 {
    // Fields 14 and 15 of proc(5) stat, in ticks of 10 ms; the name before them has no blank here.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = |field: usize| stat.split(' ').nth(field).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    (ticks(13) + ticks(14)) / 100.0
}

fn report(name: &str, records: u32, since: (Instant, f64)) {
    let (seconds, cpu) = (since.0.elapsed().as_secs_f64(), cpu() - since.1);
    let (rate, cpu_us) = (f64::from(records) / seconds, cpu * 1e6 / f64::from(records));
    let line = serde_json::json!({"name": name, "records": records, "seconds": (seconds * 100.0).round() / 100.0,
        "records_per_second": rate.round(), "cpu_us_per_record": (cpu_us * 100.0).round() / 100.0});
    println!("{line}");
}

async fn load(broker: &Broker, arguments: &Arguments) -> Result<()> {
    let topic = format!("{}.load", stage::tag());
    broker.create(&topic, 4, &[("cleanup.policy", "compact")]).await?;
    broker.produce(&topic, records(arguments.records, arguments.value_bytes))?;
    let since = (Instant::now(), cpu());
    let owned = |bytes: &[u8]| Ok(bytes.to_vec());
    let store = KvStore::start(&broker.settings(), KvStoreConfig::new(&topic, "throughput"), owned)?;
    store.caught_up().await?;
    report("kv_store_load", arguments.records, since);
    anyhow::ensure!(store.read().len() == arguments.records as usize);
    Ok(())
}

async fn transact(broker: &Broker, arguments: &Arguments) -> Result<()> {
    let (run, count) = (stage::tag(), arguments.records / 10);
    let (input, output) = (format!("{run}.in"), format!("{run}.out"));
    broker.create(&input, 4, &[]).await?;
    broker.create(&output, 4, &[]).await?;
    broker.produce(&input, records(count, arguments.value_bytes))?;
    let shutdown = CancellationToken::new();
    let handler = move |records: &[Record]| {
        let output = |record: &Record| Output {
            topic: output.clone(),
            partition: None,
            key: record.key.clone(),
            value: record.value.clone(),
            headers: Vec::new(),
        };
        Ok(records.iter().map(output).collect())
    };
    let since = (Instant::now(), cpu());
    let (settings, config) = (broker.settings(), TransactionConfig::new(&[&input], &run, "0"));
    let running = tokio::spawn({
        let shutdown = shutdown.clone();
        async move { transaction::run(&settings, config, handler, shutdown).await }
    });
    consumed(broker, &input, &run).await?;
    report("transaction", count, since);
    shutdown.cancel();
    Ok(running.await??)
}

async fn command(broker: &Broker, arguments: &Arguments) -> Result<()> {
    let (run, count) = (stage::tag(), arguments.records / 10);
    let (commands, values) = (format!("{run}.commands"), format!("{run}.values"));
    broker.create(&commands, 4, &[]).await?;
    broker.create(&values, 4, &[("cleanup.policy", "compact")]).await?;
    let of_key = |number: u32| (format!("key-{}", number % 1000), Some("1".to_owned()));
    broker.produce(&commands, (0..count).map(of_key))?;
    let shutdown = CancellationToken::new();
    let since = (Instant::now(), cpu());
    let config = AtomicKvStoreConfig::new(&commands, &values, &run, "0");
    let store = AtomicKvStore::<u64>::start(&broker.settings(), config)?;
    let apply = |_: &Record, value: Option<&u64>| Decision::put(value.copied().unwrap_or_default() + 1);
    let running = tokio::spawn(store.run(apply, shutdown.clone()));
    consumed(broker, &commands, &run).await?;
    report("atomic_kv_store", count, since);
    shutdown.cancel();
    Ok(running.await??)
}

/// Waits until a group has committed everything.
async fn consumed(broker: &Broker, topic: &str, group: &str) -> Result<()> {
    let done = async || broker.consumed(topic, group).ok().filter(|(consumed, all)| consumed == all).map(drop);
    eventually("everything is committed", DONE_MAX, done).await
}
