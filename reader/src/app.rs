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
    /// One permit per request that may wait for a position or a version.
    pub(crate) waiting: Semaphore,
    /// One permit per byte of bodies that may still be received.
    pub(crate) bodies_room: Semaphore,
    draining: AtomicBool,
}

impl App {
    pub(crate) fn new(config: Config, replicas: Arc<Replicas>) -> Self {
        let in_hand = Semaphore::new(config.requests_max);
        let (waiting, bodies_room) = (Semaphore::new(config.waits_max), Semaphore::new(config.bodies_bytes_max));
        let draining = AtomicBool::new(false);
        Self { config, replicas, observe: Observe::new(), in_hand, waiting, bodies_room, draining }
    }

    /// From now on every answer closes its connection.
    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
