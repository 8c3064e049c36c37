//! What the notifier can be told, and the checked configuration that the rest of it is built from.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};
use messaging::settings::{self, Settings};
use shared::{
    config::{Common, Invalid, Secret, bytes_between, duration_between, secret_from},
    healthcheck::HealthcheckArgs,
    import::{ChannelSecret, NOTIFICATIONS_TOPIC},
};

const MIB: u64 = 1 << 20;
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// Tells browsers what becomes of their imports: makes channels, and serves them by websocket and server-sent events.
///
/// Settings come from flags, then the environment, then the file of --config, then the defaults. Without a verb it serves.
#[derive(Debug, Parser)]
#[command(name = "notifier", version, max_term_width = 120)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,

    /// Kafka brokers, host:port separated by commas; required but for `healthcheck`
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS", global = true)]
    kafka_bootstrap_servers: Option<String>,

    /// Client properties as Kafka's own tools take them (TLS, SASL, tuning), a .properties file; unknown keys are errors
    #[arg(long, env = "KAFKA_PROPERTIES_FILE", global = true, value_name = "PATH")]
    kafka_properties_file: Option<PathBuf>,

    /// Secret with which channel ids are signed, at least 32 bytes; the same for every notifier and for jobs. Required, here or by
    /// the file
    #[arg(long, env = "CHANNEL_SECRET", hide_env_values = true, global = true)]
    channel_secret: Option<Secret>,

    /// File that holds the secret, for mounted secrets; instead of CHANNEL_SECRET
    #[arg(long, env = "CHANNEL_SECRET_FILE", global = true, value_name = "PATH")]
    channel_secret_file: Option<PathBuf>,

    /// Put before the names of topics, so that several installations can share a cluster [default: nothing]
    #[arg(long, env = "IMPORT_TOPIC_PREFIX", default_value = "", global = true)]
    topic_prefix: String,

    /// Partitions of the topic, if it has to be made
    #[arg(long, env = "IMPORT_PARTITIONS", default_value_t = 6, global = true, value_parser = clap::value_parser!(i32).range(1..=1000))]
    topic_partitions: i32,

    /// Replicas of the topic, if it has to be made; -1: as the brokers do by default
    #[arg(long, env = "IMPORT_REPLICAS", default_value_t = -1, global = true, allow_negative_numbers = true, value_parser = clap::value_parser!(i32).range(-1..=9))]
    topic_replicas: i32,

    /// Address of the API, host:port
    #[arg(long, env = "NOTIFIER_LISTEN", default_value = "0.0.0.0:8082", global = true)]
    listen: SocketAddr,

    /// Address of /livez, /readyz and /metrics, host:port
    #[arg(long, env = "NOTIFIER_ADMIN_LISTEN", default_value = "0.0.0.0:9105", global = true)]
    admin_listen: SocketAddr,

    /// Origins whose pages may make channels and listen, as browsers write them, several separated by commas: those at which the
    /// page of jobs is served. A request without an origin comes from no browser and is answered
    #[arg(
        long,
        env = "NOTIFIER_ORIGINS",
        default_value = "http://localhost:8081,http://127.0.0.1:8081",
        value_delimiter = ',',
        global = true,
        value_name = "ORIGIN"
    )]
    origins: Vec<String>,

    /// How long a channel is good, duration; at most as long as the topic keeps its records, so that nothing is missing
    #[arg(long, env = "NOTIFIER_CHANNEL_LIFETIME", default_value = "1d", global = true, value_parser = duration_between(SECOND, 30 * DAY))]
    channel_lifetime: Duration,

    /// Connections at once; one more is closed as it comes. Each costs some 20 KiB
    #[arg(long, env = "NOTIFIER_CONNECTIONS_MAX", default_value = "10000", global = true, value_parser = count(1, 1_000_000))]
    connections_max: usize,

    /// Connections that listen to one channel at once: tabs of one person
    #[arg(long, env = "NOTIFIER_CHANNEL_CONNECTIONS_MAX", default_value = "16", global = true, value_parser = count(1, 10_000))]
    channel_connections_max: usize,

    /// Channels made in a second at most, in the long run; ten times as many at once. Beyond it 429
    #[arg(long, env = "NOTIFIER_CHANNELS_PER_SECOND_MAX", default_value = "100", global = true, value_parser = count(1, 1_000_000))]
    channels_per_second_max: usize,

    /// Frames that wait for one connection at most, beside its replay; progress does not count, of it the latest waits. A client
    /// that lets more come together is closed, and comes back with its cursor
    #[arg(long, env = "NOTIFIER_QUEUE_FRAMES_MAX", default_value = "100", global = true, value_parser = count(1, 100_000))]
    queue_frames_max: usize,

    /// Between two frames of progress to one connection at least, duration: nobody reads faster
    #[arg(long, env = "NOTIFIER_PROGRESS_INTERVAL", default_value = "250ms", global = true, value_parser = duration_between(Duration::ZERO, 60 * SECOND))]
    progress_interval: Duration,

    /// How long a client that has seen more than this instance waits for it, duration. Instances are milliseconds apart; beyond this
    /// the client's cursor is taken to be of another log, and it is told of a gap
    #[arg(long, env = "NOTIFIER_BEHIND_MAX", default_value = "2s", global = true, value_parser = duration_between(MILLISECOND, 600 * SECOND))]
    behind_max: Duration,

    /// How long a client may let one write wait, duration; one that reads nothing is closed
    #[arg(long, env = "NOTIFIER_SEND_MAX", default_value = "10s", global = true, value_parser = duration_between(100 * MILLISECOND, 600 * SECOND))]
    send_max: Duration,

    /// How often clients are pinged, duration; one that is silent for two of them is closed. Proxies cut what is idle for a minute
    #[arg(long, env = "NOTIFIER_PING_INTERVAL", default_value = "20s", global = true, value_parser = duration_between(SECOND, 600 * SECOND))]
    ping_interval: Duration,

    /// Frames that are kept of one channel at most, to be replayed; three of each import
    #[arg(long, env = "NOTIFIER_HISTORY_FRAMES_MAX", default_value = "300", global = true, value_parser = count(3, 100_000))]
    history_frames_max: usize,

    /// Memory for what is kept of all channels; beyond it goes the history of those that were silent longest
    #[arg(long, env = "NOTIFIER_HISTORY_BYTES_MAX", default_value = "32MiB", global = true, value_parser = bytes_between(MIB / 16, 4096 * MIB))]
    history_bytes_max: u64,

    #[command(flatten)]
    common: Common,
}

