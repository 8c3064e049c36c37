//! The timed window of a drain, the same for everybody: from the first sight of any event in the database to the first
//! sight of the last event of each partition. Events that were there at the first sight do not count, and start-up (of a
//! process, a consumer group, a Java machine) is outside.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use devstack::{Step, eventually};
use serde::Serialize;

use crate::contender::{Drain, Progress};
use crate::cpu;
use crate::database::Database;

/// Pause between two looks. A window is seconds long; a look is one small query.
pub const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Looks between two questions whether the contender is well.
const LOOKS_PER_CHECK_UP: u32 = 100;
/// Until the first event must be in the database: Connect's tasks start and join their group meanwhile.
const BEGIN_MAX: Duration = Duration::from_secs(120);
/// Until the last event must be in the database.
const DRAIN_MAX: Duration = Duration::from_secs(30 * 60);

/// A process whose CPU time is part of the result, by name.
pub type Processes = BTreeMap<String, i32>;

/// What a drain came to.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// Events in the window.
    pub events: u64,
    /// Length of the window.
    pub seconds: f64,
    /// Events a second.
    pub events_per_second: f64,
    /// CPU time of each process per event, in microseconds.
    pub cpu_us_per_event: BTreeMap<String, f64>,
    /// CPU time per event of those who do the work: the contender and the primary.
    pub work_cpu_us_per_event: f64,
    /// Bytes of write-ahead log per event.
    pub wal_bytes_per_event: f64,
    /// Most memory that the contender's process has had resident.
    pub peak_rss_bytes: u64,
}

struct Mark {
    at: Instant,
    cpu: BTreeMap<String, Duration>,
    wal_bytes: u64,
}

/// Watches a drain of so many events from its first to its last.
pub(crate) async fn watch(
    drain: &impl Drain,
    others: &Processes,
    database: &Database,
    events: u64,
    step: &Step,
) -> Result<Figures> {
    let Some(pid) = drain.pid() else { bail!(failure(drain).await) };
    let processes: Processes =
        others.iter().map(|(name, pid)| (name.clone(), *pid)).chain([(name(drain), pid)]).collect();
    let already = begun(drain).await?;
    let start = Mark::set(&processes, database).await?;
    ensure!(already < events, "all {events} events were stored at the first sight: too few to time anything");
    done(drain, step).await?;
    let end = Mark::set(&processes, database).await?;
    Ok(figures(&name(drain), &start, &end, events - already, cpu::peak_rss_bytes(pid)?))
}

fn name<D: Drain>(_: &D) -> String {
    D::NAME.to_owned()
}

async fn begun(drain: &impl Drain) -> Result<u64> {
    let first = async || match (drain.begun().await, drain.pid()) {
        (Ok(None), Some(_)) => None,
        (Ok(None), None) => Some(Err(anyhow::anyhow!(failure(drain).await))),
        (outcome, _) => outcome.transpose(),
    };
    match eventually("the first event is in the database", BEGIN_MAX, first).await {
        Ok(outcome) => outcome,
        Err(late) => Err(late.context(failure(drain).await)),
    }
}

async fn done(drain: &impl Drain, step: &Step) -> Result<()> {
    let started = Instant::now();
    let mut looks = tokio::time::interval(LOOK_EVERY);
    for look in 1u32.. {
        looks.tick().await;
        match drain.progress().await? {
            Progress::Done => return Ok(()),
            Progress::Running(Some(stored)) => {
                step.position(stored, &format!("{:.0} s", started.elapsed().as_secs_f64()));
            }
            Progress::Running(None) => {}
        }
        if look % LOOKS_PER_CHECK_UP == 0
            && let Some(why) = drain.failure().await
        {
            bail!(why);
        }
        ensure!(started.elapsed() < DRAIN_MAX, "not drained within {DRAIN_MAX:?}");
    }
    unreachable!("a drain ends or is given up long before 2^32 looks")
}

async fn failure(drain: &impl Drain) -> String {
    drain.failure().await.unwrap_or_else(|| "it does not say why".to_owned())
}

impl Mark {
    async fn set(processes: &Processes, database: &Database) -> Result<Self> {
        let at = Instant::now();
        let cpu = processes.iter().map(|(name, pid)| Ok((name.clone(), cpu::used(*pid)?)));
        Ok(Self { at, cpu: cpu.collect::<Result<_>>()?, wal_bytes: database.wal_bytes().await? })
    }
}

fn figures(contender: &str, start: &Mark, end: &Mark, events: u64, peak_rss_bytes: u64) -> Figures {
    let per_event = |amount: f64| amount / events as f64;
    let seconds = (end.at - start.at).as_secs_f64();
    let cpu_us_per_event: BTreeMap<String, f64> = end
        .cpu
        .iter()
        .map(|(name, used)| (name.clone(), per_event((*used - start.cpu[name]).as_secs_f64() * 1e6)))
        .collect();
    let work = [contender, PRIMARY].iter().filter_map(|name| cpu_us_per_event.get(*name)).sum();
    Figures {
        events,
        seconds,
        events_per_second: events as f64 / seconds,
        cpu_us_per_event,
        work_cpu_us_per_event: work,
        wal_bytes_per_event: per_event((end.wal_bytes - start.wal_bytes) as f64),
        peak_rss_bytes,
    }
}

/// Name of the view's primary among the processes.
pub const PRIMARY: &str = "primary";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_the_window_alone() {
        let at = Instant::now();
        let mark = |seconds: u64, writer: u64, primary: u64, broker: u64, wal_bytes| {
            let cpu = [("writer", writer), (PRIMARY, primary), ("broker", broker)];
            let cpu = cpu.map(|(name, ms)| (name.to_owned(), Duration::from_millis(ms))).into();
            Mark { at: at + Duration::from_secs(seconds), cpu, wal_bytes }
        };
        let figures =
            figures("writer", &mark(1, 100, 1000, 500, 7_000), &mark(3, 600, 2000, 600, 10_007_000), 10_000, 5);
        assert_eq!((figures.events_per_second, figures.wal_bytes_per_event), (5_000.0, 1_000.0));
        assert_eq!(figures.cpu_us_per_event["writer"], 50.0);
        assert_eq!(figures.cpu_us_per_event["broker"], 10.0);
        assert_eq!(figures.work_cpu_us_per_event, 150.0, "the broker is not the contender's work");
    }
}
