//! What the console can be told, and the checked configuration that the rest of it is built from.

mod verbs;

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use messaging::settings::{self, Settings};
use shared::config::{Common, Invalid, duration_between};

pub use verbs::{
    BlockingArgs, BlockingVerb, DeadLettersArgs, DeadLettersVerb, DifferenceArgs, LetterArgs, ParkedArgs, ParkedVerb,
    PartitionArgs, RecordArgs, RedriveArgs, ShowArgs, TokenArgs, Verb, WhichArgs, Why,
};

use crate::{access::Tokens, redaction::Redaction, services::ServiceAddress};

/// Shows what every consumer is doing, what is blocked, parked and dead, and lets a person end it.
///
/// Settings come from flags, then the environment, then the file of --config, then the defaults. Without a verb it serves.
#[derive(Debug, Parser)]
#[command(name = "console", version, max_term_width = 120)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,

    /// Kafka brokers, host:port separated by commas; required but for `token`, `healthcheck`
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS", global = true)]
    kafka_bootstrap_servers: Option<String>,

    /// Client properties as Kafka's own tools take them (TLS, SASL, tuning), a .properties file; unknown keys are errors
    #[arg(long, env = "KAFKA_PROPERTIES_FILE", global = true, value_name = "PATH")]
    kafka_properties_file: Option<PathBuf>,

    /// Address of page and API, host:port; another than a loopback address wants CONSOLE_TOKENS_FILE
    #[arg(long, env = "CONSOLE_LISTEN", default_value = "127.0.0.1:8083", global = true)]
    listen: SocketAddr,

    /// Address of /livez, /readyz and /metrics, host:port
    #[arg(long, env = "CONSOLE_ADMIN_LISTEN", default_value = "0.0.0.0:9106", global = true)]
    admin_listen: SocketAddr,

    /// Who may do what: a TOML file of [[token]] with name, role (view, operate, admin) and sha256, as `console token` makes
    /// them; read again when it changes [default: none; whoever is on this machine may do everything]
    #[arg(long, env = "CONSOLE_TOKENS_FILE", global = true, value_name = "PATH")]
    tokens_file: Option<PathBuf>,

    /// What nobody may see: a TOML file of [[rule]] with topics, fields, headers, key, errors, value [default: none; headers
    /// that carry logins are hidden always]
    #[arg(long, env = "CONSOLE_REDACTION_FILE", global = true, value_name = "PATH")]
    redaction_file: Option<PathBuf>,

    /// Services to be shown, by their admin ports: name=http://host:port, several separated by commas [default: none]
    #[arg(long, env = "CONSOLE_SERVICE", value_delimiter = ',', global = true, value_name = "NAME=URL")]
    service: Vec<String>,

    /// Consumer groups to be shown, several separated by commas [default: all that the brokers know]
    #[arg(long, env = "CONSOLE_ONLY_GROUPS", value_delimiter = ',', global = true, value_name = "GROUP")]
    only_groups: Vec<String>,

    /// How often brokers and services are asked, duration; what stands in topics is shown as it comes
    #[arg(long, env = "CONSOLE_SURVEY_INTERVAL", default_value = "2s", global = true, value_parser = duration_between(Duration::from_millis(100), Duration::from_secs(3600)))]
    survey_interval: Duration,

    /// Letters that came back so often are not redriven, unless an admin says another number; what fails each time ends here
    #[arg(long, env = "CONSOLE_REDRIVE_MAX", default_value_t = 3, global = true, value_parser = clap::value_parser!(u64).range(1..=1000))]
    redrive_max: u64,

    /// Answer as JSON, for programs
    #[arg(long, global = true)]
    json: bool,

    #[command(flatten)]
    common: Common,
}

/// The checked configuration; what its values mean stands at [`Args`].
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each is described once, in the help text of its argument")]
pub struct Config {
    pub verb: Verb,
    pub json: bool,
    pub kafka: Settings,
    pub listen: SocketAddr,
    pub admin_listen: SocketAddr,
    pub tokens: Option<Tokens>,
    pub tokens_file: Option<PathBuf>,
    pub redaction: Redaction,
    pub services: Vec<ServiceAddress>,
    pub only_groups: BTreeSet<String>,
    pub survey_interval: Duration,
    pub redrive_max: u64,
    pub common: Common,
}

