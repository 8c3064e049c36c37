//! The databases that are asked: which of them, over which connection, and once more elsewhere when that fails.

mod connection;
mod replica;
mod sampler;

use std::sync::Arc;
use std::time::Duration;

use shared::admin::Condition;
use tokio::task::JoinSet;

use crate::config::{Config, Database};
use crate::error::{Disposition, Error, GENERATION, disposition};
use crate::observe;
use crate::position::{Position, Sample};
use crate::queries::Query;
pub(crate) use connection::chain;
use replica::{Lease, Replica};

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
    /// A replica that answers no look-up for so long is left for another one, if there is another.
    silence_max: Duration,
}

/// Why one attempt at a look-up gave nothing.
enum Failure {
    Error(tokio_postgres::Error),
    Silent,
}

impl Failure {
    /// The `reason` of the retry metric, where another try may heal it; else the error of the request.
    fn reason(self, replica: &str) -> Result<&'static str, Error> {
        match self {
            Failure::Silent => Ok("silent"),
            Failure::Error(error) => match disposition(&error) {
                Disposition::Retry(reason) => {
                    tracing::debug!(
                        replica,
                        reason,
                        error = chain(&error),
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
        let replica = |database: &Database| Arc::new(Replica::new(database, settings.clone()));
        let replicas: Vec<_> = config.replicas.iter().map(replica).collect();
        let all = Arc::new(Self {
            replicas,
            fallback: config.fallback.as_ref().map(replica),
            silence_max: config.replica_silence_max,
        });
        let mut upkeep = JoinSet::new();
        for replica in all.each() {
            replica.spawn_upkeep(&mut upkeep);
        }
        upkeep.spawn(watch(all.clone(), ready, settings.position_interval));
        (all, upkeep)
    }

    /// Asks a healthy replica; retries once, elsewhere if there is an elsewhere, what another try may heal.
    ///
    /// The sample that comes with the rows was taken on the same replica before they were read, and contains the position
    /// that is demanded.
    pub(crate) async fn ask<Q: Query>(
        &self,
        query: &Q,
        demanded: Option<&Position>,
    ) -> Result<(Q::Found, Arc<Sample>), Error> {
        let first = self.lease(None, demanded).ok_or_else(|| self.refusal(demanded))?;
        let reason = match self.attempt(&first, query).await {
            Ok(found) => return Ok((found, first.sample())),
            Err(failure) => failure.reason(first.replica_name())?,
        };
        observe::replica_retry(reason);
        if reason == GENERATION {
            // The same sample would lead to the same tables, which are there no more.
            first.resampled().await;
        }
        let second = self.lease(Some(&first), demanded).ok_or_else(|| self.refusal(demanded))?;
        match second.ask(query).await {
            Ok(found) => Ok((found, second.sample())),
            Err(error) => Err(Failure::Error(error).reason(second.replica_name()).err().unwrap_or(Error::NoReplica)),
        }
    }

    /// The first attempt: cut short only where there is another replica to turn to.
    async fn attempt<Q: Query>(&self, lease: &Lease, query: &Q) -> Result<Q::Found, Failure> {
        let asked = lease.ask(query);
        if !self.each().any(|replica| replica.is_healthy() && !lease.is_of(replica)) {
            return asked.await.map_err(Failure::Error);
        }
        match tokio::time::timeout(self.silence_max, asked).await {
            Ok(result) => result.map_err(Failure::Error),
            Err(_elapsed) => Err(Failure::Silent),
        }
    }

    /// The best connection: of the healthy replica with the fewest statements in flight, and there again of the fewest.
    fn lease(&self, failed: Option<&Lease>, demanded: Option<&Position>) -> Option<Lease> {
        let may_be_asked =
            |replica: &&Arc<Replica>| replica.is_healthy() && demanded.is_none_or(|at| replica.reaches(at));
        let healthy = || self.replicas.iter().filter(may_be_asked);
        let elsewhere = healthy().filter(|replica| failed.is_none_or(|lease| !lease.is_of(replica)));
        let best = elsewhere.min_by_key(|replica| replica.in_flight());
        best.and_then(|replica| replica.lease(failed, demanded))
            .or_else(|| healthy().find_map(|replica| replica.lease(failed, demanded)))
            .or_else(|| self.fallback.as_ref().filter(may_be_asked)?.lease(failed, demanded))
    }

    /// Why there was nobody to ask.
    fn refusal(&self, demanded: Option<&Position>) -> Error {
        let lacks_it = |at: &Position| self.each().any(|replica| replica.is_healthy() && !replica.reaches(at));
        match demanded.is_some_and(lacks_it) {
            true => Error::PositionNotReached,
            false => Error::NoReplica,
        }
    }

    fn each(&self) -> impl Iterator<Item = &Arc<Replica>> {
        self.replicas.iter().chain(&self.fallback)
    }
}

/// Keeps the condition and the gauges in step with the replicas.
async fn watch(all: Arc<Replicas>, ready: Condition, interval: Duration) {
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
