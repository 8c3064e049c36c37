//! The query service of the view: HTTP in, one statement on a replica, the stored bytes out.
//!
//! # Flow of a request
//!
//! ```text
//! server    accepts connections, bounds and drains them (connections, unread)
//! workers   a few threads: a client's connection and one to each replica share it
//! refusals  what is no HTTP request is refused with a problem too
//! gate      the stages of every request, each able to refuse it: size, route, freshness, body, concurrency, deadline
//! router    the whole API on one page
//! routes/*  one look-up each: checked ids in, an `Answer` out
//! replicas  choice of replica and connection, one retry elsewhere, the position that an answer may claim
//! changes   the change log, followed on the replicas, for the feed
//! feed      a subscriber's stream of server-sent events
//! cache     documents kept in memory, off by default
//! overload  how many requests are in hand and refused, for `/readyz`
//! trace     a span for each request, where traces are sent
//! queries   all SQL
//! openapi   the API described, from the handlers
//! answer    conditional requests, content coding, headers
//! ```
//!
//! # Guarantees
//!
//! * The data contains everything before the answer's `Projection-Position`, which was sampled on the same replica before it
//!   was read, or read in the same snapshot: a lower bound, never a hope. And no answer shows more than it claims, so a client
//!   that returns its position is never taken back, whichever replica it meets next.
//! * The document of a site is sent as it is stored, byte for byte; parts of documents keep their text to the digit.
//! * What a client demands, of the position or of a site's version, is contained in the answer, or there is none.
//! * A connection that dies, or a recovery conflict, costs no request as long as another connection can answer in time.
//! * Everything is bounded: connections, requests in hand, heads, bodies, time. Beyond a bound the answer is a refusal
//!   that says so, never a longer queue.
//! * Every answer is JSON: what is not a result is a problem (RFC 9457) with the request's id.
//!
//! # What it refuses to know
//!
//! Kafka, and how to write: sessions are read-only and the role may only select. It follows the active generation by
//! reading which one that is, and names its schema in its statements.

pub mod config;

mod answer;
mod app;
mod body;
mod cache;
mod changes;
mod coding;
mod connections;
mod document;
mod error;
mod feed;
mod freshness;
mod gate;
mod observe;
mod open_files;
mod openapi;
mod overload;
mod page;
mod position;
mod queries;
mod refusals;
mod replicas;
mod request;
mod router;
mod routes;
mod server;
mod trace;
mod unread;
mod workers;

use std::net::SocketAddr;
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use shared::admin::{self, Readiness};
use shared::telemetry::SdkTracer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::changes::Changes;
use crate::config::Config;
use crate::replicas::Replicas;
use crate::workers::Workers;

/// Why the reader can't start or go on; the process ends with exit code 1.
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
    /// The threads that serve requests can't be had.
    #[error("can't start the workers (READER_WORKERS): {0}")]
    Workers(std::io::Error),
    /// A task that never ends has ended: a defect of the reader.
    #[error("a background task ended: {0}")]
    TaskEnded(&'static str),
}

/// Runs the reader until `shutdown` is cancelled and the requests in hand are answered; with a tracer each is a span.
///
/// An absent database is waited for: the admin port says not ready, look-ups are refused with `no-replica`. Stop order:
/// not ready, pre-drain, listener, connections, databases, admin port.
pub async fn run(
    config: Config,
    metrics: PrometheusHandle,
    tracer: Option<SdkTracer>,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    let admin_listener = listen("READER_ADMIN_LISTEN", config.admin_listen).await?;
    let listener = listen("READER_LISTEN", config.listen).await?;
    let readiness = Readiness::new();
    let (accepting, requests) = (readiness.condition("accepting"), readiness.condition("requests"));
    let workers = Arc::new(Workers::start(config.workers).map_err(RunError::Workers)?);
    let (replicas, mut upkeep) = Replicas::start(&config, &workers, readiness.condition("database"));
    let changes = Changes::start(&config, &replicas, &mut upkeep);
    let admin_stop = CancellationToken::new();
    let mut admin = tokio::spawn(admin::serve(admin_listener, readiness, metrics, admin_stop.clone()));
    let app = Arc::new(App::new(config, replicas, changes, tracer));
    upkeep.spawn(overload::tell(app.clone(), requests));
    tracing::info!(listen = %app.config.listen, admin_listen = %app.config.admin_listen, "reader started");

    tokio::select! {
        () = server::serve(listener, app, workers.clone(), accepting, shutdown) => {}
        _ = upkeep.join_next() => return Err(RunError::TaskEnded("upkeep")),
        _ = &mut admin => return Err(RunError::TaskEnded("admin port")),
    }
    upkeep.shutdown().await;
    drop(workers);
    admin_stop.cancel();
    let _ = tokio::time::timeout(server::ADMIN_STOP_MAX, admin).await;
    Ok(())
}

async fn listen(name: &'static str, address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| RunError::Listen { name, address, source })
}
