//! A whole service: it prices orders by a table that it holds in memory.
//!
//! `cargo run -p messaging --release --example service -- --servers 127.0.0.1:9092` with topics `prices` (compacted) and `orders`.

use std::{net::SocketAddr, time::Duration};

use clap::Parser;
use messaging::{
    KvStore, KvStoreConfig,
    consumer::{Consumer, ConsumerConfig, HandleError, RecordHandler},
    kv_store,
    record::Record,
    retry::{Exhausted, RetryConfig},
    settings::Settings,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
struct Config {
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS")]
    servers: String,
    #[arg(long, env = "READY_LISTEN", default_value = "127.0.0.1:8080")]
    ready_listen: SocketAddr,
}

#[derive(serde::Deserialize)]
struct Order {
    sku: String,
    pieces: u64,
}

struct Pricing(KvStore<u64>);

impl RecordHandler for Pricing {
    async fn handle(&self, record: &Record) -> Result<(), HandleError> {
        let order: Order = serde_json::from_slice(record.value.as_deref().unwrap_or_default())
            .map_err(|error| HandleError::never_retried("unreadable", error))?; // a dead letter at once
        let Some(cents) = self.0.get(&order.sku) else {
            return Err(HandleError::new("no-price", order.sku)); // may be on its way: tried again
        };
        tracing::info!(sku = order.sku, cents = *cents * order.pieces, "priced");
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().init();
    let (config, shutdown) = (Config::parse(), CancellationToken::new());
    let (mut terminated, stops) = (signal(SignalKind::terminate())?, shutdown.clone());
    tokio::spawn(async move { terminated.recv().await.inspect(|()| stops.cancel()) });
    let settings: Settings = [("bootstrap.servers".to_owned(), config.servers)].into();
    let prices = KvStore::start(&settings, KvStoreConfig::new("prices", "pricing"), kv_store::json)?;
    tokio::spawn(tell_readiness(TcpListener::bind(config.ready_listen).await?, prices.clone()));
    tokio::select! {
        loaded = prices.caught_up() => loaded?,
        () = shutdown.cancelled() => return Ok(()),
    }
    let (at_first, at_most) = (Duration::from_millis(50), Duration::from_secs(60));
    let retries = RetryConfig::exponential_backoff_blocking_retry(at_first, 2.0, at_most, Some(20));
    let retries = retries.exhausted(Exhausted::ParkKey); // the order's key waits for a person, others go on
    let orders = ConsumerConfig::new(settings, "pricing", [("orders".to_owned(), retries)]);
    Ok(Consumer::new(orders, Pricing(prices))?.run(shutdown).await?) // finishes, commits, leaves the group
}

async fn tell_readiness(listener: TcpListener, prices: KvStore<u64>) -> std::io::Result<()> {
    loop {
        let (client, _) = listener.accept().await?;
        tokio::spawn(answer(client, if prices.progress().is_ready() { "200 OK" } else { "503 Service Unavailable" }));
    }
}

async fn answer(mut client: TcpStream, status: &str) -> std::io::Result<()> {
    let _request = client.read(&mut [0; 1024]).await?;
    client.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").as_bytes()).await
}
