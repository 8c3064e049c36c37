//! The notifier's process: configuration, telemetry, signals. What it does stands in the library.

use std::process::ExitCode;

use notifier::config::{Config, Verb};
use shared::telemetry::traced;

fn main() -> ExitCode {
    let config: Config = shared::config::load(Config::new);
    shared::process::run("the notifier", run(config))
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    shared::telemetry::init(&config.common);
    match &config.verb {
        Verb::Run => {
            let metrics = shared::telemetry::metrics();
            let (shutdown, endpoint) =
                (shared::shutdown::on_signals(), config.common.otel_exporter_otlp_endpoint.clone());
            traced("notifier", endpoint, async |tracer| notifier::run(config, metrics, tracer, shutdown).await)
                .await??;
            tracing::info!("stopped");
        }
        Verb::Healthcheck(asked) => return Ok(asked.run(config.admin_listen)),
    }
    Ok(ExitCode::SUCCESS)
}
