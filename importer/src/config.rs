//! What the importer can be told, and the checked configuration that the rest of it is built from.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};
use messaging::settings::{self, Settings};
use shared::{
    config::{Common, Invalid, Secret, bytes_between, duration_between, secret_from},
    healthcheck::HealthcheckArgs,
    import::{JOBS_TOPIC, NOTIFICATIONS_TOPIC, PROGRESS_COMMANDS_TOPIC, PROGRESS_TOPIC},
};
use sqlx::{ConnectOptions as _, postgres::PgConnectOptions};

use crate::judge::Country;

const MIB: u64 = 1 << 20;

/// Turns the rows of imports into contacts, and keeps the count of their jobs.
///
/// Settings come from flags, then the environment, then the file of --config, then the defaults. Without a verb it runs.
#[derive(Debug, Parser)]
#[command(name = "importer", version, max_term_width = 120)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,

    /// Kafka brokers, host:port separated by commas; required but for `migrate`, `healthcheck`
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS", global = true)]
    kafka_bootstrap_servers: Option<String>,

    /// Client properties as Kafka's own tools take them (TLS, SASL, tuning), a .properties file; unknown keys are errors
    #[arg(long, env = "KAFKA_PROPERTIES_FILE", global = true, value_name = "PATH")]
    kafka_properties_file: Option<PathBuf>,

    /// Database of the contacts as a postgres:// URL, TLS by `sslmode` and `sslrootcert`; required, here or by the file
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, global = true)]
    database_url: Option<Secret>,

    /// File that holds the database's URL, for mounted secrets; instead of DATABASE_URL
    #[arg(long, env = "DATABASE_URL_FILE", global = true, value_name = "PATH")]
    database_url_file: Option<PathBuf>,

    /// Put before the names of topics, so that several installations can share a cluster [default: nothing]
    #[arg(long, env = "IMPORT_TOPIC_PREFIX", default_value = "", global = true)]
    topic_prefix: String,

    /// Partitions of topics that have to be made; so many instances share the work at most
    #[arg(long, env = "IMPORT_PARTITIONS", default_value_t = 6, global = true, value_parser = clap::value_parser!(i32).range(1..=1000))]
    topic_partitions: i32,

    /// Replicas of topics that have to be made; -1: as the brokers do by default
    #[arg(long, env = "IMPORT_REPLICAS", default_value_t = -1, global = true, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1..=9))]
    topic_replicas: i32,

    /// Consumer group of the jobs; that of the progress has `-progress` behind it
    #[arg(long, env = "IMPORTER_GROUP", default_value = "siteview.importer", global = true)]
    group: String,

    /// Name of this instance, the same after each restart and no other's (a stateful set's pod, a host); with another one of the
    /// same name at work, one of the two ends [default: the host's name]
    #[arg(long, env = "IMPORTER_MEMBER", global = true)]
    member: Option<String>,

    /// Connections to Postgres, and jobs of a partition that are worked at once; more of them overlap checking and fsync
    #[arg(long, env = "IMPORTER_CONNECTIONS", default_value_t = 4, global = true, value_parser = clap::value_parser!(u32).range(1..=64))]
    connections: u32,

    /// Country of phone numbers that are written without one, as ISO 3166 has it (`DE`) [default: none; such numbers are faults]
    #[arg(long, env = "IMPORTER_PHONE_COUNTRY", global = true, value_name = "CODE")]
    phone_country: Option<Country>,

    /// Memory for the progress of all imports that the topic still has; beyond it the importer is not ready. An import takes
    /// about a kilobyte
    #[arg(long, env = "IMPORTER_PROGRESS_BYTES_MAX", default_value = "256MiB", global = true, value_parser = bytes_between(MIB, 65536 * MIB))]
    progress_bytes_max: u64,

    /// Time for the jobs in hand after SIGTERM, duration; what is not done by then is done by another instance
    #[arg(long, env = "IMPORTER_DRAIN_MAX", default_value = "5s", global = true, value_parser = duration_between(Duration::ZERO, Duration::from_secs(300)))]
    drain_max: Duration,

    /// Address of /livez, /readyz and /metrics, host:port
    #[arg(long, env = "IMPORTER_ADMIN_LISTEN", default_value = "0.0.0.0:9104", global = true)]
    admin_listen: SocketAddr,

    /// Answer as JSON, for programs
    #[arg(long, global = true)]
    json: bool,

    #[command(flatten)]
    common: Common,
}

/// What is to be done.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// Work jobs (the default)
    Run,
    /// Make the tables, or bring them up to date; safe to start several times at once
    Migrate,
    /// Ask the importer that runs here whether it is well; exit code 0 or 1
    Healthcheck(HealthcheckArgs),
}

