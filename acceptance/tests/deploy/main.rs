//! What stands in `deploy/observe` and in the documents, held against the running system: all parts, Debezium included, and
//! Prometheus with its exporters where they are installed.
//!
//! What needs no running system is checked by `deploy/check`.

mod documents;
mod import;
mod metrics;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use devstack::{Endpoints, Part, postgres};
use tokio::sync::OnceCell;

const PARTS: [Part; 9] = [
    Part::Connect,
    Part::Writer,
    Part::Reader,
    Part::Relay,
    Part::Jobs,
    Part::Importer,
    Part::Notifier,
    Part::Console,
    Part::Prometheus,
];
/// The tests share the system, and the first of them seeds it.
static SEEDED: OnceCell<()> = OnceCell::const_new();
/// A site of the seed, the one that the README asks for.
const SITE: &str = "895d8684-9d84-825e-abbe-def0faeb8045";

/// The running system with the sites of `docker compose up` in its source; `None`, with the reason, without Prometheus.
async fn system() -> Result<Option<Endpoints>> {
    let version = Command::new("prometheus").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if version.is_err() {
        devstack::warn("skipped: prometheus is not installed, and its package could not be");
        return Ok(None);
    }
    let endpoints = devstack::shared(&PARTS)?;
    let seeding = async || {
        let source = postgres::client(endpoints.source_database_url.as_deref().context("source")?).await?;
        let seed = include_str!("../../../deploy/compose/seed.sql");
        source.batch_execute(seed).await.context("deploy/compose/seed.sql")
    };
    SEEDED.get_or_try_init(seeding).await?;
    Ok(Some(endpoints))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}
