//! One started binary: signals, exit, admin port, log.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use devstack::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Until a started service must be ready; starts take a fraction of a second where nobody else wants the machine.
const READY_MAX: Duration = Duration::from_secs(30);
/// Until a stopped service must have ended; longer than any is allowed to take, so that the test can say how long it took.
const EXIT_MAX: Duration = Duration::from_secs(30);
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// A running writer or reader. It dies with the thread that started it, and when it is dropped.
#[derive(Debug)]
pub struct Service {
    name: String,
    child: Child,
    admin: String,
    url: Option<String>,
    log: PathBuf,
    http: reqwest::Client,
}

/// A condition of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Whether it holds.
    pub holds: bool,
    /// Why.
    pub detail: String,
}

impl Service {
    /// Starts a binary with these arguments, this environment and no other; standard output and error go to `<folder>/<name>.log`.
    pub(crate) fn start(
        name: &str,
        (binary, arguments): (&Path, &[&str]),
        folder: &Path,
        env: &BTreeMap<String, String>,
        admin_port: u16,
        port: Option<u16>,
    ) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let output = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(binary);
        command.args(arguments).env_clear().envs(env).current_dir(folder).stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        die_with_this_thread(&mut command);
        let way_out = || format!("{}: cargo build --release --workspace", binary.display());
        let child = command.spawn().with_context(way_out)?;
        Ok(Self {
            name: name.to_owned(),
            child,
            admin: format!("http://127.0.0.1:{admin_port}"),
            url: port.map(|port| format!("http://127.0.0.1:{port}")),
            log,
            http: reqwest::Client::builder().timeout(ANSWER_MAX).build()?,
        })
    }

    /// The name of its log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its admin port answers.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// Where its API answers. Panics for a service without one.
    pub fn url(&self) -> &str {
        self.url.as_deref().expect("only the reader has an API, and it was given a port")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?);
        kill(pid, signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Ends it as a crash would, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to end; gives how it ended and how long it took.
    pub async fn stop(&mut self) -> Result<(ExitStatus, Duration)> {
        let started = Instant::now();
        self.signal(Signal::SIGTERM)?;
        let status = self.ended().await?;
        Ok((status, started.elapsed()))
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> Result<ExitStatus> {
        let what = format!("{} has ended", self.name);
        eventually(&what, EXIT_MAX, async || self.child.try_wait().ok().flatten()).await
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until `/readyz` says yes.
    pub async fn ready(&mut self) -> Result<()> {
        let started = Instant::now();
        while !self.is_ready().await {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended with {status} before it was ready", self.name);
            }
            if started.elapsed() > READY_MAX {
                bail!("{} is not ready within {READY_MAX:?}: {:?}", self.name, self.conditions().await);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Whether `/readyz` says yes at this moment; no answer is no.
    pub async fn is_ready(&self) -> bool {
        let answer = self.http.get(format!("{}/readyz", self.admin)).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    }

    /// The conditions of `/readyz` by name; the status must agree with them.
    pub async fn conditions(&self) -> Result<BTreeMap<String, Condition>> {
        let answer = self.http.get(format!("{}/readyz", self.admin)).send().await?;
        let status = answer.status().as_u16();
        let report: Value = answer.json().await?;
        let listed = report["conditions"].as_array().context("/readyz lists conditions")?;
        let condition = |row: &Value| {
            let detail = row["detail"].as_str().unwrap_or_default().to_owned();
            (row["name"].as_str().unwrap_or_default().to_owned(), Condition { holds: row["holds"] == true, detail })
        };
        let conditions: BTreeMap<String, Condition> = listed.iter().map(condition).collect();
        let expected = if conditions.values().all(|condition| condition.holds) { 200 } else { 503 };
        ensure!(status == expected, "/readyz of {} is {status} with {conditions:?}", self.name);
        Ok(conditions)
    }

    /// Waits until a condition of `/readyz` holds, or does not; gives its detail.
    pub async fn condition(&self, name: &str, holds: bool, deadline: Duration) -> Result<String> {
        let what = format!("{}: condition {name} is {holds}", self.name);
        let seen = async || {
            let condition = self.conditions().await.ok()?.remove(name)?;
            (condition.holds == holds).then_some(condition.detail)
        };
        eventually(&what, deadline, seen).await
    }

    /// The value of the first metric with this name and all of these labels.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<Option<f64>> {
        let text = self.http.get(format!("{}/metrics", self.admin)).send().await?.text().await?;
        let wanted: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let is_it = |line: &&str| {
            let rest = line.strip_prefix(name).unwrap_or_default();
            rest.starts_with(['{', ' ']) && wanted.iter().all(|label| rest.contains(label))
        };
        let value = text.lines().find(is_it).and_then(|line| line.rsplit(' ').next());
        value.map(|value| value.parse().context("a metric is a number")).transpose()
    }

    /// The sum of all metrics with this name and all of these labels.
    pub async fn metric_sum(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let text = self.http.get(format!("{}/metrics", self.admin)).send().await?.text().await?;
        let wanted: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let is_it = |line: &&str| {
            let rest = line.strip_prefix(name).unwrap_or_default();
            rest.starts_with(['{', ' ']) && wanted.iter().all(|label| rest.contains(label))
        };
        let values = text.lines().filter(is_it).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum())
    }

    /// What it has logged.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It has ended already, or it ends now; nobody is left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Threads of tests and of their runtimes live as long as what they start, so the kernel's rule fits.
fn die_with_this_thread(command: &mut Command) {
    let before_exec = || Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl is a plain system call, and nothing
    // here allocates or locks.
    unsafe { command.pre_exec(before_exec) };
}
