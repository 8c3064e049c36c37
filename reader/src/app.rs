//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::changes::Changes;
use crate::config::Config;
use crate::observe::Observe;
use crate::replicas::Replicas;

/// Built once in [`crate::run`], held by every connection.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) replicas: Arc<Replicas>,
    pub(crate) changes: Arc<Changes>,
    pub(crate) observe: Observe,
    /// One permit per request in hand.
    pub(crate) in_hand: Semaphore,
    /// One permit per open feed.
    pub(crate) feeds: Arc<Semaphore>,
    /// Cancelled when feeds shall end.
    pub(crate) feeds_end: CancellationToken,
    draining: AtomicBool,
}

impl App {
    pub(crate) fn new(config: Config, replicas: Arc<Replicas>, changes: Arc<Changes>) -> Self {
        let (in_hand, feeds) = (Semaphore::new(config.requests_max), Arc::new(Semaphore::new(config.feeds_max)));
        let (observe, feeds_end, draining) = (Observe::new(), CancellationToken::new(), AtomicBool::new(false));
        Self { config, replicas, changes, observe, in_hand, feeds, feeds_end, draining }
    }

    /// From now on every answer closes its connection.
    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
