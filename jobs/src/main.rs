//! The process of jobs: configuration, telemetry, signals, exit code. What it does stands in the library.

use std::process::ExitCode;

use jobs::config::{Config, Verb};

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
        Ok(code) => code,
        Err(error) => fatal(&error),
    }
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    shared::telemetry::init(&config.common);
    match config.verb {
        Verb::Run => {
            let metrics = shared::telemetry::metrics();
            let shutdown = shared::shutdown::on_signals();
            jobs::serve(config, metrics, shutdown).await?;
            tracing::info!("stopped");
            Ok(ExitCode::SUCCESS)
        }
        Verb::Healthcheck(asked) => Ok(asked.run(config.admin_listen)),
    }
}

fn fatal(error: &anyhow::Error) -> ExitCode {
    tracing::error!(error = format!("{error:#}"), "jobs can't go on");
    ExitCode::FAILURE
}
