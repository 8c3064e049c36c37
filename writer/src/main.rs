//! The writer's process: configuration, telemetry, signals, exit code. What it does stands in the library.

use std::process::ExitCode;

use writer::config::{Config, Verb};

/// Exit code of a comparison that found a difference.
const DIFFERS: u8 = 3;

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
    match &config.verb {
        Verb::Run => {
            let metrics = shared::telemetry::metrics();
            let shutdown = shared::shutdown::on_signals();
            writer::run(config, metrics, shutdown).await?;
            tracing::info!("stopped");
        }
        Verb::Migrate => writer::migrate::run(&config).await?,
        Verb::Position => writer::position::run(&config).await?,
        Verb::Verify(_) => match writer::verify::run(&config).await? {
            true => {}
            false => return Ok(ExitCode::from(DIFFERS)),
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn fatal(error: &anyhow::Error) -> ExitCode {
    tracing::error!(error = format!("{error:#}"), "the writer cannot go on");
    ExitCode::FAILURE
}
