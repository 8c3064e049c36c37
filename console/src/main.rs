//! The console's process: configuration, telemetry, signals, exit code. What it does stands in the library.

use std::process::ExitCode;

use console::{
    config::{Config, Verb},
    verbs::{self, Refused},
};

/// Exit code of what cannot be done, as of bad usage.
const USAGE: u8 = 2;

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
        Verb::Serve => {
            let metrics = shared::telemetry::metrics();
            let shutdown = shared::shutdown::on_signals();
            console::serve(config, metrics, shutdown).await?;
            tracing::info!("stopped");
        }
        Verb::Healthcheck(asked) => return Ok(asked.run(config.admin_listen)),
        Verb::Token(asked) => verbs::token(asked),
        Verb::Groups => verbs::groups(&config).await?,
        Verb::Blocking(asked) => verbs::blocking(&config, asked).await?,
        Verb::Parked(asked) => verbs::parked(&config, asked).await?,
        Verb::DeadLetters(asked) => verbs::dead_letters(&config, asked).await?,
        Verb::Redrives => verbs::redrives(&config).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn fatal(error: &anyhow::Error) -> ExitCode {
    if let Some(refused) = error.downcast_ref::<Refused>() {
        return refuse(refused);
    }
    tracing::error!(error = format!("{error:#}"), "the console can't go on");
    ExitCode::FAILURE
}

#[expect(clippy::print_stderr, reason = "answers a command as the refusal of its arguments does")]
fn refuse(refused: &Refused) -> ExitCode {
    eprintln!("error: {refused}");
    ExitCode::from(USAGE)
}
