//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use shared::telemetry::SdkTracer;
use tokio::runtime::Handle;
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
    /// Makes a span for each request, where traces are sent.
    pub(crate) tracer: Option<SdkTracer>,
    /// One permit per request in hand.
    pub(crate) in_hand: Semaphore,
    /// One permit per request that may wait for a position or a version.
    pub(crate) waiting: Semaphore,
    /// One permit per byte of bodies that may still be received.
    pub(crate) bodies_room: Semaphore,
    /// One permit per open feed.
    pub(crate) feeds: Arc<Semaphore>,
    /// Cancelled when feeds shall end.
    pub(crate) feeds_end: CancellationToken,
    /// Where work goes that no worker's clients shall wait for.
    pub(crate) runtime: Handle,
    draining: AtomicBool,
}

impl App {
    /// On the runtime that stands beside the workers.
    pub(crate) fn new(
        config: Config,
        replicas: Arc<Replicas>,
        changes: Arc<Changes>,
        tracer: Option<SdkTracer>,
    ) -> Self {
        Self {
            in_hand: Semaphore::new(config.requests_max),
            waiting: Semaphore::new(config.waits_max),
            bodies_room: Semaphore::new(config.bodies_bytes_max),
            feeds: Arc::new(Semaphore::new(config.feeds_max)),
            feeds_end: CancellationToken::new(),
            observe: Observe::new(),
            tracer,
            runtime: Handle::current(),
            draining: AtomicBool::new(false),
            config,
            replicas,
            changes,
        }
    }

    /// From now on every answer closes its connection.
    pub(crate) fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
