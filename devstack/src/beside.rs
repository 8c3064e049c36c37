//! A program of the caller's beside a devstack's parts: same rules for its life, its readiness and its log.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

use crate::process::Launch;
use crate::server::{Ready, Server};

const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_GRACE: Duration = Duration::from_secs(10);

/// Starts a binary and returns when a GET of `ready_url` is answered with 200. It has the caller's environment with `env`
/// on top, appends to `log`, is asked to end by SIGTERM, and dies with the caller.
pub async fn start_beside(
    binary: &Path,
    args: &[OsString],
    env: &[(&str, &str)],
    log: &Path,
    ready_url: &str,
) -> Result<Server> {
    let name = binary.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if !binary.exists() {
        bail!("{name}: {} is missing\n  way out: cargo build --release --workspace", binary.display());
    }
    let dir = log.parent().unwrap_or(Path::new("/"));
    let mut launch = Launch::new(&name, binary, dir, log).args(args).inherit_env();
    for (name, value) in env {
        launch = launch.env(name, *value);
    }
    let server = Server::new(launch, Ready::Http(ready_url.to_owned()), START_DEADLINE, (Signal::SIGTERM, STOP_GRACE));
    server.start().await?;
    Ok(server)
}
