//! The console's process: configuration, telemetry, signals. What it does stands in the library.

use std::process::ExitCode;

use console::{
    config::{Config, Verb},
    verbs,
};
use shared::telemetry::traced;

fn main() -> ExitCode {
    let config: Config = shared::config::load(Config::new);
    shared::process::run("the console", run(config))
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    shared::telemetry::init(&config.common);
    match &config.verb {
        Verb::Serve => {
            let metrics = shared::telemetry::metrics();
            let (shutdown, endpoint) =
                (shared::shutdown::on_signals(), config.common.otel_exporter_otlp_endpoint.clone());
            traced("console", endpoint, async |tracer| console::serve(config, metrics, tracer, shutdown).await)
                .await??;
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
