//! `devstack demo`: the whole system with data in it and changes going through it, until Ctrl-C; with Prometheus where that
//! is installed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::Client;

use crate::catalog::app_id;
use crate::changes::{Source, Trace};
use crate::endpoints::Endpoints;
use crate::options::{Options, Part};
use crate::progress::{Progress, say};
use crate::stack::Devstack;
use crate::wait::eventually;
use crate::{postgres, prometheus, up};

/// One site is always there, for the printed addresses; another is deleted and comes back.
pub const SITES_MIN: u32 = 2;
/// Some gigabytes in the source, the topic and the view.
pub const SITES_MAX: u32 = 1_000_000;
/// A change in a quarter of an hour. The pause between two is counted, so it must be short enough to be.
pub const RATE_MIN: f64 = 0.001;
/// One connection makes them one by one, and the timer has milliseconds.
pub const RATE_MAX: f64 = 1000.0;

/// The view has all seeded sites within this and so much more for each; on two cores it takes seconds.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(300);
const CATCH_UP_PER_SITE: Duration = Duration::from_millis(1);
const FIRST_ANSWER_DEADLINE: Duration = Duration::from_secs(30);
const STATUS: Duration = Duration::from_secs(10);
const COUNT: &str = "select count(*) from view.site_apps where deleted_at is null";
/// The change of a trace is in the view: its version or a later one, or the site has gone since.
const ARRIVED: &str = "select coalesce((select deleted_at is not null or version >= $2 from view.site_apps \
    where site_id = $1), false)";

/// How much the demo holds and does.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Sites that are seeded, [`SITES_MIN`] at least.
    pub sites: usize,
    /// Changes of the source per second afterwards, [`RATE_MIN`] to [`RATE_MAX`].
    pub changes_per_second: f64,
}

/// Reads changes per second.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (RATE_MIN..=RATE_MAX).contains(rate));
    rate.ok_or_else(|| format!("a rate is a number from {RATE_MIN} to {RATE_MAX}"))
}

/// Runs until SIGINT or SIGTERM, or until a part fails.
pub async fn run(mut options: Options, load: Load) -> Result<()> {
    if prometheus::is_installed() {
        options.parts.insert(Part::Prometheus);
    }
    let progress = options.progress.clone();
    let end = up::end(false)?;
    let show = async {
        let stack = Devstack::start(options).await?;
        tokio::select! {
            outcome = fill_and_change(stack.endpoints(), load, &progress) => outcome.map_err(|error| stack.name_logs(error)),
            failure = up::watch(&stack) => failure,
        }
    };
    tokio::select! {
        outcome = show => outcome?,
        () = end => {}
    }
    progress.line("stopped; nothing is left running");
    Ok(())
}

async fn fill_and_change(endpoints: &Endpoints, load: Load, progress: &Progress) -> Result<()> {
    let replica = postgres::client(endpoints.view_replica_urls.first().context("replica")?).await?;
    let mut source = Source::new(postgres::client(endpoints.source_database_url.as_deref().context("source")?).await?);
    let step = progress.bar("seeding the MetaSite table", load.sites as u64);
    source.seed(load.sites, |sites| step.position(sites as u64, "sites")).await?;
    step.done(&format!("seeded {} sites", load.sites));
    catch_up(&replica, load.sites, progress).await?;

    let lines = curl_lines(endpoints, &source)?;
    let answered = async || reqwest::get(&lines[0]).await.is_ok_and(|answer| answer.status() == 200).then_some(());
    eventually(&format!("the reader answers {}", lines[0]), FIRST_ANSWER_DEADLINE, answered).await?;
    say(&addresses(endpoints));
    say("\nTry these:\n");
    lines.iter().for_each(|url| say(&format!("  curl -s '{url}'")));
    say(&format!("\n{} changes a second go through it now. Ctrl-C ends everything.\n", load.changes_per_second));
    keep_changing(source, &replica, load, progress).await
}

async fn catch_up(replica: &Client, sites: usize, progress: &Progress) -> Result<()> {
    let step = progress.bar("view on the replica", sites as u64);
    let caught_up = async || {
        let seen: i64 = replica.query_one(COUNT, &[]).await.ok()?.get(0);
        step.position(seen.unsigned_abs(), "sites");
        (seen.unsigned_abs() >= sites as u64).then_some(())
    };
    let deadline = CATCH_UP_DEADLINE + CATCH_UP_PER_SITE * u32::try_from(sites)?;
    eventually("the view has every seeded site", deadline, caught_up).await?;
    step.done(&format!("the view holds {sites} sites"));
    Ok(())
}

