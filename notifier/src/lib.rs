//! Tells browsers what becomes of their imports (patterns 2 and 6): any instance serves any channel, by websocket or server-sent events.
//!
//! ```text
//! topic notifications ─> follow ─> hub ─┬─ history: what is kept of each channel, to be replayed
//!                       (one thread)    └─ outbox of each who listens ─> session ─> socket │ events ─> browser
//! browser ─> server (places, limits) ─> gate (Origin) ─> routes: make a channel, listen to one
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | `follow` | reads the whole topic, joins no group |
//! | `cursor`, `frame`, `history`, `outbox`, `rate` | pure: where a client is, what it gets, what is kept, what waits, how often |
//! | `hub`, `session` | who listens to what; one client's stream |
//! | `server`, `gate`, `router`, `routes`, `error` | connections and the API |
//!
//! # Guarantees
//!
//! * A client gets the frames of its channel in the order of the log, each once per connection. When it comes back with the cursor of
//!   the last frame that it has, it gets what it has not, at whichever instance, or a `gap`.
//! * Frames of progress hold the whole state of an import, so the latest stands for those before it: they are coalesced in the history
//!   and on the way. Nothing else is ever left out in silence: the state that jobs serves is the truth, and `gap` says when to ask for it.
//! * A slow client costs a bounded queue, then its connection; nobody else waits for it.
//! * Only who was given a channel's id can listen to it: it is signed, expires, and is not guessed; only pages of allowed origins can ask.
//! * Everything is bounded: connections, those of a channel, heads, bodies, messages, queues, history, writes, rates.
//!
//! # What it refuses to know
//!
//! SQL, contacts, and what an import is beyond its frames. It stores nothing: the topic is what it can replay.

pub mod config;

mod app;
mod cursor;
mod error;
mod follow;
mod frame;
mod gate;
mod history;
mod hub;
mod observe;
mod outbox;
mod rate;
mod router;
mod routes;
mod server;
mod session;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use messaging::topics::{self, Shape};
use metrics_exporter_prometheus::PrometheusHandle;
use rdkafka::error::KafkaError;
use shared::{
    admin::{self, Condition, Readiness},
    config::Invalid,
    telemetry::SdkTracer,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, now_unix_s},
    config::Config,
    follow::Following,
    hub::{Hub, Limits},
};

/// Time that the admin port gets to finish its answers, last of all.
const ADMIN_STOP_MAX: Duration = Duration::from_millis(500);
/// How often expired channels are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// Pause before the topic is looked for again while the brokers are away.
const RETRY: Duration = Duration::from_secs(1);

/// Why the notifier can't start or go on; the process ends with exit code 1.
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
    /// Something is not configured.
    #[error(transparent)]
    Config(#[from] Invalid),
    /// The Kafka client refuses its settings.
    #[error("the Kafka client: {0}")]
    Kafka(#[from] KafkaError),
    /// A task that never ends has ended: a defect of the notifier.
    #[error("a background task ended: {0}")]
    TaskEnded(&'static str),
}

/// Serves until `shutdown`; then clients are told to come back elsewhere.
///
/// Absent brokers are waited for: the admin port says not ready, clients are refused with 503. Stop order: not ready, streams and
/// listener, connections, the follower, admin port.
pub async fn run(
    config: Config,
    metrics: PrometheusHandle,
    tracer: Option<SdkTracer>,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    observe::describe();
    let secret = config.channel_secret.clone().ok_or_else(|| Invalid::new("CHANNEL_SECRET_FILE", "is required"))?;
    let admin_listener = TcpListener::bind(config.admin_listen).await;
    let admin_listener =
        admin_listener.map_err(|error| cannot_listen("NOTIFIER_ADMIN_LISTEN", config.admin_listen, error))?;
    let listener =
        server::listen(config.listen).map_err(|error| cannot_listen("NOTIFIER_LISTEN", config.listen, error))?;
    let readiness = Readiness::new();
    let (caught_up, accepting) = (readiness.condition("notifications"), readiness.condition("accepting"));
    let (admin_stop, stop) = (CancellationToken::new(), CancellationToken::new());
    let mut admin = tokio::spawn(admin::serve(admin_listener, readiness, metrics, admin_stop.clone()));
    let hub = Hub::new(limits(&config));
    let mut following = tokio::spawn(follow(config.clone(), hub.clone(), caught_up.clone(), stop.clone()));
    let mut sweeping = tokio::spawn(sweep(hub.clone()));
    let app = Arc::new(App::new(&config, secret, hub, caught_up, shutdown.clone()));
    let serving =
        server::serve(listener, router::router(app, tracer), config.connections_max, config.send_max, shutdown.clone());
    accepting.set(true, "accepting connections");
    tracing::info!(listen = %config.listen, admin_listen = %config.admin_listen, "notifier started");
    let draining = accepting.clone();
    tokio::spawn(async move {
        shutdown.cancelled().await;
        draining.set(false, "draining");
    });
    tokio::select! {
        () = serving => {}
        ended = &mut following => return Err(ended.map_or(RunError::TaskEnded("what reads Kafka"), why)),
        _ = &mut sweeping => return Err(RunError::TaskEnded("sweep")),
        _ = &mut admin => return Err(RunError::TaskEnded("admin port")),
    }
    stop.cancel();
    let _ = following.await;
    sweeping.abort();
    admin_stop.cancel();
    let _ = tokio::time::timeout(ADMIN_STOP_MAX, admin).await;
    Ok(())
}

fn limits(config: &Config) -> Limits {
    Limits {
        channel_frames_max: config.history_frames_max,
        bytes_max: config.history_bytes_max,
        channel_connections_max: config.channel_connections_max,
        queue_frames_max: config.queue_frames_max,
        progress_interval: config.progress_interval,
    }
}

/// Makes the topic where it is missing, then reads it until `stop`.
async fn follow(config: Config, hub: Hub, caught_up: Condition, stop: CancellationToken) -> Result<(), KafkaError> {
    let shape = Shape { partitions: config.topic_partitions, replicas: config.topic_replicas };
    // A channel's frames are there for as long as the channel is good, and an hour more.
    let retention_ms = (config.channel_lifetime + Duration::from_secs(3600)).as_millis().to_string();
    let admin = messaging::settings::client(&config.kafka, &[]).create()?;
    let topic = [("retention.ms", retention_ms.as_str())];
    while let Err(error) = topics::ensure(&admin, &config.kafka, &config.topic, shape, &topic).await {
        caught_up.set(false, error.to_string());
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
    let following = Following { settings: config.kafka, topic: config.topic, hub, caught_up };
    let reading = tokio::task::spawn_blocking(move || following.run(&stop)).await;
    reading.unwrap_or(Err(KafkaError::Canceled))
}

async fn sweep(hub: Hub) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        ticks.tick().await;
        hub.sweep(now_unix_s());
    }
}

fn why(ended: Result<(), KafkaError>) -> RunError {
    ended.err().map_or(RunError::TaskEnded("what reads Kafka"), RunError::Kafka)
}

fn cannot_listen(name: &'static str, address: SocketAddr, source: std::io::Error) -> RunError {
    RunError::Listen { name, address, source }
}
