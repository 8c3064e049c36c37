//! The reader's process: configuration, telemetry, signals. What it does stands in the library.

use std::process::ExitCode;

use reader::config::{Config, Verb};

fn main() -> ExitCode {
    let config: Config = shared::config::load(Config::new);
    shared::process::run("the reader", run(config))
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    shared::telemetry::init(&config.common);
    match config.verb {
        Verb::Run => {
            let metrics = shared::telemetry::metrics();
            let shutdown = shared::shutdown::on_signals();
            reader::run(config, metrics, shutdown).await?;
            tracing::info!("stopped");
            Ok(ExitCode::SUCCESS)
        }
        Verb::Healthcheck(asked) => Ok(asked.run(config.admin_listen)),
    }
}
