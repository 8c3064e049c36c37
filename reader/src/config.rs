//! What the reader can be told, and the checked configuration that the rest of it is built from.

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Parser, Subcommand};
use shared::config::{Common, Invalid, Secret, bytes_between, duration_between, mask_urls, secret_from};
use shared::healthcheck::HealthcheckArgs;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// Serves the installed-apps view over HTTP from Postgres replicas.
///
/// Settings come from flags, then the environment, then the file of --config, then the defaults. Without a verb it runs.
#[derive(Debug, Parser)]
#[command(name = "reader", version, max_term_width = 120)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,

    /// Address of the API, host:port
    #[arg(long, env = "READER_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,

    /// Address of /livez, /readyz and /metrics, host:port; another port, so that it answers when the API is overloaded
    #[arg(long, env = "READER_ADMIN_LISTEN", default_value = "0.0.0.0:9102")]
    admin_listen: SocketAddr,

    /// Replicas as postgres:// URLs, separated by commas; required, here or by the file, but for `healthcheck`
    #[arg(long, env = "READER_DATABASE_URLS", hide_env_values = true)]
    database_urls: Option<Secret>,

    /// File that holds the replicas' URLs, for mounted secrets; instead of READER_DATABASE_URLS
    #[arg(long, env = "READER_DATABASE_URLS_FILE")]
    database_urls_file: Option<PathBuf>,

    /// Primary as a postgres:// URL, asked only while no replica can answer; none by default, as reads would burden it
    #[arg(long, env = "READER_FALLBACK_DATABASE_URL", hide_env_values = true)]
    fallback_database_url: Option<Secret>,

    /// File that holds the fallback's URL, for mounted secrets
    #[arg(long, env = "READER_FALLBACK_DATABASE_URL_FILE")]
    fallback_database_url_file: Option<PathBuf>,

    /// Threads that serve requests, each its share of the client connections; by default half the cores, rounded up, 8 at most
    #[arg(long, env = "READER_WORKERS", value_parser = count(1, 256))]
    workers: Option<usize>,

    /// Long-lived connections per replica, shared by all requests; by default one per worker, which then has it to itself, and
    /// two at least, so that one can fail. More gain nothing, as statements are pipelined
    #[arg(long, env = "READER_REPLICA_CONNECTIONS", value_parser = count(1, 256))]
    replica_connections: Option<usize>,

    /// How often each replica's position is sampled, duration; answers claim a position at most so old
    #[arg(long, env = "READER_POSITION_INTERVAL", default_value = "50ms", value_parser = duration_between(5 * MILLI, 10 * SECOND))]
    position_interval: Duration,

    /// A replica that gives no sample for so long is not asked, duration; well above a checkpoint's stutter
    #[arg(long, env = "READER_REPLICA_SILENCE_MAX", default_value = "2s", value_parser = duration_between(100 * MILLI, 60 * SECOND))]
    replica_silence_max: Duration,

    /// A replica that owes an answer for so long while another gives samples is left for that one, duration; above a busy
    /// machine's hiccups
    #[arg(long, env = "READER_REPLICA_PATIENCE", default_value = "300ms", value_parser = duration_between(10 * MILLI, 60 * SECOND))]
    replica_patience: Duration,

    /// A replica that is behind by more is left out while another is not, duration; where all are, the least stale answers
    /// and says so. Counts what other replicas have and it lacks, what it has received and not replayed, and a position that
    /// stands for longer than the 2s that are usual
    #[arg(long, env = "READER_REPLICA_LAG_MAX", default_value = "2s", value_parser = duration_between(10 * MILLI, 3600 * SECOND))]
    replica_lag_max: Duration,

    /// A replica that is behind by more answers nothing (503 no-replica), duration; none by default: old answers, which say how
    /// old they are, beat none. While no writer runs every replica seems behind, and this ends all answers
    #[arg(long, env = "READER_STALENESS_MAX", value_parser = duration_between(SECOND, 30 * 24 * 3600 * SECOND))]
    staleness_max: Option<Duration>,

    /// Time in which a replica that erred, was away or behind gets from no share of the requests to its whole one, duration;
    /// 0s at once
    #[arg(long, env = "READER_REPLICA_COMEBACK", default_value = "10s", value_parser = duration_between(Duration::ZERO, 3600 * SECOND))]
    replica_comeback: Duration,

    /// Bytes of documents kept in memory, of all replicas together; 0 keeps none. Off by default: a look-up by key costs
    /// Postgres little, and every reader would keep the same. Worth it where a few sites are asked for most of the time
    #[arg(long, env = "READER_CACHE_BYTES", default_value = "0", value_parser = bytes_between(0, 1024 * 1024 * MIB))]
    cache_bytes: u64,

    /// Time for one request, from its head to its answer, duration; beyond it 504. Well under what clients wait
    #[arg(long, env = "READER_REQUEST_TIME_MAX", default_value = "5s", value_parser = duration_between(10 * MILLI, 60 * SECOND))]
    request_time_max: Duration,

    /// Requests in hand at once, beyond it 503; bounds memory, and the wait of those in hand
    #[arg(long, env = "READER_REQUESTS_MAX", default_value = "1024", value_parser = count(1, 1_000_000))]
    requests_max: usize,

    /// Requests at once that may wait (Prefer: wait), beyond it 503; counted apart, so that they keep no others out
    #[arg(long, env = "READER_WAITS_MAX", default_value = "1024", value_parser = count(1, 1_000_000))]
    waits_max: usize,

    /// Connections open at once; for one more the one is closed that has waited longest without a request in hand. Each costs
    /// some 10 KiB
    #[arg(long, env = "READER_CONNECTIONS_MAX", default_value = "10000", value_parser = count(1, 1_000_000))]
    connections_max: usize,

    /// Feeds open at once, streams and long polls, beyond it 503; below the connections, so that look-ups find some free
    #[arg(long, env = "READER_FEEDS_MAX", default_value = "5000", value_parser = count(1, 1_000_000))]
    feeds_max: usize,

    /// A quiet feed sends its token so often, duration; below what proxies let stand idle
    #[arg(long, env = "READER_FEED_HEARTBEAT", default_value = "15s", value_parser = duration_between(100 * MILLI, 3600 * SECOND))]
    feed_heartbeat: Duration,

    /// A feed whose client takes nothing for so long is closed, duration; bounds what is held for it
    #[arg(long, env = "READER_FEED_STALL_MAX", default_value = "10s", value_parser = duration_between(100 * MILLI, 3600 * SECOND))]
    feed_stall_max: Duration,

    /// A connection that sends no complete request head for so long after its last answer was made is closed, duration; longer
    /// than clients keep idle ones. An answer that is taken too slowly is cut by it
    #[arg(long, env = "READER_IDLE_MAX", default_value = "75s", value_parser = duration_between(100 * MILLI, 3600 * SECOND))]
    idle_max: Duration,

    /// Bytes of a request's line and headers, beyond it 431; ids and tokens need less than 2 KiB
    #[arg(long, env = "READER_HEADER_BYTES_MAX", default_value = "32KiB", value_parser = bytes_between(KIB, 128 * KIB))]
    header_bytes_max: u64,

    /// Bytes of a request's body, beyond it 413; 1000 ids of the greatest length, escaped, fit
    #[arg(long, env = "READER_BODY_BYTES_MAX", default_value = "1MiB", value_parser = bytes_between(KIB, 64 * MIB))]
    body_bytes_max: u64,

    /// Time for a request's body to arrive, from its head on, duration; beyond it 400
    #[arg(long, env = "READER_BODY_TIME_MAX", default_value = "5s", value_parser = duration_between(10 * MILLI, 60 * SECOND))]
    body_time_max: Duration,

    /// Bytes of all bodies that are being received or in hand, beyond it 503; at least READER_BODY_BYTES_MAX
    #[arg(long, env = "READER_BODIES_BYTES_MAX", default_value = "32MiB", value_parser = bytes_between(KIB, 1024 * MIB))]
    bodies_bytes_max: u64,

    /// A client that takes nothing of its answer for so long is cut off, duration; its answer is held in memory meanwhile
    #[arg(long, env = "READER_UNREAD_MAX", default_value = "10s", value_parser = duration_between(100 * MILLI, 3600 * SECOND))]
    unread_max: Duration,

    /// After SIGTERM: not ready at once, still accepting for so long, duration; what a balancer needs to notice
    #[arg(long, env = "READER_PRE_DRAIN", default_value = "2s", value_parser = duration_between(Duration::ZERO, 300 * SECOND))]
    pre_drain: Duration,

    /// Time for the requests in hand after the pre-drain, duration; then the process ends
    #[arg(long, env = "READER_DRAIN_MAX", default_value = "2s", value_parser = duration_between(Duration::ZERO, 300 * SECOND))]
    drain_max: Duration,

    #[command(flatten)]
    common: Common,
}

