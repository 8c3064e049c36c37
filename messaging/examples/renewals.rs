//! Subscription renewals: schedule and forget (pattern 4).
//!
//! A scheduler produces a request for each renewal and forgets it. A consumer charges them by a payment provider, in order per
//! user, and tries again until the provider takes them. One request is bad for good: its partition stands at it until an operator
//! skips it, and nothing is lost: it is a dead letter then.
//!
//! `cargo run --release -p messaging --example renewals` starts a broker of its own; with an address (`-- 127.0.0.1:9092`)
//! it uses that one. A test runs the same and looks at what was charged (tests/consumer/examples.rs).

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result};
use devstack::{Part, eventually};
use messaging::{
    blocking::{self, Command, PartitionState, Verb},
    consumer::{Consumer, ConsumerConfig, HandleError, RecordHandler},
    record::Record,
    retry::{Exhausted, RetryConfig},
    settings::Settings,
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    producer::{FutureProducer, FutureRecord},
};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;

const DEADLINE: Duration = Duration::from_secs(60);
const USERS: [&str; 3] = ["ann", "bob", "cleo"];
const MONTHS: i64 = 4;

/// A request, as the scheduler produces it; its key is the user.
#[derive(Debug, Deserialize)]
struct Renewal {
    user: String,
    month: i64,
    cents: u64,
}

/// Charges renewals by a provider that speaks a line of text over TCP.
struct Charging {
    provider: SocketAddr,
}

impl RecordHandler for Charging {
    async fn handle(&self, record: &Record) -> Result<(), HandleError> {
        let renewal: Renewal = serde_json::from_slice(record.value.as_deref().unwrap_or_default())
            .map_err(|error| HandleError::never_retried("unreadable", error))?;
        charge(self.provider, &renewal).await.map_err(|error| HandleError::new("provider-away", error))
    }
}

async fn charge(provider: SocketAddr, renewal: &Renewal) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(provider).await?;
    let request = format!("{} {} {}\n", renewal.user, renewal.month, renewal.cents);
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await?;
    match answer.as_str() {
        "charged\n" => Ok(()),
        _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The provider: charges each user and month once, however often it is asked, as handlers need it of whom they call.
async fn provide(listener: TcpListener, charged: Arc<Mutex<Vec<(String, i64)>>>) -> Result<()> {
    let mut known = HashSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        let (mut stream, mut line) = (BufReader::new(stream), String::new());
        stream.read_line(&mut line).await?;
        let mut words = line.split_whitespace();
        let (user, month) = (words.next().context("a user")?.to_owned(), words.next().context("a month")?.parse()?);
        if known.insert((user.clone(), month)) {
            charged.lock().expect("no panic holds it").push((user, month));
        }
        stream.write_all(b"charged\n").await?;
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// User and month, in the order in which they were charged.
    pub charged: Vec<(String, i64)>,
    /// Partition and offset at which it stood.
    pub stood_at: (i32, i64),
}

/// Runs the story on a broker, with names of its own. `operate` is the operator, who brings a command to the group.
pub async fn run(
    servers: &str,
    tag: &str,
    operate: impl AsyncFnOnce(&Settings, &str, Command) -> Result<()>,
    say: impl Fn(&str),
) -> Result<Outcome> {
    let (topic, group) = (format!("renewals.requested-{tag}"), format!("renewals-{tag}"));
    let settings: Settings = [("bootstrap.servers".to_owned(), servers.to_owned())].into();
    schedule(servers, &topic).await?;
    say("the scheduler has produced its requests and is done; the payment provider is down");

    // A port that nobody listens on yet.
    let provider = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let retries =
        RetryConfig::exponential_backoff_blocking_retry(Duration::from_millis(50), 2.0, Duration::from_secs(1), None)
            .jitter_percent(20)
            .exhausted(Exhausted::Block);
    let config = ConsumerConfig::new(settings.clone(), &group, [(topic.clone(), retries)]);
    let stop = CancellationToken::new();
    let consuming = tokio::spawn(Consumer::new(config, Charging { provider })?.run(stop.clone()));
    let held = |class: &'static str| {
        let (settings, group) = (settings.clone(), group.clone());
        async move || {
            let states = blocking::states(&settings, &group).await.ok()?;
            states.into_iter().find(|state| state.blocked.values().any(|stuck| stuck.class == class))
        }
    };
    let waiting = eventually("retries wait for the provider", DEADLINE, held("provider-away")).await?;
    say(&format!("partition {} is {:?}: {}", waiting.partition, waiting.state, describe(&waiting)));

    let charged = Arc::new(Mutex::new(Vec::new()));
    let providing = tokio::spawn(provide(TcpListener::bind(provider).await?, Arc::clone(&charged)));
    say("the provider is up");
    let stands = eventually("a bad request is stood at", DEADLINE, held("unreadable")).await?;
    let (offset, _) = stands.blocked.first_key_value().context("a record")?;
    say(&format!("partition {} stands at offset {offset}: {}", stands.partition, describe(&stands)));

    let command = Command::new(Verb::Skip, &topic, stands.partition, *offset, "an operator", "the request is bad");
    operate(&settings, &group, command).await?;
    let expected = USERS.len() * MONTHS as usize;
    let count = || charged.lock().expect("no panic holds it").len();
    let all = async || (count() == expected).then_some(());
    eventually("every other renewal is charged", DEADLINE, all).await?;
    say("it was skipped, and is a dead letter; every other renewal is charged");

    stop.cancel();
    consuming.await??;
    providing.abort();
    let charged = charged.lock().expect("no panic holds it").clone();
    Ok(Outcome { charged, stood_at: (stands.partition, *offset) })
}

fn describe(state: &PartitionState) -> String {
    let all = state.blocked.iter().map(|(offset, stuck)| {
        format!("offset {offset}, key {}, {}: {}", stuck.key.as_deref().unwrap_or("none"), stuck.class, stuck.error)
    });
    all.collect::<Vec<_>>().join("; ")
}

/// Produces the requests, the bad one of bob in the middle of his.
async fn schedule(servers: &str, topic: &str) -> Result<()> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("enable.idempotence", "true");
    let admin: AdminClient<DefaultClientContext> = config.create()?;
    let new = NewTopic::new(topic, 2, TopicReplication::Fixed(1));
    admin.create_topics([&new], &AdminOptions::new()).await?.remove(0).map_err(|(_, code)| code)?;
    let producer: FutureProducer = config.create()?;
    let produce = async |user: &str, value: String| {
        let record = FutureRecord::to(topic).key(user).payload(&value);
        producer.send(record, DEADLINE).await.map(drop).map_err(|(error, _)| error)
    };
    for month in 1..=MONTHS {
        for user in USERS {
            produce(user, format!(r#"{{"user":"{user}","month":{month},"cents":999}}"#)).await?;
        }
        if month == 2 {
            produce("bob", r#"{"user":"bob","month":"two and a half"}"#.to_owned()).await?;
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let servers = match std::env::args().nth(1) {
        Some(servers) => servers,
        None => devstack::shared(&[Part::Kafka])?.kafka.context("a broker")?,
    };
    let tag = uuid::Uuid::now_v7().simple().to_string();
    let send = async |settings: &Settings, group: &str, command: Command| {
        blocking::send(settings, group, &command).await.map(drop).context("the command is sent")
    };
    let outcome = run(&servers, &tag, send, print).await?;
    let (partition, offset) = outcome.stood_at;
    print(&format!("charged, in this order: {:?}", outcome.charged));
    print(&format!("partition {partition} stood at offset {offset}, which is a dead letter now"));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "it is for a person to read")]
fn print(line: &str) {
    println!("{line}");
}
