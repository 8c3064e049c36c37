//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Semaphore;

use crate::config::Config;
use crate::observe::Observe;
use crate::replicas::Replicas;

/// Built once in [`crate::run`], held by every connection.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) replicas: Arc<Replicas>,
    pub(crate) observe: Observe,
    /// One permit per request in hand.
    pub(crate) in_hand: Semaphore,
    draining: AtomicBool,
}

impl App {
    pub(crate) fn new(config: Config, replicas: Arc<Replicas>) -> Self {
        let in_hand = Semaphore::new(config.requests_max);
        Self { config, replicas, observe: Observe::new(), in_hand, draining: AtomicBool::new(false) }
    }

    /// From now on every answer closes its connection.
    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
