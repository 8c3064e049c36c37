//! `devstack smoke`: one change, timed at every place that it passes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};
use tokio::task::JoinHandle;

use crate::catalog::Site;
use crate::changes::Source;
use crate::connect::TOPIC;
use crate::options::Options;
use crate::postgres;
use crate::progress::say;
use crate::server::Server;
use crate::stack::Devstack;
use crate::{kafka, up};

/// How long the change may take to be served.
const DEADLINE: Duration = Duration::from_secs(30);
/// How often each place is looked at: the resolution of the printed times.
const LOOK: Duration = Duration::from_millis(1);
const SEEN: &str = "select 1 from view.site_apps where site_id = $1 and deleted_at is null";

/// Starts all parts, inserts one site into the source and prints when it was in the topic, in the view, on the replica and
/// in the reader's answer. All clocks are one monotonic clock of this process; all places are watched before the change.
pub async fn run(options: Options) -> Result<()> {
    let end = up::end(false)?;
    let measure = async {
        let stack = Devstack::start(options).await?;
        tokio::select! {
            outcome = one_change(&stack) => outcome.map_err(|error| stack.name_logs(error)),
            failure = up::watch(&stack) => failure,
        }
    };
    tokio::select! {
        outcome = measure => outcome,
        () = end => bail!("interrupted"),
    }
}

async fn one_change(stack: &Devstack) -> Result<()> {
    let endpoints = stack.endpoints();
    let site_id = Site::new(0).site_id;
    let mut source = Source::new(postgres::client(endpoints.source_database_url.as_deref().context("source")?).await?);
    let replica_url = endpoints.view_replica_urls.first().context("replica")?;
    let topic = in_topic(endpoints.kafka.as_deref().context("kafka")?, &site_id)?;
    let view = in_view(endpoints.view_primary_url.as_deref().context("primary")?, &site_id).await?;
    let replica = in_view(replica_url, &site_id).await?;
    let served = served(endpoints.reader_url.as_deref().context("reader")?, &site_id)?;

    source.seed(1, |_| {}).await?;
    let committed = Instant::now();
    let stages = [
        ("source commit -> topic", topic, stack.connect()),
        ("topic -> view commit", view, stack.writer()),
        ("view commit -> replica", replica, stack.view_replica()),
        ("replica -> HTTP", served, stack.reader()),
    ];
    let mut before = committed;
    for (stage, place, server) in stages {
        let at = seen(place, stage, server).await?;
        say(&format!("{stage:<24} {:>9.1} ms", millis(at, before)));
        before = at;
    }
    say(&format!("{:<24} {:>9.1} ms", "source commit -> HTTP", millis(before, committed)));
    Ok(())
}

/// A place may be seen a look too early or too late, so a stage can come out slightly negative; that is printed as it is.
fn millis(at: Instant, before: Instant) -> f64 {
    match at.checked_duration_since(before) {
        Some(after) => after.as_secs_f64() * 1e3,
        None => -before.duration_since(at).as_secs_f64() * 1e3,
    }
}

/// Waits for a place; when the change does not get there, the log of the server that should bring it tells why.
async fn seen(place: JoinHandle<Result<Instant>>, stage: &str, server: Option<&Server>) -> Result<Instant> {
    let what = match tokio::time::timeout(DEADLINE, place).await {
        Ok(outcome) => match outcome.context("a watcher panicked")? {
            Ok(at) => return Ok(at),
            Err(error) => format!("{stage}: {error:#}"),
        },
        Err(_late) => format!("{stage}: not within {} s", DEADLINE.as_secs()),
    };
    Err(server.context("smoke starts every part")?.failure(&what).way_out("see the log").into())
}

/// Watches the topic from its present end. Returns when the watcher is armed.
fn in_topic(address: &str, site_id: &str) -> Result<JoinHandle<Result<Instant>>> {
    let consumer: BaseConsumer = kafka::client(address).set("group.id", "devstack-smoke").create()?;
    let metadata = consumer.fetch_metadata(Some(TOPIC), DEADLINE)?;
    let mut ends = TopicPartitionList::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        let (_, end) = consumer.fetch_watermarks(TOPIC, partition.id(), DEADLINE)?;
        ends.add_partition_offset(TOPIC, partition.id(), Offset::Offset(end))?;
    }
    consumer.assign(&ends)?;
    let site_id = site_id.to_owned();
    Ok(tokio::task::spawn_blocking(move || {
        let armed = Instant::now();
        while armed.elapsed() < DEADLINE {
            let Some(record) = consumer.poll(LOOK) else { continue };
            if record?.key().is_some_and(|key| String::from_utf8_lossy(key).contains(&site_id)) {
                return Ok(Instant::now());
            }
        }
        bail!("the change did not reach topic {TOPIC} within {} s", DEADLINE.as_secs())
    }))
}

/// Watches the view's table on one server.
async fn in_view(url: &str, site_id: &str) -> Result<JoinHandle<Result<Instant>>> {
    let (client, site_id) = (postgres::client(url).await?, site_id.to_owned());
    let seen = client.prepare(SEEN).await.context("the view's schema is not there")?;
    Ok(tokio::spawn(async move {
        while client.query_opt(&seen, &[&site_id]).await?.is_none() {
            tokio::time::sleep(LOOK).await;
        }
        Ok(Instant::now())
    }))
}

/// Watches the reader's answer.
fn served(reader_url: &str, site_id: &str) -> Result<JoinHandle<Result<Instant>>> {
    let url = format!("{reader_url}/v1/sites/{site_id}/installed-apps");
    let client = reqwest::Client::builder().build()?;
    Ok(tokio::spawn(async move {
        while client.get(&url).send().await?.status() != 200 {
            tokio::time::sleep(LOOK).await;
        }
        Ok(Instant::now())
    }))
}
