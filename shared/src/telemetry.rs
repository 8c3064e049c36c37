//! Logs, metrics and traces of a process.
//!
//! Logs go to standard error, as text or as one JSON object per line; a panic is a log line too. Metrics go to the
//! `metrics` facade and are rendered by the admin port; each service names its metrics in its `observe` module.

pub mod requests;
mod traceparent;
mod traces;

use std::io::IsTerminal;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

pub use opentelemetry_sdk::trace::SdkTracer;
pub use traceparent::{TRACEPARENT, span_context, traceparent};
pub use traces::traced;

use crate::config::{Common, LogFormat};

/// Upper bounds of histograms of time, in seconds: fine where look-ups live (0.25 to 25 ms), coarse up to a minute.
const SECONDS_BUCKETS: [f64; 18] = [
    0.000_25, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.007_5, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
    60.0,
];

/// Upper bounds of all other histograms: counts of records and the like.
const COUNT_BUCKETS: [f64; 12] = [1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 10_000.0];

/// How often samples of histograms are folded into their buckets; they take memory until then.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Starts logging as configured, and logs panics. Once per process, before anything is logged.
///
/// A second call changes nothing: tests start services in one process.
pub fn init(common: &Common) {
    // The filter was checked when the configuration was parsed.
    let filter = EnvFilter::new(&common.rust_log);
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = match common.log_format {
        LogFormat::Text => logs.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => logs.json().flatten_event(true).with_current_span(false).try_init(),
    };
    std::panic::set_hook(Box::new(log_panic));
}

fn log_panic(info: &std::panic::PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let message = info.payload_as_str().unwrap_or("a panic without text");
    let thread = std::thread::current();
    tracing::error!(panic = message, place, thread = thread.name().unwrap_or("unnamed"), "thread panicked");
}

/// Installs the process's metrics recorder and starts its upkeep; the handle renders the metrics.
///
/// Histograms whose names end in `_seconds` have buckets of time, all others buckets of counts. Once per process, inside
/// a tokio runtime, before the first metric is named: what is recorded without a recorder is lost.
pub fn metrics() -> PrometheusHandle {
    let handle = PrometheusBuilder::new()
        .set_buckets(&COUNT_BUCKETS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS))
        .expect("the lists of buckets are not empty")
        .install_recorder()
        .expect("a process installs its metrics recorder once");
    tokio::spawn(upkeep(handle.clone()));
    handle
}

async fn upkeep(handle: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        handle.run_upkeep();
    }
}
