//! Turns the rows of an import into contacts, and keeps the count of its jobs (patterns 2 and 6). Any number of instances share the work.
//!
//! ```text
//! import.jobs ─> work ─┬─ judge: rows → contacts, faults. Pure
//!                      ├─ store: contacts, faults and the job's ledger entry in one transaction of Postgres
//!                      └─ announce: job_done ──> import.progress.commands ─> progress ─┬─> import.progress (compacted)
//!                                                                (AtomicKvStore)       └─> notifications
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | `judge`, `judge/*` | what is wrong with a row, or the contact that it is. Pure |
//! | `store` | all SQL but the migrations |
//! | `work` | what is done with a job, and what with one that can't be done |
//! | `announce` | the command that says so |
//! | `trace` | the span of each attempt |
//! | `progress` | commands to progress and notifications |
//! | [`migrate`] | the tables |
//!
//! # Guarantees
//!
//! * A job takes effect once, whatever is delivered twice, killed or frozen: its entry in the ledger commits with its rows, and who
//!   comes second finds it, changes nothing and announces what it says.
//! * A job is announced after its rows are committed, and its record is done after that is acknowledged. So no import is complete
//!   whose contacts are not there, and none stays open because somebody was killed.
//! * Of several rows of one file about the same contact the last line stands, whichever job came first; of two files of an owner
//!   that are imported at once what was written last stands.
//! * A cancelled import leaves the jobs alone that are not begun, and counts their rows as skipped; what was done is told as done.
//! * Postgres or brokers that are away are waited for. A job that can't be worked is a dead letter and makes its import `failed`.
//!
//! # What it refuses to know
//!
//! Files, browsers and channels: a job brings its rows, and a notification goes to whom the progress names.

pub mod config;
pub mod migrate;

mod announce;
mod error;
mod judge;
mod observe;
mod progress;
mod store;
mod trace;
mod work;

use std::{net::SocketAddr, time::Duration};

use messaging::{
    atomic_kv_store::AtomicKvStoreError,
    consumer::{ConfigError, Consumer, ConsumerConfig, ConsumerError, Order, Watermarks},
    kv_store::KvStoreError,
    retry::RetryConfig,
    topics::{self, Shape},
    transaction::TransactionError,
};
use metrics_exporter_prometheus::PrometheusHandle;
use rdkafka::error::KafkaError;
use shared::{
    admin::{self, Condition, Readiness},
    config::Invalid,
    telemetry::SdkTracer,
};
use tokio::{
    net::TcpListener,
    task::{JoinError, JoinHandle},
};
use tokio_util::sync::CancellationToken;

use crate::{announce::Announcer, config::Config, store::Store, trace::JobTraces, work::Work};

/// Time that the admin port gets to finish its answers, last of all.
const ADMIN_STOP_MAX: Duration = Duration::from_millis(500);
/// Pause before the brokers are asked again while they are away.
const RETRY: Duration = Duration::from_secs(1);
/// Jobs and bytes of a partition that are kept in memory: a job is 500 rows, some 50 KB.
const WATERMARKS: Watermarks =
    Watermarks { high_records: 32, low_records: 16, high_bytes: 2 << 20, low_bytes: 1 << 20 };
/// Between attempts at a job while Postgres or the brokers are away: from this, doubled up to that.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// Of topics that have to be made: what is known of an import is kept for 30 days after its last change.
const PROGRESS_TOPIC: [(&str, &str); 2] = [("cleanup.policy", "compact,delete"), ("retention.ms", "2592000000")];

