//! The writer's process: configuration, telemetry, signals. What it does stands in the library.

use std::process::ExitCode;

use shared::telemetry::traced;
use writer::{
    config::{Config, RelayVerbArgs, Verb},
    relay::RelayVerb,
    verbs::{self, PositionArgs, PositionVerb, SourceEpochArgs, SourceEpochVerb},
};

/// Exit code of a comparison that found a difference.
const DIFFERS: u8 = 3;

fn main() -> ExitCode {
    let config: Config = shared::config::load(Config::new);
    shared::process::run("the writer", run(config))
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    shared::telemetry::init(&config.common);
    match &config.verb {
        Verb::Run => {
            let metrics = shared::telemetry::metrics();
            let (shutdown, endpoint) =
                (shared::shutdown::on_signals(), config.common.otel_exporter_otlp_endpoint.clone());
            traced("writer", endpoint, async |tracer| writer::run(config, metrics, tracer, shutdown).await).await??;
            tracing::info!("stopped");
        }
        Verb::Relay(RelayVerbArgs { verb: None }) => {
            let (metrics, shutdown) = (shared::telemetry::metrics(), shared::shutdown::on_signals());
            writer::relay::run(config, metrics, shutdown).await?;
            tracing::info!("stopped");
        }
        Verb::Relay(RelayVerbArgs { verb: Some(RelayVerb::Set(args)) }) => writer::relay::set(&config, args).await?,
        Verb::Healthcheck(asked) => return Ok(asked.run(config.admin_listen)),
        Verb::Migrate => writer::migrate::run(&config).await?,
        Verb::Position(PositionArgs { verb: None }) => writer::position::run(&config).await?,
        Verb::Position(PositionArgs { verb: Some(PositionVerb::Set(args)) }) => {
            verbs::position_set(&config, args).await?;
        }
        Verb::Unblock(args) => verbs::unblock(&config, args).await?,
        Verb::SourceEpoch(SourceEpochArgs { verb: SourceEpochVerb::Raise(why) }) => {
            verbs::source_epoch_raise(&config, why).await?;
        }
        Verb::Generation(verb) => return writer::generation::run(&config, verb).await,
        Verb::Verify(_) => match writer::verify::run(&config).await? {
            true => {}
            false => return Ok(ExitCode::from(DIFFERS)),
        },
    }
    Ok(ExitCode::SUCCESS)
}