/// What is to be done.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// Serve channels (the default)
    Run,
    /// Ask the notifier that runs here whether it is well; exit code 0 or 1
    Healthcheck(HealthcheckArgs),
}

/// The checked configuration; what its values mean stands at [`Args`].
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each is described once, in the help text of its argument")]
pub struct Config {
    pub verb: Verb,
    pub kafka: Settings,
    /// `None` only with `healthcheck`.
    pub channel_secret: Option<ChannelSecret>,
    pub topic: String,
    pub topic_partitions: i32,
    pub topic_replicas: i32,
    pub listen: SocketAddr,
    pub admin_listen: SocketAddr,
    pub origins: BTreeSet<String>,
    pub channel_lifetime: Duration,
    pub connections_max: usize,
    pub channel_connections_max: usize,
    pub channels_per_second_max: usize,
    pub queue_frames_max: usize,
    pub progress_interval: Duration,
    pub behind_max: Duration,
    pub send_max: Duration,
    pub ping_interval: Duration,
    pub history_frames_max: usize,
    pub history_bytes_max: usize,
    pub common: Common,
}

impl Config {
    /// Checks what clap can't: the secret, the origins, Kafka's properties.
    pub fn new(args: Args) -> Result<Self, Invalid> {
        let verb = args.verb.unwrap_or(Verb::Run);
        let is_asking = matches!(verb, Verb::Healthcheck(_));
        let properties = args.kafka_properties_file.as_deref().map(settings::read_properties).transpose()?;
        let kafka = settings::client_settings(
            args.kafka_bootstrap_servers.as_deref(),
            properties.unwrap_or_default(),
            is_asking,
        )?;
        let secret = secret_from("CHANNEL_SECRET", args.channel_secret, args.channel_secret_file)?;
        if secret.is_none() && !is_asking {
            return Err(Invalid::new(
                "CHANNEL_SECRET_FILE",
                "is required: a file with at least 32 bytes that nobody can guess",
            ));
        }
        Ok(Self {
            verb,
            kafka,
            channel_secret: secret.as_ref().map(ChannelSecret::new).transpose()?,
            topic: format!("{}{NOTIFICATIONS_TOPIC}", args.topic_prefix),
            topic_partitions: args.topic_partitions,
            topic_replicas: if args.topic_replicas == 0 { -1 } else { args.topic_replicas },
            listen: args.listen,
            admin_listen: args.admin_listen,
            origins: origins(&args.origins)?,
            channel_lifetime: args.channel_lifetime,
            connections_max: args.connections_max,
            channel_connections_max: args.channel_connections_max,
            channels_per_second_max: args.channels_per_second_max,
            queue_frames_max: args.queue_frames_max,
            progress_interval: args.progress_interval,
            behind_max: args.behind_max,
            send_max: args.send_max,
            ping_interval: args.ping_interval,
            history_frames_max: args.history_frames_max,
            history_bytes_max: usize::try_from(args.history_bytes_max).unwrap_or(usize::MAX),
            common: args.common,
        })
    }
}