/// Site, app → sites, app count; the first site is never deleted.
fn curl_lines(endpoints: &Endpoints, source: &Source) -> Result<[String; 3]> {
    let reader = endpoints.reader_url.as_deref().context("reader")?;
    let (site, app) = (&source.first().site_id, app_id(0));
    Ok([
        format!("{reader}/v1/sites/{site}/installed-apps"),
        format!("{reader}/v1/apps/{app}/sites?limit=5"),
        format!("{reader}/v1/apps/{app}"),
    ])
}

fn addresses(endpoints: &Endpoints) -> String {
    let one = |address: &Option<String>| address.clone().unwrap_or_default();
    [
        ("reader", one(&endpoints.reader_url)),
        ("reader, admin", one(&endpoints.reader_admin_url)),
        ("writer, admin", one(&endpoints.writer_admin_url)),
        ("relay, admin", one(&endpoints.relay_admin_url)),
        ("import page", one(&endpoints.jobs_url)),
        ("notifier", one(&endpoints.notifier_url)),
        ("console", one(&endpoints.console_url)),
        ("kafka", one(&endpoints.kafka)),
        ("kafka connect", one(&endpoints.connect)),
        ("source database", one(&endpoints.source_database_url)),
        ("view primary", one(&endpoints.view_primary_url)),
        ("view replica", endpoints.view_replica_urls.join(" ")),
        ("prometheus", endpoints.prometheus.clone().unwrap_or_else(|| "not installed".to_owned())),
    ]
    .map(|(name, address)| format!("  {name:<16} {address}"))
    .join("\n")
}

async fn keep_changing(source: Source, replica: &Client, load: Load, progress: &Progress) -> Result<()> {
    let (traces, newest) = watch::channel(None);
    let (delays, delay) = watch::channel(Delay::default());
    tokio::select! {
        outcome = change_at_rate(source, load, traces) => outcome,
        outcome = measure(replica, newest, delays) => outcome,
        outcome = tell(delay, load, progress) => outcome,
    }
}

/// The newest traced change: how many were made by then, when it was committed, where to look for it.
type Newest = Option<(u64, Instant, Trace)>;

async fn change_at_rate(mut source: Source, load: Load, traces: watch::Sender<Newest>) -> Result<()> {
    let mut ticks = interval(Duration::from_secs_f64(1.0 / load.changes_per_second));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for made in 1.. {
        ticks.tick().await;
        if let Some(trace) = source.change().await? {
            traces.send_replace(Some((made, Instant::now(), trace)));
        }
    }
    Ok(())
}

/// How far the replica is behind the source.
#[derive(Debug, Clone, Copy, Default)]
struct Delay {
    /// Changes made when the looked-for change was committed.
    made: u64,
    /// When that was, while it is looked for.
    since: Option<Instant>,
    /// From source commit to replica, of the change before.
    last: Option<Duration>,
}

/// Follows one change at a time to the replica.
async fn measure(replica: &Client, mut newest: watch::Receiver<Newest>, delays: watch::Sender<Delay>) -> Result<()> {
    let arrived = replica.prepare(ARRIVED).await?;
    loop {
        newest.changed().await?;
        let Some((made, committed, trace)) = newest.borrow_and_update().clone() else {
            continue;
        };
        delays.send_modify(|delay| *delay = Delay { made, since: Some(committed), last: delay.last });
        while !replica.query_one(&arrived, &[&trace.site_id, &trace.version]).await?.get::<_, bool>(0) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        delays.send_replace(Delay { made, since: None, last: Some(committed.elapsed()) });
    }
}

async fn tell(delay: watch::Receiver<Delay>, load: Load, progress: &Progress) -> Result<()> {
    let mut ticks = interval(STATUS);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let Delay { made, since, last } = *delay.borrow();
        let waiting = since.map(|since| since.elapsed()).filter(|waiting| Some(*waiting) > last);
        let behind = waiting.or(last).unwrap_or_default();
        let sites = load.sites;
        progress.line(&format!("{made} changes of {sites} sites; replica {} ms behind the source", behind.as_millis()));
    }
}
