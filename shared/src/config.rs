//! One static configuration per service: flag over environment over TOML file over default.
//!
//! A service describes its configuration once, as a clap struct whose arguments carry `long`, `env`, a default and a
//! help text with unit and reason. This module adds the file and the rules that hold for all services:
//!
//! * `--config PATH` names a TOML file with flat keys, the flags in snake_case (`admin_listen = "…"`). Its values become
//!   the defaults of the arguments before clap parses, so that clap's own precedence holds.
//! * An unknown key or flag, a value out of range, a missing file end with exit code 2 and a message that names it.
//! * `--print-config` prints the effective values as TOML; an argument with `hide_env_values` is a secret and is masked
//!   there, in `--help` and in errors. Secrets must have type [`Secret`], which any text fits: clap repeats a refused
//!   value in its error.
//!
//! Only modules called `config` read the environment.

mod file;
mod secret;
mod value;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgMatches, Command, Parser};

pub use secret::{Secret, mask_urls, secret_from};
pub use value::{bytes, bytes_between, duration, duration_between};

/// What every service can be told; flatten it into the service's arguments.
///
/// All of it is global: in a service with verbs it may stand before or after the verb.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// TOML file with further settings: flat keys, the flags in snake_case [no default: flags and environment suffice]
    #[arg(long, global = true, value_name = "PATH")]
    pub config: Option<PathBuf>,

    /// Print the effective configuration as TOML, secrets masked, and exit
    #[arg(long, global = true)]
    pub print_config: bool,

    /// What is logged, as filter directives (`info`, `reader=debug,info`); `info` tells what an operator acts on
    #[arg(long, env = "RUST_LOG", default_value = "info", global = true, value_parser = value::log_filter)]
    pub rust_log: String,

    /// Form of the logs: `text` for people, `json` for one JSON object per line
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "text", global = true)]
    pub log_format: LogFormat,

    /// Where traces are sent, the base URL of an OTLP collector (HTTP with protobuf), as http://collector:4318 [default: none
    /// are made]
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", global = true, value_name = "URL", value_parser = value::http_url)]
    pub otel_exporter_otlp_endpoint: Option<String>,
}

/// Form of the logs on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// A setting that can't be used: its name as the operator knows it, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {why}")]
pub struct Invalid {
    /// The variable or flag, for example `READER_DATABASE_URLS`.
    pub name: String,
    /// What is wrong and what would be right; never holds a secret.
    pub why: String,
}

impl Invalid {
    /// Names a setting and what is wrong with it.
    pub fn new(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self { name: name.into(), why: why.into() }
    }
}

/// Parses the process's arguments, environment and TOML file into `T`.
///
/// Does not return for `--help`, `--version` and `--print-config` (exit code 0), nor for a wrong configuration (exit
/// code 2, the culprit named on standard error).
pub fn parse<T: Parser>() -> T {
    load(Ok)
}

/// As [`parse`], with a check that turns the arguments into the service's configuration: what it refuses is refused as
/// any wrong value is, also under `--print-config`.
pub fn load<T: Parser, C>(check: impl FnOnce(T) -> Result<C, Invalid>) -> C {
    match load_from(std::env::args_os().collect(), check) {
        Ok(Loaded::Config(config)) => config,
        Ok(Loaded::Printed(text)) => print_and_exit(&text),
        Err(error) => error.exit(),
    }
}

#[expect(clippy::print_stdout, reason = "--print-config answers on standard output")]
fn print_and_exit(text: &str) -> ! {
    print!("{text}");
    std::process::exit(0)
}

enum Loaded<C> {
    Config(C),
    Printed(String),
}

fn load_from<T: Parser, C>(
    argv: Vec<OsString>,
    check: impl FnOnce(T) -> Result<C, Invalid>,
) -> Result<Loaded<C>, clap::Error> {
    let mut command = T::command();
    if let Some(path) = file::path_in(&argv) {
        command = file::with_defaults(command, &path)?;
    }
    let matches = command.try_get_matches_from_mut(argv)?;
    let args = T::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
    let config = check(args).map_err(|invalid| command.error(ErrorKind::ValueValidation, invalid))?;
    if matches.try_get_one::<bool>("print_config").ok().flatten() == Some(&true) {
        return Ok(Loaded::Printed(effective(&command, &matches)));
    }
    Ok(Loaded::Config(config))
}

/// The arguments that a file may set: `(id, argument)` of all that have a flag, but for those about the file itself.
fn settings(command: &Command) -> impl Iterator<Item = &clap::Arg> {
    const NOT_SETTINGS: [&str; 4] = ["config", "print_config", "help", "version"];
    command.get_arguments().filter(|arg| arg.get_long().is_some() && !NOT_SETTINGS.contains(&arg.get_id().as_str()))
}

/// The key of an argument in a TOML file.
fn key(arg: &clap::Arg) -> String {
    arg.get_long().unwrap_or_default().replace('-', "_")
}

/// A secret is marked by the attribute that keeps its value out of `--help`.
fn is_secret(arg: &clap::Arg) -> bool {
    arg.is_hide_env_values_set()
}

/// The effective values as TOML lines, in the order of `--help`; what is not set is a comment.
fn effective(command: &Command, matches: &ArgMatches) -> String {
    let mut text = String::new();
    for arg in settings(command) {
        let raw = matches.try_get_raw(arg.get_id().as_str()).ok().flatten();
        let line = match raw.map(|values| values.map(|v| v.to_string_lossy()).collect::<Vec<_>>().join(",")) {
            None => format!("# {} is not set\n", key(arg)),
            Some(value) if is_secret(arg) => format!("{} = {:?}\n", key(arg), mask_urls(&value)),
            Some(value) if value.parse::<i64>().is_ok() || value.parse::<bool>().is_ok() => {
                format!("{} = {value}\n", key(arg))
            }
            Some(value) => format!("{} = {value:?}\n", key(arg)),
        };
        text.push_str(&line);
    }
    text
}

#[cfg(test)]
mod tests;
