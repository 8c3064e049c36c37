//! The write-only half of Siteview: projects a Debezium topic of MetaSite rows into the installed-apps view in Postgres.
//!
//! ```text
//! topic ─poll─> source ─batch─> lane: decode ─> fold ─> plan ─> store ──> Postgres (rows, change log, position)
//!                 ^                │
//!                 └─ done, let go ─┘       ends: how far the log reaches, for lag and `as_of`
//! ```
//!
//! Guarantees. Rows and position commit in one transaction, and on assignment the position decides where to go on: a kill, a
//! duplicate delivery, a zombie and a database that went back all heal by reading again. Within a partition, changes take
//! effect in offset order, each once. A writer that lost a partition cannot write to it: each batch commits under the epoch
//! of its claim only. Trouble with the environment is waited out. A record that cannot be applied goes to the dead letters, whole,
//! before the position passes it; where it cannot, or where there are too many, its partition stops, visibly. Nothing is
//! skipped.
//!
//! What this crate refuses to know: how the view is queried. It serves no queries and links no API.

pub mod apps;
mod assignment;
pub mod batch;
mod board;
pub mod config;
pub mod decode;
pub mod ends;
pub mod error;
pub mod fold;
pub mod generation;
mod heartbeat;
mod kafka;
mod lane;
pub mod migrate;
pub mod nesting;
mod observe;
mod pipeline;
pub mod plan;
pub mod position;
pub mod projection;
pub mod rejection;
pub mod relay;
mod source;
mod standing;
pub mod store;
pub use messaging::topic_id;
mod topic_watch;
mod trace;
mod upkeep;
pub mod verbs;
pub mod verify;

use std::{
    sync::{Arc, mpsc as blocking},
    time::Duration,
};

use anyhow::Context as _;
use messaging::dead_letter::DeadLetters;
use metrics_exporter_prometheus::PrometheusHandle;
use rdkafka::{
    consumer::{BaseConsumer, Consumer},
    error::KafkaResult,
};
use shared::{
    admin::{self, Readiness},
    config::Invalid,
    telemetry::SdkTracer,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use crate::{
    assignment::{Assignment, TopicConsumer},
    batch::BatchLimits,
    board::Board,
    config::Config,
    ends::{SAMPLE_INTERVAL, Sample},
    generation::follow::{self, Feed, NoFeed, Turn},
    heartbeat::Heartbeats,
    lane::{Lane, Shared},
    observe::Metrics,
    source::{COMMANDS_MAX, Source, Surroundings},
    standing::Standing,
    store::Store,
    topic_watch::TopicWatch,
    trace::BatchTraces,
    upkeep::{AsOf, ChangeLog},
};

/// Pause between attempts to find the generation at start.
const START_RETRY: Duration = Duration::from_millis(500);
/// How long the brokers may take to tell whether the topic exists.
const METADATA_MAX: Duration = Duration::from_secs(5);

/// Runs the writer until `shutdown`: waits for its database, projects, drains. The admin port is first and last.
///
/// Errors: the admin port cannot be opened, the Kafka client refuses its settings or fails for good, a part of the writer
/// died. The absence of the database or of the brokers is none; it is waited out.
pub async fn run(
    config: Config,
    metrics: PrometheusHandle,
    tracer: Option<SdkTracer>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.admin_listen)
        .await
        .with_context(|| format!("WRITER_ADMIN_LISTEN: cannot listen on {}", config.admin_listen))?;
    let (readiness, admin_stop) = (Readiness::new(), CancellationToken::new());
    let standing = Arc::new(Standing::new(&readiness, Metrics::new(config.topic.as_str().into())));
    let admin = tokio::spawn(admin::serve(listener, readiness, metrics, admin_stop.clone()));
    let done = project(&config, &standing, tracer, &shutdown).await;
    admin_stop.cancel();
    admin.await.context("the admin port died")??;
    done
}

/// Feeds a generation until `shutdown`, and the next one when it has to leave it.
async fn project(
    config: &Config,
    standing: &Arc<Standing>,
    tracer: Option<SdkTracer>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let feed = tokio::select! {
            feed = feed(config, standing) => feed?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let (generation, stop) = (feed.generation, shutdown.child_token());
        standing.feeding();
        let parts = Parts::start(config, feed, standing, tracer.clone(), &stop)?;
        let running = parts.run(config, standing, &stop);
        tokio::pin!(running);
        let turn = tokio::select! {
            done = &mut running => return done,
            turn = follow::watch(config, generation) => turn,
        };
        stop.cancel();
        running.await?;
        match turn {
            Turn::Dropped => anyhow::bail!("generation {generation} was dropped"),
            Turn::Move(to) => tracing::warn!(from = generation, to, "nobody fed the active generation; feeding it"),
        }
    }
}

