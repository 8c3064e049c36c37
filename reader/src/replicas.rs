//! The databases that are asked: which of them, over which connection, and once more elsewhere when that fails.

mod connection;
mod look_ups;
mod replica;
mod sampler;

use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::admin::Condition;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{Config, Database};
use crate::error::{Disposition, Error, Failure, GENERATION, disposition};
use crate::freshness::Demand;
use crate::observe;
use crate::position::Sample;
use crate::queries::Query;
pub(crate) use connection::{Connection, backoff, chain};
use replica::Lease;
pub(crate) use replica::Replica;

/// What a replica needs to know of the configuration.
#[derive(Debug, Clone)]
struct Settings {
    connections: usize,
    position_interval: Duration,
    silence_max: Duration,
    statement_time_max: Duration,
}

/// The replicas, and the primary that stands in when none of them can answer.
#[derive(Debug)]
pub(crate) struct Replicas {
    replicas: Vec<Arc<Replica>>,
    fallback: Option<Arc<Replica>>,
    /// Changes with each sample of any of them.
    news: Arc<watch::Sender<()>>,
    /// A replica that answers no look-up for so long is left for another one, if there is another.
    silence_max: Duration,
}

impl Failure {
    /// The `reason` of the retry metric, where another try may heal it; else the error of the request.
    fn reason(self, replica: &str) -> Result<&'static str, Error> {
        match self {
            Failure::Silent => Ok("silent"),
            Failure::Lost => Ok("connection"),
            Failure::Database(error) => match disposition(&error) {
                Disposition::Retry(reason) => {
                    tracing::debug!(
                        replica,
                        reason,
                        error = chain(&*error),
                        "look-up failed for a reason that may pass"
                    );
                    Ok(reason)
                }
                Disposition::Fatal => Err(Error::Database(error)),
            },
        }
    }
}

impl Replicas {
    /// Starts to connect and to sample, in tasks that never end. `ready` holds while some database can answer.
    pub(crate) fn start(config: &Config, ready: Condition) -> (Arc<Self>, JoinSet<()>) {
        let settings = Settings {
            connections: config.replica_connections,
            position_interval: config.position_interval,
            silence_max: config.replica_silence_max,
            statement_time_max: config.request_time_max,
        };
        let news = Arc::new(watch::Sender::new(()));
        let replica = |database: &Database| Arc::new(Replica::new(database, settings.clone(), news.clone()));
        let replicas: Vec<_> = config.replicas.iter().map(replica).collect();
        let all = Arc::new(Self {
            replicas,
            fallback: config.fallback.as_ref().map(replica),
            silence_max: config.replica_silence_max,
            news,
        });
        let mut upkeep = JoinSet::new();
        for replica in all.each() {
            replica.spawn_upkeep(&mut upkeep);
        }
        upkeep.spawn(tell(all.clone(), ready, settings.position_interval));
        (all, upkeep)
    }

    /// Asks a healthy replica that is where the client demands it to be; waits for one for as long as the client will.
    ///
    /// The sample that comes with the rows was taken on the same replica before they were read.
    pub(crate) async fn ask<Q: Query>(&self, query: &Q, demand: &Demand) -> Result<(Q::Found, Arc<Sample>), Error> {
        let (mut news, started) = (self.news.subscribe(), Instant::now());
        let mut result = self.ask_now(query, demand).await;
        if demand.wait.is_zero() || !matches!(result, Err(Error::PositionNotReached(_))) {
            return result;
        }
        while matches!(result, Err(Error::PositionNotReached(_))) {
            let remaining = demand.wait.saturating_sub(started.elapsed());
            if tokio::time::timeout(remaining, news.changed()).await.is_err() {
                break;
            }
            result = self.ask_now(query, demand).await;
        }
        observe::position_wait(started.elapsed());
        result
    }

    /// Asks one replica after the other until one has the version that is demanded.
    async fn ask_now<Q: Query>(&self, query: &Q, demand: &Demand) -> Result<(Q::Found, Arc<Sample>), Error> {
        let mut behind: Vec<Lease> = Vec::new();
        loop {
            let (found, lease) = match self.ask_with_retry(query, demand, &behind).await {
                Err(Error::NoReplica) if !behind.is_empty() => return Err(Error::PositionNotReached(demand.wait)),
                other => other?,
            };
            if demand.version.is_none_or(|version| Q::reaches(&found, version)) {
                return Ok((found, lease.sample()));
            }
            behind.push(lease);
        }
    }