/// What the reader is asked to do.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Verb {
    /// Serve until SIGTERM or SIGINT (the default)
    Run,
    /// Ask the running reader whether it is well, for a container's health check; exit code 0 or 1
    Healthcheck(HealthcheckArgs),
}

fn count(min: u64, max: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(min..=max)
}

/// The checked configuration; what its values mean stands at [`Args`].
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each is described once, in the help text of its argument")]
pub struct Config {
    pub verb: Verb,
    pub listen: SocketAddr,
    pub admin_listen: SocketAddr,
    /// Empty only with `healthcheck`.
    pub replicas: Vec<Database>,
    pub fallback: Option<Database>,
    pub workers: usize,
    pub replica_connections: usize,
    pub position_interval: Duration,
    pub replica_silence_max: Duration,
    pub replica_patience: Duration,
    pub replica_lag_max: Duration,
    pub staleness_max: Option<Duration>,
    pub replica_comeback: Duration,
    pub cache_bytes: u64,
    pub request_time_max: Duration,
    pub requests_max: usize,
    pub waits_max: usize,
    pub connections_max: usize,
    pub feeds_max: usize,
    pub feed_heartbeat: Duration,
    pub feed_stall_max: Duration,
    pub idle_max: Duration,
    pub header_bytes_max: usize,
    pub body_bytes_max: usize,
    pub body_time_max: Duration,
    pub bodies_bytes_max: usize,
    pub unread_max: Duration,
    pub pre_drain: Duration,
    pub drain_max: Duration,
    pub common: Common,
}

