//! What jobs can be told, and the checked configuration that the rest of it is built from.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};
use messaging::settings::{self, Settings};
use shared::{
    config::{Common, Invalid, Secret, bytes_between, duration_between, secret_from},
    healthcheck::HealthcheckArgs,
    import::ChannelSecret,
};
use sqlx::postgres::PgConnectOptions;
use url::Url;

const KIB: u64 = 1 << 10;
const GIB: u64 = 1 << 30;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Takes files of contacts, makes jobs of them, and serves the page for it.
///
/// Settings come from flags, then the environment, then the file of --config, then the defaults. Without a verb it serves.
#[derive(Debug, Parser)]
#[command(name = "jobs", version, max_term_width = 120)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,

    /// Kafka brokers, host:port separated by commas; required but for `healthcheck`
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS", global = true)]
    kafka_bootstrap_servers: Option<String>,

    /// Client properties as Kafka's own tools take them (TLS, SASL, tuning), a .properties file; unknown keys are errors
    #[arg(long, env = "KAFKA_PROPERTIES_FILE", global = true, value_name = "PATH")]
    kafka_properties_file: Option<PathBuf>,

    /// Postgres of the importers, of which the errors of rows are read: postgres://user:password@host/database [default: none;
    /// there are no error files then]
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, global = true)]
    database_url: Option<Secret>,

    /// File that holds the URL, for mounted secrets; instead of DATABASE_URL
    #[arg(long, env = "DATABASE_URL_FILE", global = true, value_name = "PATH")]
    database_url_file: Option<PathBuf>,

    /// Secret with which channel ids are signed, at least 32 bytes; the notifier's. Required, here or by the file
    #[arg(long, env = "CHANNEL_SECRET", hide_env_values = true, global = true)]
    channel_secret: Option<Secret>,

    /// File that holds the secret, for mounted secrets; instead of CHANNEL_SECRET
    #[arg(long, env = "CHANNEL_SECRET_FILE", global = true, value_name = "PATH")]
    channel_secret_file: Option<PathBuf>,

    /// Put before the names of topics, so that several installations can share a cluster [default: nothing]
    #[arg(long, env = "IMPORT_TOPIC_PREFIX", default_value = "", global = true)]
    topic_prefix: String,

    /// Partitions of topics that have to be made
    #[arg(long, env = "IMPORT_PARTITIONS", default_value_t = 6, global = true, value_parser = clap::value_parser!(i32).range(1..=1000))]
    topic_partitions: i32,

    /// Replicas of topics that have to be made; -1: as the brokers do by default
    #[arg(long, env = "IMPORT_REPLICAS", default_value_t = -1, global = true, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1..=9))]
    topic_replicas: i32,

    /// Address of page and API, host:port
    #[arg(long, env = "JOBS_LISTEN", default_value = "0.0.0.0:8081", global = true)]
    listen: SocketAddr,

    /// Address of /livez, /readyz and /metrics, host:port
    #[arg(long, env = "JOBS_ADMIN_LISTEN", default_value = "0.0.0.0:9103", global = true)]
    admin_listen: SocketAddr,

    /// The notifier as browsers reach it: http://host:port or https://…; the page is told
    #[arg(long, env = "JOBS_NOTIFIER_URL", default_value = "http://127.0.0.1:8082", global = true, value_name = "URL")]
    notifier_url: Url,

    /// Folder in which files lie until they are in the log; this process's alone, emptied when it starts
    #[arg(long, env = "JOBS_SPOOL", default_value = "/tmp/siteview-spool", global = true, value_name = "PATH")]
    spool: PathBuf,

    /// Bytes in that folder at most, of all uploads together; beyond it 503
    #[arg(long, env = "JOBS_SPOOL_BYTES_MAX", default_value = "8GiB", global = true, value_parser = bytes_between(KIB, 1024 * GIB))]
    spool_bytes_max: u64,

    /// Bytes of a file at most, as it is sent; beyond it 413
    #[arg(long, env = "JOBS_FILE_BYTES_MAX", default_value = "2GiB", global = true, value_parser = bytes_between(KIB, 64 * GIB))]
    file_bytes_max: u64,

    /// Rows of a file at most
    #[arg(long, env = "JOBS_ROWS_MAX", default_value_t = 10_000_000, global = true, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    rows_max: u64,

    /// Uploads at once; one more gets 503. Each has a thread and some 500 KiB, and 2 MiB more on its way into the log
    #[arg(long, env = "JOBS_UPLOADS_MAX", default_value_t = 32, global = true, value_parser = clap::value_parser!(u32).range(1..=400))]
    uploads_max: u32,

    /// Bytes of memory for each of the two stores of what is known of imports, as estimated: some 500 an import, for 30 days. Full, the
    /// service is not ready until it has more and is started again
    #[arg(long, env = "JOBS_STORE_BYTES_MAX", default_value = "256MiB", global = true, value_parser = bytes_between(KIB * KIB, 64 * GIB))]
    store_bytes_max: u64,

    /// How long a client may send nothing, duration; then its upload is cut
    #[arg(long, env = "JOBS_UPLOAD_IDLE_MAX", default_value = "30s", global = true, value_parser = duration_between(SECOND / 10, HOUR))]
    upload_idle_max: Duration,

    /// How long the transaction of one import may take, duration; the brokers have a limit of their own (15 min by default). So
    /// long the jobs of others wait when this process dies in a transaction and is not started again
    #[arg(long, env = "JOBS_TRANSACTION_TIMEOUT", default_value = "5m", global = true, value_parser = duration_between(SECOND, HOUR))]
    transaction_timeout: Duration,

    #[command(flatten)]
    common: Common,
}

