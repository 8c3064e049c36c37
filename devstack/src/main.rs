//! The `devstack` command; see the library for what it does.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use devstack::demo::{Load, RATE_MAX, RATE_MIN, SITES_MAX, SITES_MIN, parse_rate};
use devstack::{Options, Part, PortName, Progress};

/// Starts the real parts of Siteview as child processes: Kafka, Debezium, Postgres with a replica, writer and reader.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts parts and stays in the foreground until SIGINT or SIGTERM; nothing is left running afterwards.
    Up {
        /// The parts, separated by commas [default: all]. What a part can't run without comes along: connect brings
        /// kafka and source, writer brings kafka and postgres, reader brings postgres.
        #[arg(long, value_enum, value_delimiter = ',', value_name = "PARTS")]
        only: Vec<Part>,
        /// Also ends when standard input is closed, so that a program that starts it can't leave it behind.
        #[arg(long)]
        until_stdin_closes: bool,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Starts all parts, makes one change in the source, prints when it reached each stage up to the reader's answer,
    /// stops. Exit code 0 or 1.
    Smoke {
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Starts all parts, seeds the MetaSite table, keeps changing it, prints addresses and curl lines; Ctrl-C ends it.
    Demo {
        #[arg(long, default_value_t = 10_000, value_name = "COUNT", help = sites_help(),
            value_parser = clap::value_parser!(u32).range(i64::from(SITES_MIN)..=i64::from(SITES_MAX)))]
        sites: u32,
        #[arg(long, default_value_t = 20.0, value_name = "PER_SECOND", help = rate_help(), value_parser = parse_rate)]
        rate: f64,
        #[command(flatten)]
        place: PlaceArgs,
    },
    /// Says what the machine lacks and the command that installs it, and whether the resolved jars are unharmed. Exit
    /// code 0, or 1 when something is missing without which the parts can't be built or run.
    Doctor {
        #[command(flatten)]
        place: PlaceArgs,
    },
}

fn sites_help() -> String {
    format!("Sites to seed, {SITES_MIN} to {SITES_MAX}")
}

fn rate_help() -> String {
    format!("Changes of the source per second, after seeding, {RATE_MIN} to {RATE_MAX}")
}

#[derive(Debug, Args)]
struct PlaceArgs {
    /// Folder for data (wiped at start), logs (kept, those of the run before too) and endpoints.json [default:
    /// target/devstack, or target/devstack-2, … while another devstack uses that].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Folder for the jars of Kafka and Debezium, resolved once [default: $XDG_CACHE_HOME/siteview or ~/.cache/siteview].
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Fixes a port, as in reader=8080; may be given several times. Other ports are free ones.
    #[arg(long, value_name = "NAME=PORT", value_parser = devstack::parse_port)]
    port: Vec<(PortName, u16)>,
    /// Streaming replicas of the view's primary.
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=3))]
    replicas: u8,
}

impl PlaceArgs {
    fn options(self, parts: Vec<Part>) -> Result<Options> {
        let parts = if parts.is_empty() { Part::all() } else { parts.into_iter().collect() };
        let beside = self.state_dir.is_none();
        let state_dir = match self.state_dir {
            Some(dir) => dir,
            None => devstack::target_dir()?.join("devstack"),
        };
        let mut options = Options::new(parts, state_dir)?;
        options.beside = beside;
        options.progress = Progress::visible();
        options.replicas = self.replicas.into();
        options.ports = self.port.into_iter().collect();
        if let Some(cache_dir) = self.cache_dir {
            options.cache_dir = cache_dir;
        }
        Ok(options)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            devstack::warn(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up { only, until_stdin_closes, place } => {
            devstack::up::run(place.options(only)?, until_stdin_closes).await?;
        }
        Command::Smoke { place } => devstack::smoke::run(place.options(vec![])?).await?,
        Command::Demo { sites, rate, place } => {
            let load = Load { sites: sites as usize, changes_per_second: rate };
            devstack::demo::run(place.options(vec![])?, load).await?;
        }
        Command::Doctor { place } => {
            let healthy = devstack::doctor::run(&place.options(vec![])?.cache_dir)?;
            return Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
    Ok(ExitCode::SUCCESS)
}
