//! The writer's verbs, run as the login that migrated, and killed in their midst.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use devstack::bin_dir;
use serde_json::Value;

use super::System;

/// A verb that was killed so late would have ended; each kill is a little later than the one before it.
const KILLS_AFTER_MS: [u64; 9] = [3, 10, 25, 45, 80, 150, 400, 900, 1600];

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

impl System {
    /// Runs a verb with `--json` to its end. `env` goes over the test's own settings.
    pub fn verb(&self, arguments: &[&str], env: &[(&str, &str)]) -> Result<Outcome> {
        tokio::task::block_in_place(|| outcome(self.start_verb(arguments, env)?))
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
        self.verb(arguments, &[])
    }

    fn start_verb(&self, arguments: &[&str], env: &[(&str, &str)]) -> Result<Child> {
        let owner = [("DATABASE_URL", self.primary_url.as_str())];
        let env = [&owner[..], env].concat();
        let mut command = Command::new(bin_dir()?.join("writer"));
        command.args(arguments).arg("--json").env_clear().envs(self.writer_environment(&env));
        command.current_dir(&self.folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().context("writer: cargo build --release --workspace")
    }

    /// A file of the test.
    pub fn file(&self, name: &str, text: &str) -> Result<String> {
        let path = self.folder.join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }
}

fn outcome(child: Child) -> Result<Outcome> {
    let output = child.wait_with_output()?;
    let answer = serde_json::from_slice(&output.stdout).unwrap_or_default();
    Ok(Outcome { code: output.status.code(), answer, said: String::from_utf8_lossy(&output.stderr).into_owned() })
}