/// What is to be done.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// Serve page and API (the default)
    Run,
    /// Ask the process that runs here whether it is well; exit code 0 or 1
    Healthcheck(HealthcheckArgs),
}

/// The checked configuration; what its values mean stands at [`Args`].
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each is described once, in the help text of its argument")]
pub struct Config {
    pub verb: Verb,
    pub kafka: Settings,
    pub database: Option<PgConnectOptions>,
    /// `None` only with `healthcheck`.
    pub channel_secret: Option<ChannelSecret>,
    pub topic_prefix: String,
    pub topic_partitions: i32,
    pub topic_replicas: i32,
    pub listen: SocketAddr,
    pub admin_listen: SocketAddr,
    pub notifier_url: Url,
    pub spool: PathBuf,
    pub spool_bytes_max: u64,
    pub file_bytes_max: u64,
    pub rows_max: u64,
    pub uploads_max: usize,
    pub store_bytes_max: usize,
    pub upload_idle_max: Duration,
    pub transaction_timeout: Duration,
    pub common: Common,
}

impl Config {
    /// Checks what clap can't: the secret, the URLs, Kafka's properties.
    pub fn new(args: Args) -> Result<Self, Invalid> {
        let verb = args.verb.unwrap_or(Verb::Run);
        let is_asking = matches!(verb, Verb::Healthcheck(_));
        let properties = args.kafka_properties_file.as_deref().map(settings::read_properties).transpose()?;
        let servers = args.kafka_bootstrap_servers.as_deref();
        let kafka = settings::client_settings(servers, properties.unwrap_or_default(), is_asking)?;
        let secret = secret_from("CHANNEL_SECRET", args.channel_secret, args.channel_secret_file)?;
        if secret.is_none() && !is_asking {
            return Err(Invalid::new("CHANNEL_SECRET_FILE", "is required: the file that the notifier has"));
        }
        if !matches!(args.notifier_url.scheme(), "http" | "https") || args.notifier_url.host().is_none() {
            return Err(Invalid::new("JOBS_NOTIFIER_URL", "must be http://host:port or https://host"));
        }
        let database = secret_from("DATABASE_URL", args.database_url, args.database_url_file)?;
        let invalid = |_| Invalid::new("DATABASE_URL", "is no postgres://user:password@host/database");
        Ok(Self {
            verb,
            kafka,
            database: database.map(|url| url.expose().parse().map_err(invalid)).transpose()?,
            channel_secret: secret.as_ref().map(ChannelSecret::new).transpose()?,
            topic_prefix: args.topic_prefix,
            topic_partitions: args.topic_partitions,
            topic_replicas: args.topic_replicas,
            listen: args.listen,
            admin_listen: args.admin_listen,
            notifier_url: args.notifier_url,
            spool: args.spool,
            spool_bytes_max: args.spool_bytes_max,
            file_bytes_max: args.file_bytes_max,
            rows_max: args.rows_max,
            uploads_max: args.uploads_max as usize,
            store_bytes_max: usize::try_from(args.store_bytes_max).unwrap_or(usize::MAX),
            upload_idle_max: args.upload_idle_max,
            transaction_timeout: args.transaction_timeout,
            common: args.common,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, String> {
        let required = ["jobs", "--kafka-bootstrap-servers", "k:9092"];
        let args = Args::try_parse_from(required.iter().chain(args).copied()).map_err(|error| error.to_string())?;
        Config::new(args).map_err(|error| error.to_string())
    }

    #[test]
    fn a_secret_is_required_and_what_is_wrong_is_named() {
        let secret = ["--channel-secret", "0123456789abcdef0123456789abcdef"];
        assert!(config(&secret).is_ok());
        assert!(config(&["healthcheck"]).is_ok());
        for (args, name) in [
            (&[][..], "CHANNEL_SECRET_FILE"),
            (&["--channel-secret", "short"], "CHANNEL_SECRET"),
            (&[&secret[..], &["--notifier-url", "ftp://h"]].concat(), "JOBS_NOTIFIER_URL"),
            (&[&secret[..], &["--database-url", "secret text"]].concat(), "DATABASE_URL"),
            (&[&secret[..], &["--rows-max", "0"]].concat(), "--rows-max"),
        ] {
            let error = config(args).unwrap_err();
            assert!(error.contains(name) && !error.contains("secret text"), "{error}");
        }
    }
}
