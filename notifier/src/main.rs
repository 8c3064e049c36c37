//! The notifier's process: configuration, telemetry, signals. What it does stands in the library.

use std::process::ExitCode;

use notifier::config::{Config, Verb};

fn main() -> ExitCode {
    let config: Config = shared::config::load(Config::new);
    shared::process::run("the notifier", run(config))
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    shared::telemetry::init(&config.common);
    match &config.verb {
        Verb::Run => {
            let metrics = shared::telemetry::metrics();
            let shutdown = shared::shutdown::on_signals();
            notifier::run(config, metrics, shutdown).await?;
            tracing::info!("stopped");
        }
        Verb::Healthcheck(asked) => return Ok(asked.run(config.admin_listen)),
    }
    Ok(ExitCode::SUCCESS)
}
