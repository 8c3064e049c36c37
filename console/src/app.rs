//! What all requests share.

use std::sync::Arc;

use messaging::settings::Settings;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::{access::Access, redaction::Redaction, redrive::Workers, snapshot::Snapshot};

/// Look-ups of records at once: each has a client of Kafka for itself.
const READS_MAX: usize = 4;
/// Browsers that are told of each change.
const STREAMS_MAX: usize = 64;

/// Built once in [`crate::serve`], held by every request.
pub(crate) struct App {
    pub(crate) settings: Settings,
    pub(crate) redaction: Redaction,
    pub(crate) access: Access,
    pub(crate) workers: Workers,
    /// How things stand.
    pub(crate) now: watch::Receiver<Arc<Snapshot>>,
    pub(crate) reads: Arc<Semaphore>,
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
            access: Access::new(config.tokens.clone()),
            workers,
            now,
            reads: Arc::new(Semaphore::new(READS_MAX)),
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            redrive_max: config.redrive_max,
            ending,
        }
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.now.borrow())
    }
}