    /// Retries once, elsewhere if there is an elsewhere, what another try may heal.
    async fn ask_with_retry<Q: Query>(
        &self,
        query: &Q,
        demand: &Demand,
        behind: &[Lease],
    ) -> Result<(Q::Found, Lease), Error> {
        let first = self.lease(demand, behind, None)?;
        let reason = match self.attempt(&first, query).await {
            Ok(found) => return Ok((found, first)),
            Err(failure) => failure.reason(first.replica_name())?,
        };
        observe::replica_retry(reason);
        if reason == GENERATION {
            // The same sample would lead to the same tables, which are there no more.
            first.resampled().await;
        }
        let second = self.lease(demand, behind, Some(&first))?;
        match second.ask(query).await {
            Ok(found) => Ok((found, second)),
            Err(failure) => Err(failure.reason(second.replica_name()).err().unwrap_or(Error::NoReplica)),
        }
    }

    /// The first attempt: cut short only where there is another replica to turn to.
    async fn attempt<Q: Query>(&self, lease: &Lease, query: &Q) -> Result<Q::Found, Failure> {
        let asked = lease.ask(query);
        if !self.each().any(|replica| replica.is_healthy() && !lease.is_of(replica)) {
            return asked.await;
        }
        match tokio::time::timeout(self.silence_max, asked).await {
            Ok(result) => result,
            Err(_elapsed) => Err(Failure::Silent),
        }
    }

    /// The best connection: of the healthy replica with the fewest statements in flight, and there again of the fewest.
    /// Replicas are left out that are not where the client demands, or that have shown to be behind; the primary stands in
    /// only where no replica is healthy.
    fn lease(&self, demand: &Demand, behind: &[Lease], failed: Option<&Lease>) -> Result<Lease, Error> {
        let healthy: Vec<_> = self.replicas.iter().filter(|replica| replica.is_healthy()).collect();
        let standing_in = self.fallback.iter().filter(|replica| healthy.is_empty() && replica.is_healthy());
        let fit = |replica: &&Arc<Replica>| !behind.iter().any(|lease| lease.is_of(replica));
        let mut candidates: Vec<_> = healthy.iter().copied().chain(standing_in).filter(fit).collect();
        candidates.sort_by_key(|replica| (failed.is_some_and(|lease| lease.is_of(replica)), replica.in_flight()));
        let leased = candidates.iter().find_map(|replica| replica.lease(demand.position.as_ref(), failed));
        leased.ok_or_else(|| {
            let position = demand.position.as_ref();
            let short = |replica: &&Arc<Replica>| position.is_some_and(|position| !replica.reaches(position));
            match !candidates.is_empty() && candidates.iter().all(short) {
                true => Error::PositionNotReached(demand.wait),
                false => Error::NoReplica,
            }
        })
    }

    /// Told of each sample of any of them.
    pub(crate) fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    /// How many there are, without the primary that stands in.
    pub(crate) fn count(&self) -> usize {
        self.replicas.len()
    }

    /// The replicas, and after them the primary that stands in.
    pub(crate) fn each(&self) -> impl Iterator<Item = &Arc<Replica>> {
        self.replicas.iter().chain(&self.fallback)
    }
}

/// Keeps the condition and the gauges in step with the replicas.
async fn tell(all: Arc<Replicas>, ready: Condition, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        let healthy: Vec<_> = all.each().filter(|replica| replica.is_healthy()).map(|r| r.name()).collect();
        match healthy.is_empty() {
            true => ready.set(
                false,
                all.each().map(|r| format!("{}: {}", r.name(), r.trouble())).collect::<Vec<_>>().join("; "),
            ),
            false => ready.set(true, format!("healthy: {}", healthy.join(", "))),
        }
        all.each().for_each(|replica| observe::replica(replica.name(), replica.is_healthy(), replica.lag()));
    }
}
