//! The operations dashboard over every consumer of a Kafka cluster: what is behind and why, what stands, what is parked, what is
//! dead; and what a person does about it, each with a reason, each audited.
//!
//! ```text
//! Kafka ──┬─ topics that tell of trouble ─> follow ─> board ─┐
//!         └─ brokers, asked now and then ─> survey ──────────┼─> snapshot ─> page, server-sent events, JSON
//! admin ports of services ────────────────> services ────────┘
//! person ─> gate (who, from where) ─> routes ─┬─> commands: into the group's commands topic; its member follows it
//!                                             └─> redrive: dead letters back to their topic, in transactions
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | `follow`, `board`, `survey`, `age`, `lag` | one thread that reads Kafka; what it has read, folded; what brokers tell; how old the next record of a group is; why a group is behind |
//! | [`services`], `view` | what admin ports of services say; generations of the view and its replicas, read off that |
//! | `snapshot`, `page` | one moment as data, and as a page |
//! | `records`, `letter`, `fingerprint`, [`redaction`] | single records on demand; kinds of dead letters; what nobody may see |
//! | `commands`, `redrive` | what changes something |
//! | [`access`], `server`, `gate`, `router`, `routes`, `error` | who may do what, and the API |
//! | `verbs` | the same on the command line, straight on Kafka |
//!
//! # Guarantees
//!
//! * It decides nothing. A command names a record; the member of the group that has the partition follows it, or refuses it.
//! * A dead letter is given back once, whatever is stopped, killed or begun twice.
//! * What it shows is redacted before it leaves the thread that read it.
//! * Everything is bounded: topics, groups, kinds, events, look-ups, streams, sessions, time.
//!
//! # What it refuses to know
//!
//! SQL, and what records are about. It is no browser of topics: it shows records that are dead or that hold something up.

pub mod access;
pub mod config;
pub mod redaction;
pub mod services;

mod age;
mod app;
mod board;
mod commands;
mod error;
mod fingerprint;
mod follow;
mod gate;
mod lag;
mod letter;
mod observe;
mod page;
mod records;
mod redrive;
mod router;
mod routes;
mod server;
mod snapshot;
mod survey;
pub mod verbs;
mod view;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use metrics_exporter_prometheus::PrometheusHandle;
use rdkafka::error::KafkaResult;
use shared::{
    admin::{self, Readiness},
    telemetry::SdkTracer,
};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinError, JoinHandle},
};
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    config::Config,
    follow::{Following, follow},
    redrive::Workers,
    services::Services,
    snapshot::Snapshot,
};

/// Time for answers and redrives under way once the console stops.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Time that the admin port gets to finish its answers, last of all.
const ADMIN_STOP_MAX: Duration = Duration::from_millis(500);

/// Why the console can't start or go on; the process ends with exit code 1.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An address can't be listened on.
    #[error("{name} {address}: {source}")]
    Listen {
        /// The variable that sets the address.
        name: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The Kafka client refuses its settings.
    #[error("the Kafka client: {0}")]
    Kafka(#[from] rdkafka::error::KafkaError),
    /// A task that never ends has ended: a defect of the console.
    #[error("a background task ended: {0}")]
    TaskEnded(&'static str),
}

/// Serves until `shutdown`; then redrives are stopped, to be continued later, and answers finished.
///
/// Absent brokers are waited for: the page says so, and the admin port says not ready.
pub async fn serve(
    config: Config,
    metrics: PrometheusHandle,
    tracer: Option<SdkTracer>,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let admin_listener = listen("CONSOLE_ADMIN_LISTEN", config.admin_listen).await?;
    let listener = listen("CONSOLE_LISTEN", config.listen).await?;
    let readiness = Readiness::new();
    let kafka = readiness.condition("kafka");
    let (admin_stop, stop) = (CancellationToken::new(), CancellationToken::new());
    let mut admin = tokio::spawn(admin::serve(admin_listener, readiness, metrics, admin_stop.clone()));
    let (workers, services) = (Workers::default(), Services::default());
    let mut asking = tokio::spawn(services.clone().follow(config.services.clone(), config.survey_interval));
    let (mut following, now) = start_following(&config, workers.clone(), services, stop.clone());
    let mut observing = tokio::spawn(observe::follow(now.clone(), kafka));
    let app = Arc::new(App::new(&config, workers.clone(), now, shutdown.clone()));
    let mut reloading = tokio::spawn(access::follow(Arc::clone(&app.access), config.tokens_file.clone()));
    let served = server::serve(listener, router::router(app, tracer), server::Limits::default(), shutdown.clone());
    let mut served = tokio::spawn(served);
    tracing::info!(listen = %config.listen, admin_listen = %config.admin_listen, "console started");
    tokio::select! {
        // Page and API end by the same token, and where nobody is connected at once: that is no defect.
        biased;
        () = shutdown.cancelled() => {}
        _ = &mut served => return Err(RunError::TaskEnded("page and API")),
        ended = &mut following => return Err(why(ended)),
        _ = &mut observing => return Err(RunError::TaskEnded("metrics")),
        _ = &mut asking => return Err(RunError::TaskEnded("services")),
        _ = &mut reloading => return Err(RunError::TaskEnded("tokens")),
        _ = &mut admin => return Err(RunError::TaskEnded("admin port")),
    }
    let drained = async { tokio::join!(workers.drain(), served) };
    if tokio::time::timeout(DRAIN_MAX, drained).await.is_err() {
        tracing::warn!("what did not end in time is cut; redrives can be continued");
    }
    stop.cancel();
    let _ = following.await;
    asking.abort();
    reloading.abort();
    admin_stop.cancel();
    let _ = tokio::time::timeout(ADMIN_STOP_MAX, admin).await;
    Ok(())
}

/// Starts the thread that reads Kafka.
fn start_following(
    config: &Config,
    workers: Workers,
    services: Services,
    stop: CancellationToken,
) -> (JoinHandle<KafkaResult<()>>, watch::Receiver<Arc<Snapshot>>) {
    let (publish, now) = watch::channel(Arc::new(Snapshot::default()));
    let following = Following {
        settings: config.kafka.clone(),
        redaction: config.redaction.clone(),
        only_groups: config.only_groups.clone(),
        survey_interval: config.survey_interval,
        workers,
        services,
    };
    (tokio::task::spawn_blocking(move || follow(following, &publish, &stop)), now)
}

fn why(ended: Result<KafkaResult<()>, JoinError>) -> RunError {
    match ended {
        Ok(Err(error)) => error.into(),
        Ok(Ok(())) | Err(_) => RunError::TaskEnded("what reads Kafka"),
    }
}

async fn listen(name: &'static str, address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| RunError::Listen { name, address, source })
}