/// Each as a browser would write it (RFC 6454), so that they can be compared as texts.
fn origins(named: &[String]) -> Result<BTreeSet<String>, Invalid> {
    let named = named.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
    let origin = |text: &str| {
        let is_origin = url::Url::parse(text).is_ok_and(|url| url.origin().ascii_serialization() == text);
        let why = || {
            format!("{text:?} is not an origin; write scheme, host and port as browsers do: https://import.example.org")
        };
        if is_origin { Ok(text.to_owned()) } else { Err(Invalid::new("NOTIFIER_ORIGINS", why())) }
    };
    named.map(origin).collect()
}

/// A number from `min` to `max`.
fn count(min: u64, max: u64) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| match text.parse::<u64>() {
        Ok(number) if (min..=max).contains(&number) => Ok(usize::try_from(number).unwrap_or(usize::MAX)),
        _ => Err(format!("must be a number from {min} to {max}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, String> {
        let required =
            ["notifier", "--kafka-bootstrap-servers", "k:9092", "--channel-secret", "0123456789abcdef0123456789abcdef"];
        let args = Args::try_parse_from(required.iter().chain(args).copied()).map_err(|error| error.to_string())?;
        Config::new(args).map_err(|error| error.to_string())
    }

    #[test]
    fn origins_are_written_as_browsers_write_them() {
        let of = |text: &str| config(&["--origins", text]).map(|config| config.origins.len());
        assert_eq!(of("https://a.example, http://b.example:8081"), Ok(2));
        assert_eq!(of(""), Ok(0));
        for wrong in ["https://a.example/", "https://a.example:443", "a.example", "*", "null", "HTTPS://a.example"] {
            assert!(of(wrong).unwrap_err().contains("NOTIFIER_ORIGINS"), "{wrong}");
        }
    }

    #[test]
    fn the_secret_is_required_and_long_enough() {
        let short =
            Args::try_parse_from(["notifier", "--kafka-bootstrap-servers", "k:9092", "--channel-secret", "short"])
                .unwrap();
        assert!(Config::new(short).unwrap_err().to_string().contains("CHANNEL_SECRET"));
        let none = Args::try_parse_from(["notifier", "--kafka-bootstrap-servers", "k:9092"]).unwrap();
        assert!(Config::new(none).unwrap_err().to_string().contains("CHANNEL_SECRET_FILE"));
        let asking = Args::try_parse_from(["notifier", "healthcheck"]).unwrap();
        assert!(Config::new(asking).is_ok());
    }
}