/// Names of the import's topics.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "shared::import describes them")]
pub struct Topics {
    pub jobs: String,
    pub commands: String,
    pub progress: String,
    pub notifications: String,
}

/// The checked configuration; what its values mean stands at [`Args`].
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each is described once, in the help text of its argument")]
pub struct Config {
    pub verb: Verb,
    pub json: bool,
    pub kafka: Settings,
    /// `None` only with `healthcheck`.
    pub database: Option<PgConnectOptions>,
    pub topics: Topics,
    pub topic_partitions: i32,
    pub topic_replicas: i32,
    pub group: String,
    pub member: String,
    pub connections: usize,
    pub phone_country: Option<Country>,
    pub progress_bytes_max: usize,
    pub drain_max: Duration,
    pub admin_listen: SocketAddr,
    pub common: Common,
}

impl Config {
    /// Checks what clap can't: the database, Kafka's properties, the member's name.
    pub fn new(args: Args) -> Result<Self, Invalid> {
        let verb = args.verb.unwrap_or(Verb::Run);
        let properties = args.kafka_properties_file.as_deref().map(settings::read_properties).transpose()?;
        let (servers, properties) = (args.kafka_bootstrap_servers.as_deref(), properties.unwrap_or_default());
        let kafka = settings::client_settings(servers, properties, !matches!(verb, Verb::Run))?;
        let url = secret_from("DATABASE_URL", args.database_url, args.database_url_file)?;
        if url.is_none() && !matches!(verb, Verb::Healthcheck(_)) {
            return Err(Invalid::new("DATABASE_URL", "is required, here or by DATABASE_URL_FILE"));
        }
        Ok(Self {
            verb,
            json: args.json,
            kafka,
            database: url.as_ref().map(database).transpose()?,
            topics: Topics::with_prefix(&args.topic_prefix),
            topic_partitions: args.topic_partitions,
            topic_replicas: if args.topic_replicas == 0 { -1 } else { args.topic_replicas },
            group: args.group,
            member: member(args.member)?,
            connections: args.connections as usize,
            phone_country: args.phone_country,
            progress_bytes_max: usize::try_from(args.progress_bytes_max).unwrap_or(usize::MAX),
            drain_max: args.drain_max,
            admin_listen: args.admin_listen,
            common: args.common,
        })
    }
}

impl Topics {
    fn with_prefix(prefix: &str) -> Self {
        let topic = |name: &str| format!("{prefix}{name}");
        Self {
            jobs: topic(JOBS_TOPIC),
            commands: topic(PROGRESS_COMMANDS_TOPIC),
            progress: topic(PROGRESS_TOPIC),
            notifications: topic(NOTIFICATIONS_TOPIC),
        }
    }
}

/// The URL is never repeated: it holds a password.
fn database(url: &Secret) -> Result<PgConnectOptions, Invalid> {
    let options: Result<PgConnectOptions, _> = url.expose().parse();
    let options = options.map_err(|_| Invalid::new("DATABASE_URL", "is not a postgres:// URL"))?;
    Ok(options.application_name("siteview-importer").disable_statement_logging())
}

fn member(named: Option<String>) -> Result<String, Invalid> {
    let host = || nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let found = named.filter(|name| !name.is_empty()).or_else(host);
    found.ok_or_else(|| Invalid::new("IMPORTER_MEMBER", "is required: the host has no name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, String> {
        let args = Args::try_parse_from(["importer"].iter().chain(args).copied()).map_err(|error| error.to_string())?;
        Config::new(args).map_err(|error| error.to_string())
    }

    #[test]
    fn each_verb_wants_what_it_needs() {
        let (brokers, database) =
            (["--kafka-bootstrap-servers", "k:9092"], ["--database-url", "postgres://u:secret@h/d"]);
        assert!(config(&[&brokers[..], &database].concat()).is_ok_and(|config| !config.member.is_empty()));
        assert!(config(&database).unwrap_err().contains("KAFKA_BOOTSTRAP_SERVERS"));
        assert!(config(&brokers).unwrap_err().contains("DATABASE_URL"));
        assert!(config(&[&["migrate"][..], &database].concat()).is_ok());
        assert!(config(&["healthcheck"]).is_ok());
        let error = config(&[&brokers[..], &["--database-url", "secret@h"]].concat()).unwrap_err();
        assert!(error.contains("DATABASE_URL") && !error.contains("secret"), "{error}");
        let of = |code| config(&[&brokers[..], &database, &["--phone-country", code]].concat());
        assert!(of("DE").is_ok());
        assert!(of("XX").unwrap_err().contains("--phone-country"));
    }
}
