//! What stands in `deploy/observe` and in the documents, held against the running system: all parts, Debezium included, and
//! Prometheus with its exporters where they are installed.
//!
//! What needs no running system is checked by `deploy/check`.

mod documents;
mod metrics;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use devstack::{Endpoints, Part, postgres};

const PARTS: [Part; 4] = [Part::Connect, Part::Writer, Part::Reader, Part::Prometheus];
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
    let source = postgres::client(endpoints.source_database_url.as_deref().context("source")?).await?;
    let present = "select count(*) > 0 from public.meta_site";
    if !source.query_one(present, &[]).await?.get::<_, bool>(0) {
        source
            .batch_execute(include_str!("../../../deploy/compose/seed.sql"))
            .await
            .context("deploy/compose/seed.sql")?;
    }
    Ok(Some(endpoints))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}
