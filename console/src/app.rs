//! What all requests share.

use std::sync::Arc;

use messaging::settings::Settings;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{access::Access, error::Error, redaction::Redaction, redrive::Workers, snapshot::Snapshot};

/// Look-ups, counts and commands at once: each has clients of Kafka for itself.
const LOOKS_MAX: usize = 4;
/// Browsers that are told of each change.
const STREAMS_MAX: usize = 64;

/// Built once in [`crate::serve`], held by every request.
pub(crate) struct App {
    pub(crate) settings: Settings,
    pub(crate) redaction: Redaction,
    pub(crate) access: Arc<Access>,
    pub(crate) workers: Workers,
    /// How things stand.
    pub(crate) now: watch::Receiver<Arc<Snapshot>>,
    looks: Arc<Semaphore>,
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) redrive_max: u64,
    /// Cancelled when streams shall end.
    pub(crate) ending: CancellationToken,
}

impl App {
    pub(crate) fn new(
        config: &crate::config::Config,
        workers: Workers,
        now: watch::Receiver<Arc<Snapshot>>,
        ending: CancellationToken,
    ) -> Self {
        Self {
            settings: config.kafka.clone(),
            redaction: config.redaction.clone(),
            access: Arc::new(Access::new(config.tokens.clone())),
            workers,
            now,
            looks: Arc::new(Semaphore::new(LOOKS_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            redrive_max: config.redrive_max,
            ending,
        }
    }

    /// A place among those who ask Kafka, for as long as it is held.
    pub(crate) fn place(&self) -> Result<OwnedSemaphorePermit, Error> {
        Arc::clone(&self.looks).try_acquire_owned().map_err(|_| Error::Overloaded)
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.now.borrow())
    }
}
