//! The writer's verbs: watched while they work, killed in their midst.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use devstack::{bin_dir, eventually};
use serde_json::Value;

use super::System;

/// Until a verb must have ended; it may wait for other parts for minutes.
const VERB_MAX: Duration = Duration::from_secs(600);
/// A verb that was killed so late would have ended; each kill is a little later than the one before it.
const KILLS_AFTER_MS: [u64; 9] = [3, 10, 25, 45, 80, 150, 400, 900, 1600];

/// How a watched verb ended.
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

/// How a verb ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code.
    pub code: Option<i32>,
    /// Standard output, read as JSON; null when it is not.
    pub answer: Value,
    /// Standard error.
    pub said: String,
}

/// Verbs that are at work. They are ended when it is dropped.
#[derive(Debug)]
pub struct Started(Vec<Child>);

impl Started {
    /// Waits for all; blocks.
    pub fn ended(mut self) -> Result<Vec<Outcome>> {
        let children = std::mem::take(&mut self.0);
        tokio::task::block_in_place(|| children.into_iter().map(outcome).collect())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It has ended already, or it ends now.
            let _ = (child.kill(), child.wait());
        }
    }
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

    /// Runs a verb with `--json`, as the login that migrated, to its end. `env` goes over the test's own settings.
    pub fn verb_of_owner(&self, arguments: &[&str], env: &[(&str, &str)]) -> Result<Outcome> {
        tokio::task::block_in_place(|| outcome(self.start_verb(arguments, env)?))
    }

    /// Starts a verb so many times at once, each as [`Self::verb_of_owner`].
    pub fn start_verbs_of_owner(&self, arguments: &[&str], times: usize) -> Result<Started> {
        Ok(Started((0..times).map(|_| self.start_verb(arguments, &[])).collect::<Result<_>>()?))
    }

    /// Runs a verb again and again and kills it, ever later, until it comes to its end.
    pub async fn verb_under_kills(&self, arguments: &[&str]) -> Result<Outcome> {
        for after in KILLS_AFTER_MS.map(Duration::from_millis) {
            let (mut child, started) = (self.start_verb(arguments, &[])?, Instant::now());
            while started.elapsed() < after && child.try_wait()?.is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if child.try_wait()?.is_some() {
                return outcome(child);
            }
            child.kill()?;
            child.wait()?;
        }
        self.verb_of_owner(arguments, &[])
    }

    fn start_verb(&self, arguments: &[&str], env: &[(&str, &str)]) -> Result<Child> {
        let owner = [("DATABASE_URL", self.primary_url.as_str())];
        let env = [&owner[..], env].concat();
        let mut command = Command::new(bin_dir()?.join("writer"));
        command.args(arguments).arg("--json").env_clear().envs(self.writer_environment(&env));
        command.current_dir(&self.folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().context("writer: cargo build --release --workspace")
    }
}

fn resident_kib_max(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn outcome(child: Child) -> Result<Outcome> {
    let output = child.wait_with_output()?;
    let answer = serde_json::from_slice(&output.stdout).unwrap_or_default();
    Ok(Outcome { code: output.status.code(), answer, said: String::from_utf8_lossy(&output.stderr).into_owned() })
}
