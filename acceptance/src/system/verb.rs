//! Verbs of the writer that are watched while they work.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use devstack::{bin_dir, eventually};

use super::System;

/// Until a verb must have ended; it may wait for other parts for minutes.
const VERB_MAX: Duration = Duration::from_secs(600);

/// How a verb ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub said: String,
    /// Standard error.
    pub log: String,
    /// Most memory it had resident, in KiB, as far as it was seen.
    pub rss_kib_max: u64,
}

impl System {
    /// Runs a verb with the writer's environment and further variables, whatever its exit code will be.
    pub async fn verb(&self, arguments: &[&str], env: &[(&str, &str)]) -> Result<Ended> {
        let name = self.next_name("verb");
        let file = |kind: &str| self.folder.join(format!("{name}.{kind}"));
        let (said, log) = (file("out"), file("log"));
        let mut command = Command::new(bin_dir()?.join("writer"));
        command.args(arguments).env_clear().envs(self.writer_environment(env)).current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(File::create(&said)?).stderr(File::create(&log)?);
        let mut child = command.spawn().context("writer: cargo build --release --workspace")?;
        let (pid, mut rss_kib_max) = (child.id(), 0);
        let ended = async || {
            rss_kib_max = rss_kib_max.max(resident_kib_max(pid).unwrap_or(0));
            child.try_wait().ok().flatten()
        };
        let status = eventually(&format!("writer {arguments:?} has ended"), VERB_MAX, ended).await;
        // It has ended already, or has had its time.
        let _ = child.kill();
        let (said, log) = (fs::read_to_string(said)?, fs::read_to_string(log)?);
        Ok(Ended { code: status.with_context(|| log.clone())?.code(), said, log, rss_kib_max })
    }
}

fn resident_kib_max(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
