//! The reader's process: configuration, telemetry, signals, exit code. What it does stands in the library.

use std::process::ExitCode;

use reader::config::{Config, Verb};

fn main() -> ExitCode {
    let config: Config = shared::config::load(Config::new);
    if let Verb::Healthcheck(asked) = config.verb {
        return asked.run(config.admin_listen);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fatal(&error.into()),
    };
    match runtime.block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fatal(&error),
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    shared::telemetry::init(&config.common);
    let metrics = shared::telemetry::metrics();
    let shutdown = shared::shutdown::on_signals();
    reader::run(config, metrics, shutdown).await?;
    tracing::info!("stopped");
    Ok(())
}

fn fatal(error: &anyhow::Error) -> ExitCode {
    tracing::error!(error = format!("{error:#}"), "the reader can't go on");
    ExitCode::FAILURE
}
