//! An importer as a process.

use std::{
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use devstack::eventually;
use serde_json::Value;

use crate::stage::DEADLINE;

/// How often it is looked whether an importer has given up.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// An importer that runs, and is started again when it gives up, as wherever it is deployed; killed when it is dropped.
pub struct Importer {
    /// `None` once somebody ends it.
    child: Arc<Mutex<Option<Child>>>,
    admin: String,
    http: reqwest::Client,
}

impl Importer {
    /// Starts what answers at `admin`.
    pub fn start(mut command: Command, admin: String) -> Result<Self> {
        let child = command.stdin(Stdio::null()).spawn().context("importer")?;
        let child = Arc::new(Mutex::new(Some(child)));
        tokio::spawn(keep_up(command, Arc::clone(&child)));
        Ok(Self { child, admin, http: reqwest::Client::new() })
    }

    /// SIGKILL, in whatever it is doing.
    pub fn kill(self) -> Result<()> {
        let mut child = held(&self.child).take().context("it runs")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM; gives the exit code.
    pub async fn stop(self) -> Result<Option<i32>> {
        let mut child = held(&self.child).take().context("it runs")?;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        eventually("the importer has stopped", DEADLINE, async || child.try_wait().ok()?).await.map(|it| it.code())
    }

    /// What `/readyz` says.
    pub async fn readiness(&self) -> Option<Value> {
        let answer = self.http.get(format!("http://{}/readyz", self.admin)).send().await.ok()?;
        serde_json::from_str(&answer.text().await.ok()?).ok()
    }

    /// A metric's value; 0 while it is not there.
    pub async fn metric(&self, line: &str) -> Result<f64> {
        let text = self.http.get(format!("http://{}/metrics", self.admin)).send().await?.text().await?;
        let value = text.lines().find_map(|it| it.strip_prefix(line)?.trim().parse().ok());
        Ok(value.unwrap_or_default())
    }
}

impl Drop for Importer {
    fn drop(&mut self) {
        if let Some(mut child) = held(&self.child).take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn held(child: &Mutex<Option<Child>>) -> MutexGuard<'_, Option<Child>> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One that stood still for longer than a transaction may is fenced when it goes on, and ends with exit code 1: a busy machine is no
/// fault of it.
async fn keep_up(mut command: Command, child: Arc<Mutex<Option<Child>>>) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let mut child = held(&child);
        let Some(running) = child.as_mut() else { return };
        if let Ok(Some(status)) = running.try_wait().as_ref().map(Option::as_ref)
            && status.code() == Some(1)
        {
            *child = command.spawn().ok();
        }
    }
}