impl Config {
    /// Checks what clap can't: the files, Kafka's properties, and that nobody but this machine gets in without a token.
    pub fn new(args: Args) -> Result<Self, Invalid> {
        let verb = args.verb.unwrap_or(Verb::Serve);
        let properties = match &args.kafka_properties_file {
            Some(path) => settings::read_properties(path)?,
            None => Settings::new(),
        };
        let does_without_kafka = matches!(verb, Verb::Token(_) | Verb::Healthcheck(_));
        let kafka = settings::client_settings(args.kafka_bootstrap_servers.as_deref(), properties, does_without_kafka)?;
        let tokens = args.tokens_file.as_deref().map(Tokens::read).transpose()?;
        if matches!(verb, Verb::Serve) && tokens.is_none() && !args.listen.ip().is_loopback() {
            let why =
                format!("is required to listen on {}: without it only loopback addresses are served", args.listen);
            return Err(Invalid::new("CONSOLE_TOKENS_FILE", why));
        }
        Ok(Self {
            verb,
            json: args.json,
            kafka,
            listen: args.listen,
            admin_listen: args.admin_listen,
            tokens,
            tokens_file: args.tokens_file,
            redaction: args.redaction_file.as_deref().map(Redaction::read).transpose()?.unwrap_or_default(),
            services: services(&args.service)?,
            only_groups: args.only_groups.into_iter().filter(|group| !group.is_empty()).collect(),
            survey_interval: args.survey_interval,
            redrive_max: args.redrive_max,
            common: args.common,
        })
    }
}

/// An empty variable names none.
fn services(named: &[String]) -> Result<Vec<ServiceAddress>, Invalid> {
    let named = named.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
    named.map(|text| text.parse().map_err(|why: String| Invalid::new("CONSOLE_SERVICE", why))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, String> {
        let required = ["console", "--kafka-bootstrap-servers", "k:9092"];
        let args = Args::try_parse_from(required.iter().chain(args).copied()).map_err(|error| error.to_string())?;
        Config::new(args).map_err(|error| error.to_string())
    }

    #[test]
    fn only_this_machine_gets_in_without_tokens() {
        assert!(config(&[]).unwrap().listen.ip().is_loopback());
        assert!(config(&["--listen", "[::1]:0"]).is_ok());
        for listen in ["0.0.0.0:8083", "10.0.0.7:8083", "[::]:8083"] {
            let error = config(&["serve", "--listen", listen]).unwrap_err();
            assert!(error.contains("CONSOLE_TOKENS_FILE"), "{error}");
        }
    }

    #[test]
    fn services_are_named_and_an_empty_variable_names_none() {
        let services = |text: &str| config(&["--service", text]).map(|config| config.services.len());
        assert_eq!((services(""), services("a=http://h:1, b=http://h:2")), (Ok(0), Ok(2)));
        assert!(services("a=https://h").unwrap_err().contains("CONSOLE_SERVICE"));
    }

    #[test]
    fn verbs_that_change_something_want_a_reason() {
        let record = ["--group", "g", "--topic", "t", "--partition", "0", "--offset", "3"];
        for verb in [
            [&["blocking", "skip"][..], &record].concat(),
            [&["blocking", "ignore"][..], &record].concat(),
            [&["blocking", "pause"][..], &record[..6]].concat(),
            [&["parked", "unpark"][..], &record].concat(),
            vec!["dead-letters", "redrive", "--topic", "t-g-dlq", "--fingerprint", "f"],
            vec!["dead-letters", "continue", "id"],
        ] {
            let with = |reason: &[&'static str]| config(&[&verb, reason].concat());
            for without in [with(&[]), with(&["--reason", " "])] {
                assert!(without.unwrap_err().contains("--reason"), "{verb:?}");
            }
            assert!(with(&["--reason", "why"]).is_ok(), "{verb:?}");
        }
    }

    #[test]
    fn a_redrive_is_of_named_letters_or_of_one_kind() {
        let of = |args: &[&'static str]| {
            config(&[&["dead-letters", "redrive", "--topic", "t-g-dlq", "--reason", "why"][..], args].concat())
        };
        assert!(of(&["--partition", "0", "--offset", "3"]).is_ok() && of(&["--fingerprint", "f"]).is_ok());
        assert!(of(&["--letter", "0@3", "--letter", "1@4"]).is_ok());
        for args in [&["--letter", "0"][..], &["--letter", "0@-1"], &["--letter", "0@3", "--fingerprint", "f"]] {
            assert!(of(args).is_err(), "{args:?}");
        }
        for args in [&[][..], &["--offset", "3"], &["--partition", "0"], &["--fingerprint", "f", "--offset", "3"]] {
            assert!(of(args).is_err(), "{args:?}");
        }
        assert!(of(&["--fingerprint", "f", "--rate", "0"]).is_err());
        assert!(of(&["--fingerprint", "f", "--edit", "f.json"]).is_err(), "one letter is edited");
    }
}
