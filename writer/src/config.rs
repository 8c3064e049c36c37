//! What the writer can be told, and the checked configuration that the rest of it is built from.

mod relay;
mod verify;

use std::{collections::HashMap, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, builder::RangedU64ValueParser};
use messaging::{brake::BrakeLimits, settings};
use shared::config::{Common, Invalid, Secret, bytes_between, duration_between, mask_urls, secret_from};
use shared::healthcheck::HealthcheckArgs;
use sqlx::postgres::PgConnectOptions;

pub use relay::RelaySettings;
pub use verify::{VerifyArgs, VerifySettings};

use crate::{
    decode::Limits,
    generation::GenerationVerb,
    projection::Projection,
    relay::RelayVerb,
    store::Primary,
    verbs::{PositionArgs, SourceEpochArgs, UnblockArgs},
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
const CENTURY: Duration = Duration::from_secs(36_500 * 86_400);

/// Projects a Debezium topic of MetaSite rows into the installed-apps view in Postgres.
///
/// Settings come from flags, then the environment, then the file of --config, then the defaults. Without a verb it runs.
#[derive(Debug, Parser)]
#[command(name = "writer", version, max_term_width = 120)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,

    /// Kafka brokers, host:port separated by commas; required but for `migrate`, `source-epoch`, `generation`, `healthcheck`
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS", global = true)]
    kafka_bootstrap_servers: Option<String>,

    /// Client properties as Kafka's own tools take them (TLS, SASL, tuning), a .properties file; unknown keys are errors
    #[arg(long, env = "KAFKA_PROPERTIES_FILE", global = true, value_name = "PATH")]
    kafka_properties_file: Option<PathBuf>,

    /// The view's primary as a postgres:// URL, TLS by `sslmode` and `sslrootcert`; required, here or by the file, but for `healthcheck`. Of several
    /// hosts (`postgres://u:p@h1:5432,h2:5432/db`) the one that takes writes is found, and looked for again after a failover.
    /// `relay` may be given a replica instead
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, global = true)]
    database_url: Option<Secret>,

    /// File that holds the primary's URL, for mounted secrets; instead of DATABASE_URL
    #[arg(long, env = "DATABASE_URL_FILE", global = true, value_name = "PATH")]
    database_url_file: Option<PathBuf>,

    /// Topic of the MetaSite table, as Debezium names it
    #[arg(long, env = "WRITER_TOPIC", default_value = "metasite.public.meta_site", global = true)]
    topic: String,

    /// Consumer group; the generation's number is added to it (`-g1`), so that generations consume independently
    #[arg(long, env = "WRITER_GROUP", default_value = "installed-apps-writer", global = true)]
    group: String,

    /// How rows become sites, a projection.toml; the default mapping fits the demo's table. `generation create` keeps it
    #[arg(long, env = "WRITER_PROJECTION", global = true, value_name = "PATH")]
    projection: Option<PathBuf>,

    /// Generation to feed; default: the active one, and the next one once nobody else feeds that
    #[arg(long, env = "WRITER_GENERATION", global = true, value_parser = clap::value_parser!(i32).range(1..))]
    generation: Option<i32>,

    /// Connections to Postgres, each with the partitions of its number modulo; more of them overlap decoding and fsync, and each
    /// holds up to three batches in memory
    #[arg(long, env = "WRITER_LANES", default_value = "2", global = true, value_parser = count(1, 64))]
    lanes: usize,

    /// Records in one transaction at most; larger ones meet more changes of one site and cost fewer commits
    #[arg(long, env = "WRITER_BATCH_RECORDS_MAX", default_value = "1000", global = true, value_parser = count(1, 100_000))]
    batch_records_max: usize,

    /// Bytes of records in one transaction at most; with lanes it bounds the memory
    #[arg(long, env = "WRITER_BATCH_BYTES_MAX", default_value = "4MiB", global = true, value_parser = bytes_between(64 * KIB, 256 * MIB))]
    batch_bytes_max: u64,

    /// Bytes of one record's value at most; a larger one is a dead letter (too-large). Bounds the memory of one record
    #[arg(long, env = "WRITER_VALUE_MAX_BYTES", default_value = "16MiB", global = true, value_parser = bytes_between(KIB, 1024 * MIB))]
    value_max_bytes: u64,

    /// Apps of one site at most; a record with more is a dead letter (too-many-apps). Bounds the size of a document
    #[arg(long, env = "WRITER_SITE_APPS_MAX", default_value = "10000", global = true, value_parser = count(1, 1_000_000))]
    site_apps_max: usize,

    /// Percent of a partition's last WRITER_BRAKE_WINDOW_RECORDS records that may be dead letters; beyond it the partition
    /// stops, so that a bad deployment does not empty the topic into the dead letters. Records not seen yet count as good
    #[arg(long, env = "WRITER_BRAKE_PERCENT", default_value_t = 10, global = true, value_parser = clap::value_parser!(u8).range(0..=100))]
    brake_percent: u8,

    /// Records of a partition that WRITER_BRAKE_PERCENT is about; more of them forgive longer bursts
    #[arg(long, env = "WRITER_BRAKE_WINDOW_RECORDS", default_value_t = 10_000, global = true, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    brake_window_records: u64,

    /// The bad record that is the so-manieth in a row in its partition stops it, and stays in the topic; 1: none is left out
    #[arg(long, env = "WRITER_BRAKE_RUN_RECORDS", default_value_t = 100, global = true, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    brake_run_records: u64,

    /// How long the marker of a deleted site is kept, duration; longer than the topic's retention, so that no replay of an
    /// older change brings the site back
    #[arg(long, env = "WRITER_MARKER_RETENTION", default_value = "8d", global = true, value_parser = duration_between(SECOND, CENTURY))]
    marker_retention: Duration,

    /// How long the change log is kept, duration; a reader of the change feed may be away for so long
    #[arg(long, env = "WRITER_CHANGE_RETENTION", default_value = "7d", global = true, value_parser = duration_between(SECOND, CENTURY))]
    change_retention: Duration,

    /// Debezium's heartbeat topic (`__debezium-heartbeat.<topic.prefix>`, with the connector's `heartbeat.interval.ms` at 1000
    /// or so): the view's `as_of` then stands still while Debezium does [default: none, `as_of` speaks for the topic alone]
    #[arg(long, env = "WRITER_HEARTBEAT_TOPIC", global = true)]
    heartbeat_topic: Option<String>,

    /// How long the create of a key change waits for the old key's delete, duration; longer than partitions drift apart
    #[arg(long, env = "WRITER_KEY_CHANGE_WAIT", default_value = "30s", global = true, value_parser = duration_between(SECOND, DAY))]
    key_change_wait: Duration,

    /// Time for the batches in hand after SIGTERM, duration; what is not stored by then is read again by the next owner
    #[arg(long, env = "WRITER_DRAIN_MAX", default_value = "4s", global = true, value_parser = duration_between(Duration::ZERO, 300 * SECOND))]
    drain_max: Duration,

    /// Address of /livez, /readyz and /metrics, host:port
    #[arg(long, env = "WRITER_ADMIN_LISTEN", default_value = "0.0.0.0:9101", global = true)]
    admin_listen: SocketAddr,

    /// Answer as JSON, for programs
    #[arg(long, global = true)]
    json: bool,

    #[command(flatten)]
    relay: relay::RelayArgs,

    #[command(flatten)]
    common: Common,
}

