//! All that the reader tells operators in figures: the only place that names a metric.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::StatusCode;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::router::Route;

/// The statuses that requests end with; any other is counted as 500, which it would be.
const STATUSES: [u16; 12] = [200, 304, 400, 404, 405, 410, 413, 415, 431, 500, 503, 504];

/// Handles of the metrics of the hot path, looked up by name once.
pub(crate) struct Observe {
    routes: Vec<RouteMetrics>,
    shed: Counter,
    /// The same number, which a counter does not give back.
    shed_count: AtomicU64,
    connections: Gauge,
    made_room: Counter,
}

struct RouteMetrics {
    seconds: Histogram,
    /// By the index of the status; made when the status first occurs, so that impossible ones do not show.
    requests: [OnceLock<Counter>; STATUSES.len()],
}

impl std::fmt::Debug for Observe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Observe")
    }
}

impl Observe {
    pub(crate) fn new() -> Self {
        metrics::describe_counter!("reader_requests_total", "answered requests");
        metrics::describe_histogram!("reader_request_seconds", "from a request's head to its answer's, in seconds");
        metrics::describe_counter!("reader_shed_total", "requests refused because too many are in hand");
        metrics::describe_gauge!("reader_connections", "client connections that are open");
        metrics::describe_counter!(
            "reader_connections_made_room_total",
            "connections closed for a newcomer because they waited longest and no more may be open"
        );
        metrics::describe_counter!("reader_cache_hits_total", "documents that were found kept");
        metrics::describe_counter!("reader_cache_misses_total", "documents that were looked for and not found kept");
        metrics::describe_gauge!("reader_cache_bytes", "bytes of the documents that are kept of the replica");
        metrics::describe_gauge!("reader_replica_healthy", "1 while the replica can be asked");
        metrics::describe_gauge!(
            "reader_replica_share",
            "share of its requests that the replica is to get: 0 while it is left out, 1 once it is back"
        );
        metrics::describe_gauge!(
            "reader_replica_lag_seconds",
            "for how long the replica has lacked something, at most"
        );
        metrics::describe_gauge!("reader_replica_generation", "generation of the view that the replica serves");
        metrics::describe_histogram!(
            "reader_position_wait_seconds",
            "how long look-ups waited for a replica to be where they demand"
        );
        metrics::describe_gauge!("reader_feeds", "streams of changes that are open");
        metrics::describe_counter!("reader_feeds_ended_total", "streams of changes that ended, by reason");
        metrics::describe_counter!("reader_feed_gaps_total", "gaps that feeds told their clients, by reason");
        metrics::describe_counter!("reader_replica_retries_total", "look-ups asked once more, by reason");
        let seconds = |route: Route| histogram!("reader_request_seconds", "route" => route.template());
        let requests = || std::array::from_fn(|_| OnceLock::new());
        Self {
            routes: Route::ALL.map(|r| RouteMetrics { seconds: seconds(r), requests: requests() }).into(),
            shed: counter!("reader_shed_total"),
            shed_count: AtomicU64::new(0),
            connections: gauge!("reader_connections"),
            made_room: counter!("reader_connections_made_room_total"),
        }
    }

    /// One request was answered.
    pub(crate) fn request(&self, route: Route, status: StatusCode, took: Duration) {
        let metrics = &self.routes[route as usize];
        metrics.seconds.record(took.as_secs_f64());
        let known = |code: u16| STATUSES.iter().position(|s| *s == code);
        let index = known(status.as_u16()).or_else(|| known(500)).unwrap_or_default();
        let name =
            || counter!("reader_requests_total", "route" => route.template(), "status" => STATUSES[index].to_string());
        metrics.requests[index].get_or_init(name).increment(1);
    }

    /// A request was refused because too many are in hand.
    pub(crate) fn shed(&self) {
        self.shed.increment(1);
        self.shed_count.fetch_add(1, Ordering::Relaxed);
    }

    /// How many have been refused for that since the start.
    pub(crate) fn shed_count(&self) -> u64 {
        self.shed_count.load(Ordering::Relaxed)
    }

    pub(crate) fn connection_opened(&self) {
        self.connections.increment(1);
    }

    /// One that waited was told to make room.
    pub(crate) fn connection_made_room(&self) {
        self.made_room.increment(1);
    }

    pub(crate) fn connection_closed(&self) {
        self.connections.decrement(1);
    }
}

/// Why a stream of changes ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum FeedEnd {
    /// Its client left.
    Client,
    /// Its client took nothing for too long.
    Stalled,
    /// The reader stops.
    Drain,
}

/// A stream of changes, counted as open until it is dropped.
pub(crate) struct OpenFeed;

impl OpenFeed {
    pub(crate) fn new() -> Self {
        gauge!("reader_feeds").increment(1);
        Self
    }

    pub(crate) fn ended(self, end: FeedEnd) {
        let reason = match end {
            FeedEnd::Client => "client",
            FeedEnd::Stalled => "stalled",
            FeedEnd::Drain => "drain",
        };
        counter!("reader_feeds_ended_total", "reason" => reason).increment(1);
    }
}

impl Drop for OpenFeed {
    fn drop(&mut self) {
        gauge!("reader_feeds").decrement(1);
    }
}

/// A feed told its client that something is missing.
pub(crate) fn feed_gap(reason: &'static str) {
    counter!("reader_feed_gaps_total", "reason" => reason).increment(1);
}

/// A look-up is asked once more.
pub(crate) fn replica_retry(reason: &'static str) {
    counter!("reader_replica_retries_total", "reason" => reason).increment(1);
}

/// A look-up was held back until a replica was where its client demands, or until it would wait no longer.
pub(crate) fn position_wait(waited: Duration) {
    histogram!("reader_position_wait_seconds").record(waited.as_secs_f64());
}

/// A document was looked for in what is kept.
pub(crate) fn cache_looked_at(hit: bool) {
    match hit {
        true => counter!("reader_cache_hits_total").increment(1),
        false => counter!("reader_cache_misses_total").increment(1),
    }
}

/// What is kept of a replica's documents.
pub(crate) fn cache(name: &str, bytes: u64) {
    gauge!("reader_cache_bytes", "replica" => name.to_owned()).set(bytes as f64);
}

/// The state of a replica; the lag keeps its last value while the replica can't be sampled.
pub(crate) fn replica(name: &str, can_answer: bool, share: f64, lag: Duration) {
    gauge!("reader_replica_healthy", "replica" => name.to_owned()).set(f64::from(u8::from(can_answer)));
    gauge!("reader_replica_share", "replica" => name.to_owned()).set(share);
    gauge!("reader_replica_lag_seconds", "replica" => name.to_owned()).set(lag.as_secs_f64());
}

/// The generation that a replica serves; keeps its last value while the replica can't be sampled.
pub(crate) fn replica_generation(name: &str, generation: i32) {
    gauge!("reader_replica_generation", "replica" => name.to_owned()).set(f64::from(generation));
}