/// What to feed: as configured, or the active generation, once the database has it.
async fn feed(config: &Config, standing: &Standing) -> Result<Feed, Invalid> {
    loop {
        match follow::find(config).await {
            Ok(feed) => {
                standing.database_answers();
                return Ok(feed);
            }
            Err(NoFeed::Projection(error)) => return Err(error),
            Err(NoFeed::Store(error)) => {
                tracing::warn!(error = %error, "waiting for the view's database");
                standing.database_fails(&error);
                tokio::time::sleep(START_RETRY).await;
            }
        }
    }
}

/// The running parts: one source, the lanes that it feeds, and what samples the ends of the topic.
struct Parts {
    source: oneshot::Receiver<KafkaResult<()>>,
    lanes: JoinSet<()>,
    /// What goes on by time: samples of the ends, `as_of`, the change log's upkeep.
    upkeep: JoinSet<()>,
    make_ready: JoinHandle<()>,
    hard_stop: CancellationToken,
}

impl Parts {
    fn start(
        config: &Config,
        Feed { generation, projection }: Feed,
        standing: &Arc<Standing>,
        tracer: Option<SdkTracer>,
        shutdown: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let (group, topic) = (config.group_of(generation), Arc::<str>::from(config.topic.as_str()));
        tracing::info!(%topic, group, generation, lanes = config.lanes, "projecting");
        let metrics = standing.metrics().clone();
        let consumer = kafka::consumer(&config.kafka, &group, Assignment::new(metrics.clone()))
            .context("the Kafka client refuses its settings")?;
        let consumer = Arc::new(consumer);
        let observer =
            Arc::new(kafka::observer(&config.kafka, &group).context("the Kafka client refuses its settings")?);
        let (newest, newest_sample) = watch::channel(Arc::<Sample>::default());
        let board = Arc::new(Board::new(config.lanes));
        let topic_watch =
            TopicWatch::start(Arc::clone(&consumer), Arc::clone(&topic)).context("no thread for the topic")?;
        let (events, lane_events) = blocking::channel();
        let shared = Arc::new(Shared {
            topic: Arc::clone(&topic),
            projection,
            limits: config.limits,
            brake_limits: config.brake_limits,
            dead_letters: DeadLetters::new(&config.kafka, &config.topic, &config.group),
            key_change_wait: config.key_change_wait,
            marker_retention: config.marker_retention,
            board: Arc::clone(&board),
            consumer: Arc::clone(&consumer),
            standing: Arc::clone(standing),
            metrics: metrics.clone(),
            traces: BatchTraces::new(tracer, &topic, &group),
        });
        let owner = Arc::<str>::from(process_name());
        let options = store::connect_options(&config.database, &format!("view_g{generation}"));
        let (mut lanes, mut commands, hard_stop) = (JoinSet::new(), Vec::new(), CancellationToken::new());
        let store = || Store::new(options.clone(), Arc::clone(&topic), Arc::clone(&owner));
        for number in 0..config.lanes {
            let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
            let (events, samples) = (events.clone(), newest_sample.clone());
            let lane = Lane::new(number, Arc::clone(&shared), store(), events, samples, topic_watch.clone());
            lanes.spawn(lane.run(receiver, hard_stop.clone()));
            commands.push(sender);
        }
        let mut upkeep = JoinSet::new();
        let as_of = AsOf {
            store: store(),
            board,
            newest_sample: newest_sample.clone(),
            events,
            standing: Arc::clone(standing),
        };
        upkeep.spawn(as_of.run());
        upkeep.spawn(ChangeLog::new(store(), generation, config.change_retention, metrics).run());
        let heartbeats = config.heartbeat_topic.clone().map(Heartbeats::new);
        let ends = SampledEnds { consumer: Arc::clone(&consumer), observer, heartbeats, topic: Arc::clone(&topic) };
        upkeep.spawn(sample_ends(ends, Arc::clone(standing), newest));
        let limits = BatchLimits { records_max: config.batch_records_max, bytes_max: config.batch_bytes_max };
        let links = commands.into_iter();
        let surroundings = Surroundings {
            consumer: Arc::clone(&consumer),
            topic,
            limits,
            standing: Arc::clone(standing),
            topic_watch,
            newest_sample,
        };
        let source = spawn_source(Source::new(surroundings, links, lane_events), shutdown.clone())?;
        let make_ready = tokio::spawn(follow::make_ready(config.clone(), generation, consumer));
        Ok(Self { source, lanes, upkeep, make_ready, hard_stop })
    }

