//! The process of jobs: configuration, telemetry, signals. What it does stands in the library.

use std::process::ExitCode;

use jobs::config::{Config, Verb};
use shared::telemetry::traced;

fn main() -> ExitCode {
    let config: Config = shared::config::load(Config::new);
    shared::process::run("jobs", run(config))
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    shared::telemetry::init(&config.common);
    match config.verb {
        Verb::Run => {
            let metrics = shared::telemetry::metrics();
            let (shutdown, endpoint) =
                (shared::shutdown::on_signals(), config.common.otel_exporter_otlp_endpoint.clone());
            traced("jobs", endpoint, async |tracer| jobs::serve(config, metrics, tracer, shutdown).await).await??;
            tracing::info!("stopped");
            Ok(ExitCode::SUCCESS)
        }
        Verb::Healthcheck(asked) => Ok(asked.run(config.admin_listen)),
    }
}