/// One database that can be asked.
#[derive(Clone)]
pub struct Database {
    /// `host:port` of the first host: its name in logs and metrics.
    pub name: String,
    /// How to connect; holds the password.
    pub connect: tokio_postgres::Config,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Config {
    /// Checks what clap can't: the databases, and limits against each other. Names the variable that is wrong and never shows a password.
    pub fn new(args: Args) -> Result<Self, Invalid> {
        const URLS: &str = "READER_DATABASE_URLS";
        const FALLBACK: &str = "READER_FALLBACK_DATABASE_URL";
        let urls = secret_from(URLS, args.database_urls, args.database_urls_file)?;
        let verb = args.verb.unwrap_or(Verb::Run);
        let replicas = match urls {
            Some(urls) => urls.expose().split(',').map(|url| database(URLS, url)).collect::<Result<_, _>>()?,
            None if matches!(verb, Verb::Healthcheck(_)) => Vec::new(),
            None => return Err(Invalid::new(URLS, "is required: the replicas' postgres:// URLs")),
        };
        if args.bodies_bytes_max < args.body_bytes_max {
            return Err(Invalid::new(
                "READER_BODIES_BYTES_MAX",
                "is less than READER_BODY_BYTES_MAX: one body must fit",
            ));
        }
        let workers = args.workers.unwrap_or_else(usual_workers);
        let fallback = secret_from(FALLBACK, args.fallback_database_url, args.fallback_database_url_file)?;
        Ok(Self {
            verb,
            listen: args.listen,
            admin_listen: args.admin_listen,
            replicas,
            fallback: fallback.map(|url| database(FALLBACK, url.expose())).transpose()?,
            workers,
            replica_connections: args.replica_connections.unwrap_or(workers.max(2)),
            position_interval: args.position_interval,
            replica_silence_max: args.replica_silence_max,
            replica_patience: args.replica_patience,
            replica_lag_max: args.replica_lag_max,
            staleness_max: args.staleness_max,
            replica_comeback: args.replica_comeback,
            cache_bytes: args.cache_bytes,
            request_time_max: args.request_time_max,
            requests_max: args.requests_max,
            waits_max: args.waits_max,
            connections_max: args.connections_max,
            feeds_max: args.feeds_max,
            feed_heartbeat: args.feed_heartbeat,
            feed_stall_max: args.feed_stall_max,
            idle_max: args.idle_max,
            header_bytes_max: args.header_bytes_max as usize,
            body_bytes_max: args.body_bytes_max as usize,
            body_time_max: args.body_time_max,
            bodies_bytes_max: args.bodies_bytes_max as usize,
            unread_max: args.unread_max,
            pre_drain: args.pre_drain,
            drain_max: args.drain_max,
            common: args.common,
        })
    }
}

/// Half the cores, rounded up, a container's quota taken into account: the kernel's network, feeds and compression have use for
/// the others, and the fewer workers, the more look-ups share a statement and a wake-up (ADR 15). A large machine's cores would
/// cost every replica as many connections.
fn usual_workers() -> usize {
    const USUAL_MAX: usize = 8;
    std::thread::available_parallelism().map_or(1, NonZero::get).div_ceil(2).min(USUAL_MAX)
}

fn database(variable: &str, url: &str) -> Result<Database, Invalid> {
    let url = url.trim();
    if url.is_empty() {
        return Err(Invalid::new(variable, "is empty; write postgres://user@host:port/database"));
    }
    // The parser's own error may repeat parts of the URL.
    let refused = || Invalid::new(variable, format!("{} is not a postgres:// URL with a host", mask_urls(url)));
    let connect: tokio_postgres::Config = url.parse().map_err(|_| refused())?;
    let host = match connect.get_hosts().first().ok_or_else(refused)? {
        tokio_postgres::config::Host::Tcp(host) => host.clone(),
        tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
    };
    let port = connect.get_ports().first().copied().unwrap_or(5432);
    Ok(Database { name: format!("{host}:{port}"), connect })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(args: &[&str]) -> Result<Config, String> {
        let args = Args::try_parse_from(std::iter::once("reader").chain(args.iter().copied()));
        Config::new(args.map_err(|e| e.to_string())?).map_err(|e| e.to_string())
    }

    #[test]
    fn databases_are_named_by_host_and_port() {
        let config = config(&["--database-urls", "postgres://u:pw@h1:1/d, postgres://u@h2/d"]).unwrap();
        assert_eq!(format!("{:?}", config.replicas), "[h1:1, h2:5432]");
        assert!(!format!("{config:?}").contains("pw"));
    }

    #[test]
    fn databases_that_cannot_be_are_refused_without_their_password() {
        for urls in ["", " ", "postgres://u:pw@[broken", "postgres://u:pw@h1/d,", "nonsense", "postgres://u:pw@h:x/d"] {
            let message = config(&["--database-urls", urls]).err().unwrap_or_default();
            assert!(message.contains("READER_DATABASE_URLS") && !message.contains("pw"), "{urls:?}: {message}");
        }
        assert!(config(&[]).is_err_and(|e| e.contains("READER_DATABASE_URLS")));
        assert!(config(&["healthcheck"]).is_ok_and(|config| config.replicas.is_empty()), "it asks no database");
    }

    #[test]
    fn one_body_must_fit_among_all() {
        let limits = ["--database-urls", "postgres://h/d", "--body-bytes-max", "2MiB", "--bodies-bytes-max", "1MiB"];
        assert!(config(&limits).is_err_and(|e| e.contains("READER_BODIES_BYTES_MAX")));
    }
}