/// What the writer is asked to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// Project the topic into the view until SIGTERM or SIGINT (the default)
    Run,
    /// Create or upgrade the schemas, tables and roles of the view; safe to start several times at once
    Migrate,
    /// Show each partition's position, the end of the topic, what lies between and why a partition stands
    Position(PositionArgs),
    /// Let a partition go on that is `blocked` or `braked`: try its record again, or skip it
    ///
    /// Running writers go on within 5 s. Written to siteview.audit.
    Unblock(UnblockArgs),
    /// The source epoch: which source positions may be compared with each other
    SourceEpoch(SourceEpochArgs),
    /// Build the view anew beside the one that is served, compare the two, switch, go back
    #[command(subcommand)]
    Generation(GenerationVerb),
    /// Compare the view with the source's table, row by row, and on demand repair it; exit code 3 when they differ
    Verify(Box<VerifyArgs>),
    /// Relay the view's change log into the topic of --relay-topic until SIGTERM or SIGINT: each change exactly once, as
    /// a CloudEvent, in order for each site
    ///
    /// A process of its own beside the writers, on the primary or on a replica. One relay is active, the one that came last:
    /// it fences the one before it, which ends with exit code 1. Records and position are one Kafka transaction, so readers of
    /// the topic set isolation.level=read_committed. The topic is made when it is missing. A key is a site's id, a
    /// value the JSON of the change feed's event; headers ce_id, ce_type (siteview.installed-apps.changed), ce_source,
    /// ce_subject, ce_time. Another generation is told in every partition, by type siteview.installed-apps.generation-changed.
    Relay(RelayVerbArgs),
    /// Ask the running writer whether it is well, for a container's health check; exit code 0 or 1
    Healthcheck(HealthcheckArgs),
}

