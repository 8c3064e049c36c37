//! One running server: how it is started, when it is ready, how it is stopped, and again on the same port and data.

use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::failure::Failure;
use crate::process::{Launch, Process};
use crate::wait::eventually;
use crate::{kafka, postgres};

/// Postgres refuses to start while a backend of a killed postmaster still holds its memory; the next try succeeds.
const PREDECESSOR_LEAVES: [&str; 2] =
    ["pre-existing shared memory block", "lock file \"postmaster.pid\" already exists"];

/// A server that can be killed, stopped and started again. On drop it is killed.
#[derive(Debug)]
pub struct Server {
    pub(crate) launch: Launch,
    pub(crate) ready: Ready,
    pub(crate) start_deadline: Duration,
    /// What asks it to end, and how long it may take to do so.
    pub(crate) stop: (Signal, Duration),
    process: Mutex<Option<Process>>,
}

/// When a server counts as started.
#[derive(Debug)]
pub(crate) enum Ready {
    /// The broker at this address answers a metadata request.
    Kafka(String),
    /// The server of this URL answers a query.
    Postgres(String),
    /// A GET of this URL is answered with 200.
    Http(String),
}

/// Bound of one look: whoever else may listen on the port need not answer.
const LOOK_DEADLINE: Duration = Duration::from_secs(3);

impl Ready {
    async fn holds(&self) -> bool {
        tokio::time::timeout(LOOK_DEADLINE, self.answers()).await.unwrap_or(false)
    }

    async fn answers(&self) -> bool {
        match self {
            Self::Kafka(address) => kafka::answers(address).await,
            Self::Postgres(url) => postgres::answers(url).await,
            Self::Http(url) => reqwest::get(url).await.is_ok_and(|answer| answer.status() == 200),
        }
    }
}

impl Server {
    pub(crate) fn new(launch: Launch, ready: Ready, start_deadline: Duration, stop: (Signal, Duration)) -> Self {
        Self { launch, ready, start_deadline, stop, process: Mutex::default() }
    }

    /// Starts it and waits until it is ready; does nothing when it runs.
    pub async fn start(&self) -> Result<()> {
        if self.pid().is_some() {
            return Ok(());
        }
        self.spawn()?;
        let what = format!("{} ready", self.launch.name);
        match eventually(&what, self.start_deadline, async || self.look().await).await {
            Ok(outcome) => outcome,
            Err(late) => {
                let way_out = "see the log; a machine that is very busy may need a second try";
                Err(self.failure(&late.to_string()).way_out(way_out).into())
            }
        }
    }

    /// Ends it with SIGKILL, as a crash would.
    pub fn kill(&self) {
        if let Some(process) = self.take() {
            process.kill();
        }
    }

    /// Ends it in order; after its grace with SIGKILL.
    pub fn stop(&self) {
        if let Some(process) = self.take() {
            process.stop(self.stop.0, self.stop.1);
        }
    }

    /// Stops it in order and starts it again on the same port and data.
    pub async fn restart(&self) -> Result<()> {
        self.stop();
        self.start().await.with_context(|| format!("{}: restart", self.launch.name))
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.slot().as_ref().filter(|process| process.status().is_none()).map(Process::pid)
    }

    /// The file that holds what it wrote.
    pub fn log(&self) -> &Path {
        &self.launch.log
    }

    /// Sends a signal, such as SIGSTOP and SIGCONT.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = self.slot().as_ref() {
            process.signal(signal);
        }
    }

    /// How it ended, when it ended by itself.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        self.slot().as_ref().and_then(Process::status)
    }

    pub(crate) fn failure(&self, what: &str) -> Failure {
        Failure::new(&self.launch.name, what).log(&self.launch.log)
    }

    /// One look at a start, `None` while it goes on.
    async fn look(&self) -> Option<Result<()>> {
        let Some(status) = self.ended() else {
            return self.ready.holds().await.then_some(Ok(()));
        };
        let failure = self.failure(&format!("it ended with {status} before it was ready"));
        let text = failure.to_string();
        if PREDECESSOR_LEAVES.iter().any(|line| text.contains(line)) {
            return self.spawn().err().map(Err);
        }
        Some(Err(failure.into()))
    }

    fn spawn(&self) -> Result<()> {
        let process = self.launch.spawn()?;
        *self.slot() = Some(process);
        Ok(())
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Process> {
        self.slot().take()
    }
}
