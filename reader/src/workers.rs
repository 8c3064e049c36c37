//! A few threads, half as many as cores unless set, each with a runtime of its own.
//!
//! A client's connection lives on one worker, and so do connections to the replicas: a look-up goes from socket to socket
//! without waking another thread, and what a worker finds ready at once shares a statement. A busy one is woken less often than
//! requests come ([`coalescing`]). All else (samples, change log, admin port) runs beside them.

mod coalescing;

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

use self::coalescing::Coalescing;

thread_local! {
    /// A worker's number, and of how many.
    static CURRENT: Cell<Option<(usize, usize)>> = const { Cell::new(None) };
    /// The requests that come to this thread.
    static LOAD: Coalescing = Coalescing::new(Instant::now());
}

/// The threads; they end, with all that runs on them, when this is dropped.
#[derive(Debug)]
pub(crate) struct Workers {
    handles: Vec<Handle>,
    /// Counts choices, so that workers take turns.
    turns: AtomicUsize,
    _stop: DropGuard,
}

impl Workers {
    /// Starts so many.
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let start = |number: usize| {
            let runtime = Builder::new_current_thread().enable_all().on_thread_park(pause).build()?;
            let (handle, stopped) = (runtime.handle().clone(), stop.clone());
            thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                CURRENT.set(Some((number, count)));
                runtime.block_on(stopped.cancelled());
            })?;
            Ok(handle)
        };
        let handles = (0..count).map(start).collect::<io::Result<_>>()?;
        Ok(Self { handles, turns: AtomicUsize::new(0), _stop: guard })
    }

    /// The next one in turn.
    pub(crate) fn next(&self) -> &Handle {
        self.of(self.turns.fetch_add(1, Ordering::Relaxed))
    }

    /// The one that has the connection of this number to each replica.
    pub(crate) fn of(&self, place: usize) -> &Handle {
        &self.handles[place % self.handles.len()]
    }
}

/// Whether the connections of this number run on the thread that asks.
pub(crate) fn is_here(place: usize) -> bool {
    CURRENT.get().is_some_and(|(number, count)| place % count == number)
}

/// Counts a request of the worker that answers it.
pub(crate) fn count_request() {
    LOAD.with(Coalescing::request);
}

/// What a worker does when it has nothing to do.
#[expect(clippy::disallowed_methods, reason = "nothing is to wake it: that is what the pause is for")]
fn pause() {
    if let Some(pause) = LOAD.with(|load| load.pause(Instant::now())) {
        thread::sleep(pause);
    }
}
