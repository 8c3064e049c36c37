//! The redrives that run in this process: begun, stopped, forgotten.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
};

use messaging::settings::Settings;
use tokio_util::task::TaskTracker;

use super::{Redrive, RedriveError, Stop, work};

/// Redrives at once: each has three clients of Kafka.
const WORKERS_MAX: usize = 4;
/// Failures that are remembered.
const FAILURES_MAX: usize = 100;

/// All of them; clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Workers {
    inner: Arc<Mutex<Inner>>,
    tasks: TaskTracker,
}

#[derive(Default)]
struct Inner {
    /// Dead-letter topic and what stops it, by id.
    running: HashMap<String, (String, mpsc::Sender<Stop>)>,
    failures: HashMap<String, String>,
}

impl Workers {
    /// Works on a redrive, in a thread of its own. Refuses a second one of a topic, and too many.
    pub(crate) fn start(
        &self,
        settings: &Settings,
        redrive: Redrive,
        by: String,
        reason: String,
    ) -> Result<(), RedriveError> {
        let (stop, stopped) = mpsc::channel();
        let id = redrive.id.clone();
        {
            let mut inner = self.inner();
            if let Some((other, _)) = inner.running.iter().find(|(_, (topic, _))| *topic == redrive.dead_letter_topic) {
                let why = format!("the redrive {other} works on {}: stop it first", redrive.dead_letter_topic);
                return Err(RedriveError::Refused(why));
            }
            if inner.running.len() >= WORKERS_MAX {
                return Err(RedriveError::Refused(format!("{WORKERS_MAX} redrives run, as many as may")));
            }
            inner.failures.remove(&id);
            inner.running.insert(id.clone(), (redrive.dead_letter_topic.clone(), stop));
        }
        let (settings, workers) = (settings.clone(), self.clone());
        self.tasks.spawn_blocking(move || {
            let ended = work(&settings, redrive, &by, &reason, &stopped);
            workers.ended(&id, ended);
        });
        Ok(())
    }

    /// Asks a worker to stop; `false` when none of that name runs here.
    pub(crate) fn stop(&self, id: &str, stop: Stop) -> bool {
        self.inner().running.get(id).is_some_and(|(_, sender)| sender.send(stop).is_ok())
    }

    /// Whether one runs here, and why it failed when it did.
    pub(crate) fn look(&self, id: &str) -> (bool, Option<String>) {
        let inner = self.inner();
        (inner.running.contains_key(id), inner.failures.get(id).cloned())
    }

    /// Stops all and waits for them.
    pub(crate) async fn drain(&self) {
        let stop = Stop { by: "console".to_owned(), reason: "the console stops".to_owned(), everywhere: false };
        for (_, sender) in self.inner().running.values() {
            let _ = sender.send(stop.clone());
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn ended(&self, id: &str, ended: Result<Redrive, RedriveError>) {
        let mut inner = self.inner();
        inner.running.remove(id);
        match ended {
            Ok(redrive) => tracing::info!(id, state = ?redrive.state, moved = redrive.counts.moved, "a redrive ended"),
            Err(error) => {
                match &error {
                    RedriveError::Fenced(_) => tracing::info!(id, %error, "a redrive ended here"),
                    error => {
                        tracing::error!(id, %error, "a redrive ended; what it had committed stands, and it can be continued");
                    }
                }
                if inner.failures.len() >= FAILURES_MAX {
                    inner.failures.clear();
                }
                inner.failures.insert(id.to_owned(), error.to_string());
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Each change is one insertion or removal, so a panic elsewhere leaves the maps whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