/// `relay`, and what stands behind it.
#[derive(Debug, Clone, clap::Args)]
pub struct RelayVerbArgs {
    /// Without a verb it relays.
    #[command(subcommand)]
    pub verb: Option<RelayVerb>,
}

impl Verb {
    /// Whether it works on the database alone.
    fn does_without_kafka(&self) -> bool {
        matches!(self, Self::Migrate | Self::SourceEpoch(_) | Self::Generation(_) | Self::Healthcheck(_))
    }
}

fn count(min: u64, max: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(min..=max)
}

/// The checked configuration; what its values mean stands at [`Args`].
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each is described once, in the help text of its argument")]
pub struct Config {
    pub verb: Verb,
    pub verify: Option<VerifySettings>,
    pub json: bool,
    pub kafka: HashMap<String, String>,
    /// Without a host only with `healthcheck`.
    pub database: Primary,
    pub topic: String,
    pub group: String,
    pub projection: Projection,
    /// Text of the file behind `projection`; `None` is the default mapping.
    pub projection_text: Option<String>,
    pub generation: Option<i32>,
    pub lanes: usize,
    pub batch_records_max: usize,
    pub batch_bytes_max: usize,
    pub limits: Limits,
    pub brake_limits: BrakeLimits,
    pub marker_retention: Duration,
    pub change_retention: Duration,
    pub heartbeat_topic: Option<String>,
    pub key_change_wait: Duration,
    pub drain_max: Duration,
    pub admin_listen: SocketAddr,
    pub relay: RelaySettings,
    pub common: Common,
}

impl Config {
    /// Checks what clap can't: the database, the projection and Kafka's properties. Names what is wrong, shows no secret.
    pub fn new(args: Args) -> Result<Self, Invalid> {
        let verb = args.verb.unwrap_or(Verb::Run);
        let database = match secret_from("DATABASE_URL", args.database_url, args.database_url_file)? {
            Some(url) => database(url.expose())?,
            None if matches!(verb, Verb::Healthcheck(_)) => Primary::default(),
            None => return Err(Invalid::new("DATABASE_URL", "is required: the primary's postgres:// URL")),
        };
        let properties = match &args.kafka_properties_file {
            Some(path) => settings::read_properties(path)?,
            None => HashMap::new(),
        };
        let servers = args.kafka_bootstrap_servers.as_deref();
        let kafka = settings::client_settings(servers, properties, verb.does_without_kafka())?;
        let (projection, projection_text) = projection(args.projection)?;
        let verify = match &verb {
            Verb::Verify(settings) => Some(settings.check(&args.topic, &projection)?),
            _ => None,
        };
        Ok(Self {
            relay: args.relay.settings(&args.topic, &args.group)?,
            verb,
            verify,
            json: args.json,
            kafka,
            database,
            topic: args.topic,
            group: args.group,
            projection,
            projection_text,
            generation: args.generation,
            lanes: args.lanes,
            batch_records_max: args.batch_records_max,
            batch_bytes_max: args.batch_bytes_max as usize,
            limits: Limits { value_bytes_max: args.value_max_bytes as usize, site_apps_max: args.site_apps_max },
            brake_limits: BrakeLimits {
                percent_max: args.brake_percent,
                window_records: args.brake_window_records,
                run_records: args.brake_run_records,
            },
            marker_retention: args.marker_retention,
            change_retention: args.change_retention,
            heartbeat_topic: args.heartbeat_topic.filter(|topic| !topic.is_empty()),
            key_change_wait: args.key_change_wait,
            drain_max: args.drain_max,
            admin_listen: args.admin_listen,
            common: args.common,
        })
    }