    /// Until `shutdown`, or until a part ends by itself, which ends the process.
    async fn run(mut self, config: &Config, standing: &Standing, shutdown: &CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            // First: once it is cancelled, source and lanes end by themselves.
            biased;
            () = shutdown.cancelled() => {}
            ended = &mut self.source => return ended.context("the source died")?.context("the Kafka client failed for good"),
            Some(lane) = self.lanes.join_next() => anyhow::bail!("a lane died: {lane:?}"),
            Some(ended) = self.upkeep.join_next() => anyhow::bail!("a part of the upkeep died: {ended:?}"),
        }
        standing.draining();
        self.make_ready.abort();
        // The source drains until nobody is left who could tell it anything.
        self.upkeep.shutdown().await;
        self.drain(config.drain_max).await
    }

    /// The source has stopped polling and closed the lanes; they finish what they have, for so long at most.
    async fn drain(mut self, drain_max: Duration) -> anyhow::Result<()> {
        let lanes = async { while self.lanes.join_next().await.is_some() {} };
        if tokio::time::timeout(drain_max, lanes).await.is_err() {
            self.hard_stop.cancel();
            while self.lanes.join_next().await.is_some() {}
        }
        self.source.await.context("the source died")?.context("the Kafka client failed for good")
    }
}

fn spawn_source(source: Source, shutdown: CancellationToken) -> anyhow::Result<oneshot::Receiver<KafkaResult<()>>> {
    let (done, ended) = oneshot::channel();
    let run = move || {
        // The receiver is gone only when the process is ending already.
        let _ = done.send(source.run(&shutdown));
    };
    std::thread::Builder::new().name("source".to_owned()).spawn(run).context("no thread for the source")?;
    Ok(ended)
}

/// What the sampling of the ends needs.
struct SampledEnds {
    consumer: Arc<TopicConsumer>,
    observer: Arc<BaseConsumer>,
    heartbeats: Option<Heartbeats>,
    topic: Arc<str>,
}

/// Samples the ends of the partitions in hand; without any, asks whether the topic is there.
async fn sample_ends(mut ends: SampledEnds, standing: Arc<Standing>, newest: watch::Sender<Arc<Sample>>) {
    let mut interval = tokio::time::interval(SAMPLE_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let sampling = move || {
            let sampled = ends.sample();
            (ends, sampled)
        };
        let Ok((returned, (sample, reachable))) = tokio::task::spawn_blocking(sampling).await else {
            return;
        };
        ends = returned;
        standing.kafka(reachable);
        standing.heartbeat(ends.heartbeats.is_some().then_some(sample.at).flatten());
        newest.send_replace(Arc::new(sample));
    }
}

impl SampledEnds {
    /// Blocks for a few round trips. Gives the sample, and whether the topic is there and its brokers answer.
    fn sample(&mut self) -> (Sample, Result<(), String>) {
        let partitions = self.consumer.context().partitions();
        let sample = ends::sample(&self.observer, self.heartbeats.as_mut(), &self.topic, &partitions);
        let sample = sample.unwrap_or_default();
        let reachable = match sample.ends.is_empty() {
            true => topic_exists(&self.consumer, &self.topic),
            false => Ok(()),
        };
        (sample, reachable)
    }
}

fn topic_exists(consumer: &TopicConsumer, topic: &str) -> Result<(), String> {
    let metadata = consumer.fetch_metadata(Some(topic), METADATA_MAX);
    let metadata = metadata.map_err(|error| format!("the brokers do not answer: {error}"))?;
    match metadata.topics().iter().any(|found| found.error().is_none() && !found.partitions().is_empty()) {
        true => Ok(()),
        false => Err(format!("the topic {topic} does not exist; waiting for it")),
    }
}

/// Host and process, for people: the owner of a position, the author of a change.
fn process_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let host = host.map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned());
    format!("{host} pid {}", std::process::id())
}
