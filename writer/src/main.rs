//! The writer's process: configuration, telemetry, signals, exit code. What it does stands in the library.

use std::process::ExitCode;

use shared::telemetry::Traces;
use writer::config::{Config, Verb};

fn main() -> ExitCode {
    let config: Config = shared::config::load(Config::new);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fatal(&error.into()),
    };
    let ended = runtime.block_on(run(config));
    // What still waits for a broker's answer is not waited for.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fatal(&error),
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    shared::telemetry::init(&config.common);
    match config.verb {
        Verb::Run => {
            let metrics = shared::telemetry::metrics();
            let traces = config.common.otel_exporter_otlp_endpoint.as_deref().map(|url| Traces::start("writer", url));
            let traces = traces.transpose().map_err(anyhow::Error::msg)?;
            let shutdown = shared::shutdown::on_signals();
            let ended = writer::run(config, metrics, traces.as_ref().map(Traces::tracer), shutdown).await;
            if let Some(traces) = traces {
                traces.stop().await;
            }
            ended?;
            tracing::info!("stopped");
            Ok(())
        }
        Verb::Migrate => writer::migrate::run(&config).await,
        Verb::Position => writer::position::run(&config).await,
    }
}

fn fatal(error: &anyhow::Error) -> ExitCode {
    tracing::error!(error = format!("{error:#}"), "the writer cannot go on");
    ExitCode::FAILURE
}
