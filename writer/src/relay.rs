//! `writer relay`: the view's change log as a topic, each change exactly once.
//!
//! ```text
//! change log (primary or replica) ─page─> stretch ─> event ──> messaging::relay ──> installed-apps.changed
//!                                            ^                        │ one transaction
//!                                            └──── positions <────────┴──────────> committed offsets of <group>-relay
//! ```
//!
//! Where it stands, Kafka keeps: for each partition of the source the next offset, and beside it the generation, its activation and the ordinal. Only
//! changes below the view's position are read, in one snapshot with it, so a stretch is complete. Offsets are of the same topic in
//! every generation, so positions hold over a promotion and a rollback; that the log went on in another generation is told
//! to every partition of the topic, since what differs between two builds of the view is in no log (ADR 10).
//!
//! Trouble with database and brokers is waited out, visibly. A position that the log does not reach back to, and positions that are
//! lost, stand until `writer relay set`: nothing is skipped by itself.
//!
//! The mechanism, and what it guarantees, is [`messaging::relay`]; this part knows the log and the events.

mod event;
mod observe;
mod set;
mod source;
mod standing;
mod stretch;

use anyhow::Context as _;
use clap::Subcommand;
use messaging::TransactionalRelay;
use metrics_exporter_prometheus::PrometheusHandle;
use shared::admin::{self, Readiness};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use set::{SetArgs, run as set};

use crate::config::Config;
use source::ChangeLogSource;
use standing::Standing;

/// Verbs of `relay`.
#[derive(Debug, Clone, Subcommand)]
pub enum RelayVerb {
    /// Set where the relay goes on, in all partitions: the way out when its position is lost or no longer kept
    ///
    /// A relay that runs ends (exit code 1), and goes on from there when it is started again. Wants a DATABASE_URL that
    /// takes writes: what was done stands in siteview.audit.
    Set(SetArgs),
}

/// Relays until `shutdown`. The admin port is first and last.
///
/// Errors: the admin port cannot be opened, the Kafka client refuses its settings or fails for good, another relay came.
pub async fn run(config: Config, metrics: PrometheusHandle, shutdown: CancellationToken) -> anyhow::Result<()> {
    let listener = TcpListener::bind(config.admin_listen)
        .await
        .with_context(|| format!("WRITER_ADMIN_LISTEN: cannot listen on {}", config.admin_listen))?;
    let (readiness, admin_stop) = (Readiness::new(), CancellationToken::new());
    let standing = Standing::new(&readiness, &config.topic);
    let admin = tokio::spawn(admin::serve(listener, readiness, metrics, admin_stop.clone()));
    let done = relay(&config, standing, &shutdown).await;
    admin_stop.cancel();
    admin.await.context("the admin port died")??;
    done
}

async fn relay(config: &Config, standing: Standing, shutdown: &CancellationToken) -> anyhow::Result<()> {
    let (from, to, group) = (&config.topic, &config.relay.topic, &config.relay.group);
    tracing::info!(view_of = from, topic = to, group, "relaying the change log");
    let accepting = standing.accepting.clone();
    let source = ChangeLogSource::new(&config.database, from, to, standing);
    let relay = TransactionalRelay::new(&config.kafka, config.relay.clone(), source, shutdown)?;
    let running = relay.run();
    tokio::pin!(running);
    tokio::select! {
        done = &mut running => return Ok(done?),
        () = shutdown.cancelled() => accepting.set(false, "draining"),
    }
    // The transaction in hand ends; nothing that is not committed by then was relayed.
    match tokio::time::timeout(config.drain_max, running).await {
        Ok(done) => Ok(done?),
        Err(_) => {
            tracing::warn!(
                "the brokers did not end the last transaction in time; the next relay finds what became of it"
            );
            Ok(())
        }
    }
}