    /// Consumer group of a generation.
    pub fn group_of(&self, generation: i32) -> String {
        format!("{}-g{generation}", self.group)
    }
}

/// The parser's own errors may repeat parts of the URL.
fn database(url: &str) -> Result<Primary, Invalid> {
    Primary::parse(url).map_err(|why| Invalid::new("DATABASE_URL", format!("{}: {why}", mask_urls(url))))
}

fn postgres_url(name: &str, url: &str) -> Result<PgConnectOptions, Invalid> {
    let refused = || Invalid::new(name, format!("{} is not a postgres:// URL", mask_urls(url)));
    url.parse().map_err(|_| refused())
}

/// The mapping, and the text of its file; without a file the default.
fn projection(path: Option<PathBuf>) -> Result<(Projection, Option<String>), Invalid> {
    let Some(path) = path else {
        return Ok((Projection::default(), None));
    };
    let invalid = |why: String| Invalid::new("WRITER_PROJECTION", format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(&path).map_err(|error| invalid(error.to_string()))?;
    let projection = Projection::parse(&text).map_err(|error| invalid(error.to_string()))?;
    Ok((projection, Some(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, String> {
        let required = ["writer", "--kafka-bootstrap-servers", "k:9092"];
        let args = Args::try_parse_from(required.iter().chain(args).copied()).map_err(|error| error.to_string())?;
        Config::new(args).map_err(|error| error.to_string())
    }

    #[test]
    fn a_writer_runs_unless_it_is_told_another_verb() {
        let url = "postgres://u:secret@h/d";
        assert!(matches!(config(&["--database-url", url]).expect("valid").verb, Verb::Run));
        let position = config(&["position", "--json", "--database-url", url]).expect("valid");
        assert!(matches!(position.verb, Verb::Position(_)) && position.json);
        assert_eq!(position.group_of(3), "installed-apps-writer-g3");
        assert!(config(&["healthcheck"]).is_ok(), "it asks no database");
    }

    #[test]
    fn verbs_that_change_something_want_a_reason() {
        for verb in [
            &["position", "set", "--partition", "0", "--to", "7"][..],
            &["unblock", "--partition", "0"],
            &["source-epoch", "raise"],
            &["generation", "promote", "2"],
            &["generation", "rollback"],
            &["generation", "drop", "2"],
            &["relay", "set", "--to", "floor"],
        ] {
            let with =
                |reason: &[&'static str]| config(&[verb, reason, &["--database-url", "postgres://h/d"]].concat());
            for without in [with(&[]), with(&["--reason", " "])] {
                let error = without.expect_err("refused");
                assert!(error.contains("--reason"), "{error}");
            }
            assert!(with(&["--reason", "why"]).is_ok(), "{verb:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_and_no_password_is_shown() {
        for (args, named) in [
            (&["--database-url", "postgres://u:secret@[broken"][..], "DATABASE_URL"),
            (&["--database-url", ""], "DATABASE_URL"),
            (&["position"], "DATABASE_URL"),
            (&["--database-url", "postgres://h/d", "--projection", "/nowhere.toml"], "/nowhere.toml"),
            (&["--database-url", "postgres://h/d", "--key-change-wait", "soon"], "key-change-wait"),
            (&["--database-url", "postgres://h/d", "--lanes", "0"], "lanes"),
            (&["verify", "--database-url", "postgres://h/d"], "WRITER_SOURCE_DATABASE_URL"),
            (
                &["verify", "--database-url", "postgres://h/d", "--source-database-url", "postgres://u:secret@[x"],
                "WRITER_SOURCE_DATABASE_URL",
            ),
            (&["--database-url", "postgres://h/d", "--brake-percent", "101"], "brake-percent"),
            (&["--database-url", "postgres://h/d", "--brake-run-records", "0"], "brake-run-records"),
            (&["--database-url", "postgres://h/d", "--relay-topic", "metasite.public.meta_site"], "WRITER_RELAY_TOPIC"),
            (&["relay", "set", "--to", "somewhere", "--database-url", "postgres://h/d"], "--to"),
        ] {
            let error = config(args).expect_err("refused");
            assert!(error.contains(named) && !error.contains("secret"), "{error}");
        }
    }
}
