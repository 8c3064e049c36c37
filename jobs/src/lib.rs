//! Takes files of contacts and makes jobs of them (patterns 2 and 6): the beginning of an import, and what is told about it by HTTP.
//!
//! ```text
//! POST /v1/imports ── intake ─> text ─> table ─> cut ──┐           (while it streams)
//!                                 │      └─ header     ├─> Plan: rows, jobs, columns; or what is wrong, with its line
//!                                 └──> spool file      ┘
//! spool file ─ table ─ cut ─> produce: every job + open + `import.accepted`, one Kafka transaction ──> 202
//! import.progress ─> KvStore ─> GET /v1/imports/{id}
//! import_row_error (Postgres) ─> errors ─> GET /v1/imports/{id}/errors.csv
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | `intake`, `text`, `table`, `lines`, `header` | a body as chunks; chunks as UTF-8; UTF-8 as rows, within limits; their lines; which column is what |
//! | `check`, `spool`, `cut`, `refusal` | the pass while it streams; the file on disk; rows to jobs; what is wrong with a file |
//! | `produce`, `log` | the second pass, into one transaction; topics, stores and commands |
//! | `errors`, `queries` | the error file; the SQL behind it |
//! | `app`, `router`, `routes`, `gate`, `error` | the API and the page |
//!
//! # Guarantees
//!
//! * **All or nothing.** Until the transaction is committed nothing of an import exists, whatever is killed, cut off or full;
//!   afterwards nothing of it can be lost. 202 comes after the commit.
//! * **A repeat is the same import.** With an `Idempotency-Key` the import's id follows from channel, owner and key, and the transactional
//!   id from the import's: two that work at once, here or at two instances, fence each other, and who comes later finds the first.
//! * **Memory is flat.** Rows, chunks and the client's queue are bounded; a file is on disk, and only there.
//! * **What is accepted can be asked for**: a GET waits until everything is read that was committed before it came.
//!
//! # What it refuses to know
//!
//! Whether a row is a contact: importers say so. What browsers are told: the notifier does that.

mod app;
mod check;
pub mod config;
mod cut;
mod error;
mod errors;
mod gate;
mod header;
mod intake;
mod lines;
mod log;
mod observe;
mod produce;
mod queries;
mod refusal;
mod router;
mod routes;
mod spool;
mod table;
mod text;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use metrics_exporter_prometheus::PrometheusHandle;
use shared::{
    admin::{self, Readiness},
    telemetry::SdkTracer,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{app::App, config::Config, log::Log, spool::Spool};

/// Time for uploads under way once the service stops; a client whose upload is cut sends it again, with its key.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Time that the admin port gets to finish its answers, last of all.
const ADMIN_STOP_MAX: Duration = Duration::from_millis(500);

/// Why the service can't start or go on; the process ends with exit code 1.
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
    /// The spool's folder can't be used.
    #[error("JOBS_SPOOL {folder}: {why}")]
    Spool {
        /// The folder.
        folder: String,
        /// What the system said, or who has it.
        why: String,
    },
    /// The Kafka client refuses its settings.
    #[error("the Kafka client: {0}")]
    Kafka(#[from] rdkafka::error::KafkaError),
    /// A store can't be followed.
    #[error(transparent)]
    Store(#[from] messaging::kv_store::KvStoreError),
    /// A task that never ends has ended: a defect of the service.
    #[error("a background task ended: {0}")]
    TaskEnded(&'static str),
}

/// Serves until `shutdown`; then uploads under way are finished, if that takes not too long.
///
/// Absent brokers are waited for: the admin port says not ready, and uploads are refused.
pub async fn serve(
    config: Config,
    metrics: PrometheusHandle,
    tracer: Option<SdkTracer>,
    shutdown: CancellationToken,
) -> Result<(), RunError> {
    observe::describe();
    let admin_listener = listen("JOBS_ADMIN_LISTEN", config.admin_listen).await?;
    let listener = listen("JOBS_LISTEN", config.listen).await?;
    let readiness = Readiness::new();
    let (kafka, swept) = (readiness.condition("kafka"), readiness.condition("spool"));
    let (admin_stop, stop) = (CancellationToken::new(), CancellationToken::new());
    let mut admin = tokio::spawn(admin::serve(admin_listener, readiness, metrics, admin_stop.clone()));
    let spool = Arc::new(Spool::open(&config.spool, config.spool_bytes_max)?);
    let log = Log::start(&config, stop.clone())?;
    let mut preparing = tokio::spawn(log::prepare(log.clone(), Arc::clone(&spool), kafka, swept));
    let app = Arc::new(App::new(&config, log, spool, shutdown.clone()));
    let served =
        axum::serve(listener, router::router(app, tracer)).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let mut served = tokio::spawn(served.into_future());
    tracing::info!(listen = %config.listen, admin_listen = %config.admin_listen, "jobs started");
    tokio::select! {
        // Page and API end by the same token, and where nobody is connected at once: that is no defect.
        biased;
        () = shutdown.cancelled() => {}
        _ = &mut served => return Err(RunError::TaskEnded("page and API")),
        _ = &mut preparing => return Err(RunError::TaskEnded("what follows the log")),
        _ = &mut admin => return Err(RunError::TaskEnded("admin port")),
    }
    if tokio::time::timeout(DRAIN_MAX, served).await.is_err() {
        tracing::warn!("uploads that did not end in time are cut; nothing of them exists");
    }
    stop.cancel();
    preparing.abort();
    admin_stop.cancel();
    let _ = tokio::time::timeout(ADMIN_STOP_MAX, admin).await;
    Ok(())
}

async fn listen(name: &'static str, address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| RunError::Listen { name, address, source })
}
