//! What a figure has to be read with: which code, which machine, how busy it was.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

/// The circumstances of a run.
#[derive(Debug, Clone, Serialize)]
pub struct Circumstances {
    /// Moment of the start, RFC 3339.
    pub at: String,
    /// Commit of the sources, with `-dirty` when files differ from it; `unknown` outside a checkout.
    pub git_revision: String,
    /// Processors that the kernel offers.
    pub cores: usize,
    /// Load average of the last minute, before the start.
    pub load_average: f64,
}

impl Circumstances {
    /// The circumstances at this moment.
    pub fn now() -> Result<Self> {
        Ok(Self {
            at: jiff::Timestamp::now().to_string(),
            git_revision: git_revision(),
            cores: std::thread::available_parallelism()?.get(),
            load_average: load_average()?,
        })
    }
}

/// Load average of the last minute.
pub fn load_average() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg")?;
    text.split(' ').next().context("three averages")?.parse().context("a load average is a number")
}

fn git_revision() -> String {
    let git = |args: &[&str]| {
        let output =
            Command::new("git").arg("-C").arg(Path::new(env!("CARGO_MANIFEST_DIR"))).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|list| !list.is_empty());
    match git(&["rev-parse", "--short=12", "HEAD"]) {
        Some(revision) if changed => format!("{revision}-dirty"),
        Some(revision) => revision,
        None => "unknown".to_owned(),
    }
}
