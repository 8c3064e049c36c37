//! The reader's process: configuration, telemetry, signals. What it does stands in the library.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use reader::config::{Config, Verb};
use shared::telemetry::Traces;

/// A request allocates some fifty times; the system's allocator took a ninth of the CPU time, this one takes half of that.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let config: Config = shared::config::load(Config::new);
    shared::process::run("the reader", run(config))
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    shared::telemetry::init(&config.common);
    match config.verb {
        Verb::Run => {
            let metrics = shared::telemetry::metrics();
            let traces = config.common.otel_exporter_otlp_endpoint.as_deref().map(|url| Traces::start("reader", url));
            let traces = traces.transpose().map_err(anyhow::Error::msg)?;
            let shutdown = shared::shutdown::on_signals();
            let ended = reader::run(config, metrics, traces.as_ref().map(Traces::tracer), shutdown).await;
            if let Some(traces) = traces {
                traces.stop().await;
            }
            ended?;
            tracing::info!("stopped");
            Ok(ExitCode::SUCCESS)
        }
        Verb::Healthcheck(asked) => Ok(asked.run(config.admin_listen)),
    }
}