/// Why the importer can't start or go on; the process ends with exit code 1.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address can't be listened on.
    #[error("IMPORTER_ADMIN_LISTEN {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something is not configured.
    #[error(transparent)]
    Config(#[from] Invalid),
    /// The Kafka client refuses its settings.
    #[error("the Kafka client: {0}")]
    Kafka(#[from] KafkaError),
    /// A defect of the importer.
    #[error(transparent)]
    Consumer(#[from] ConfigError),
    /// Jobs can't be consumed any more.
    #[error("jobs: {0}")]
    Jobs(#[from] ConsumerError),
    /// Progress can't be kept any more.
    #[error("progress: {0}")]
    Progress(#[from] TransactionError),
    /// Progress can't be followed.
    #[error("progress: {0}")]
    Follow(#[from] AtomicKvStoreError),
    /// Progress can't be loaded.
    #[error("progress: {0}")]
    Load(#[from] KvStoreError),
    /// A task that never ends has ended: a defect of the importer.
    #[error("a background task ended: {0}")]
    TaskEnded(&'static str),
}

/// Works until `shutdown`, then finishes the jobs in hand.
///
/// Brokers and a database that are away, or not migrated, are waited for. Stop order: not ready, jobs, progress, database, admin port.
pub async fn run(
    config: Config,
    metrics: PrometheusHandle,
    tracer: Option<SdkTracer>,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    observe::describe();
    let listener = TcpListener::bind(config.admin_listen).await;
    let listener = listener.map_err(|source| RunError::Listen { address: config.admin_listen, source })?;
    let readiness = Readiness::new();
    let ready = ["kafka", "database", "progress"].map(|name| readiness.condition(name));
    let admin_stop = CancellationToken::new();
    let mut admin = tokio::spawn(admin::serve(listener, readiness, metrics, admin_stop.clone()));
    tracing::info!(admin_listen = %config.admin_listen, member = config.member, "importer started");
    tokio::select! {
        ended = work(&config, tracer, ready, &shutdown) => ended?,
        _ = &mut admin => return Err(RunError::TaskEnded("admin port")),
    }
    admin_stop.cancel();
    let _ = tokio::time::timeout(ADMIN_STOP_MAX, admin).await;
    Ok(())
}

/// Everything but the admin port.
async fn work(
    config: &Config,
    tracer: Option<SdkTracer>,
    ready: [Condition; 3],
    shutdown: &CancellationToken,
) -> Result<(), RunError> {
    let [kafka, database, loaded] = ready;
    let store = Store::new(config, database)?;
    let prepare = async {
        make_topics(config, &kafka).await?;
        store.wait_until_migrated().await;
        Ok::<_, RunError>(())
    };
    tokio::select! {
        () = shutdown.cancelled() => return Ok(()),
        prepared = prepare => prepared?,
    }
    let stop = CancellationToken::new();
    let values = progress::start(config)?;
    let mut keeping = tokio::spawn(progress::run(&values, config, stop.clone()));
    let telling = tokio::spawn(progress::tell_load(values.store().clone(), loaded));
    let jobs = async {
        // Before that it is not known which imports are cancelled.
        values.store().caught_up().await?;
        let (announcer, traces) = (Announcer::new(config)?, JobTraces::new(tracer, &config.group));
        let handler = Work::new(config, store.clone(), values.store().clone(), announcer, traces);
        Ok::<_, RunError>(Consumer::new(consumer(config), handler)?.run(shutdown.clone()).await?)
    };
    tokio::select! {
        ended = jobs => ended?,
        ended = &mut keeping => return Err(why(ended)),
        // While it loads nothing is in hand.
        () = until_idle_and_cancelled(&values, shutdown) => {}
    }
    stop.cancel();
    telling.abort();
    stopped(keeping).await?;
    store.close().await;
    Ok(())
}

async fn until_idle_and_cancelled(values: &progress::Values, shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    if values.store().progress().is_ready() {
        // The consumer stops by the same token, and finishes what it has.
        std::future::pending::<()>().await;
    }
}

async fn stopped(keeping: JoinHandle<Result<(), TransactionError>>) -> Result<(), RunError> {
    match keeping.await {
        Ok(Ok(())) => Ok(()),
        ended => Err(why(ended)),
    }
}

fn why(ended: Result<Result<(), TransactionError>, JoinError>) -> RunError {
    match ended {
        Ok(Err(error)) => error.into(),
        Ok(Ok(())) | Err(_) => RunError::TaskEnded("progress"),
    }
}

fn consumer(config: &Config) -> ConsumerConfig {
    let (first, longest) = BACKOFF;
    // The environment is waited for; what is wrong with a job itself is never tried again (`error`).
    let retries = RetryConfig::exponential_backoff_blocking_retry(first, 2.0, longest, None).jitter_percent(20);
    let consumer = ConsumerConfig::new(config.kafka.clone(), &config.group, [(config.topics.jobs.clone(), retries)]);
    // Each job has a key of its own: they spread over connections, in no order.
    let order = Order::ByKey { parallel_max: config.connections };
    ConsumerConfig { order, watermarks: WATERMARKS, drain_max: config.drain_max, ..consumer }
}

/// Makes what is missing; waits for the brokers.
async fn make_topics(config: &Config, kafka: &Condition) -> Result<(), RunError> {
    let admin = messaging::settings::client(&config.kafka, &[]).create()?;
    let shape = Shape { partitions: config.topic_partitions, replicas: config.topic_replicas };
    let topics = &config.topics;
    for (topic, how) in [
        (&topics.jobs, &[][..]),
        (&topics.commands, &[]),
        (&topics.progress, &PROGRESS_TOPIC),
        (&topics.notifications, &[]),
    ] {
        while let Err(error) = topics::ensure(&admin, &config.kafka, topic, shape, how).await {
            kafka.set(false, error.to_string());
            tokio::time::sleep(RETRY).await;
        }
    }
    kafka.set(true, "the topics are there");
    Ok(())
}
