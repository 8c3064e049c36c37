//! The importer's process: configuration, telemetry, signals. What it does stands in the library.

use std::process::ExitCode;

use importer::config::{Config, Verb};
use shared::telemetry::traced;

fn main() -> ExitCode {
    let config: Config = shared::config::load(Config::new);
    shared::process::run("the importer", run(config))
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    shared::telemetry::init(&config.common);
    match &config.verb {
        Verb::Run => {
            let metrics = shared::telemetry::metrics();
            let (shutdown, endpoint) =
                (shared::shutdown::on_signals(), config.common.otel_exporter_otlp_endpoint.clone());
            traced("importer", endpoint, async |tracer| importer::run(config, metrics, tracer, shutdown).await)
                .await??;
            tracing::info!("stopped");
        }
        Verb::Migrate => importer::migrate::run(&config).await?,
        Verb::Healthcheck(asked) => return Ok(asked.run(config.admin_listen)),
    }
    Ok(ExitCode::SUCCESS)
}
