//! The databases that are asked: which of them, over which connection, and once more elsewhere when that fails.

mod cached;
mod choice;
mod connection;
mod course;
mod look_ups;
mod replica;
mod sampler;
mod trust;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use shared::admin::Condition;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{Config, Database};
use crate::error::{Disposition, Error, Failure, GENERATION, disposition};
use crate::freshness::Demand;
use crate::observe;
use crate::position::Grounds;
use crate::queries::Query;
use crate::workers::Workers;
use choice::{Few, Limits, Standing};
pub(crate) use connection::{CONNECTIONS_BESIDE, Connection, backoff, chain};
use replica::Lease;
pub(crate) use replica::Replica;

/// What a replica needs to know of the configuration.
#[derive(Debug, Clone)]
struct Settings {
    connections: usize,
    position_interval: Duration,
    silence_max: Duration,
    patience: Duration,
    comeback: Duration,
    limits: Limits,
    statement_time_max: Duration,
}

/// The replicas, and the primary that stands in when none of them can answer.
#[derive(Debug)]
pub(crate) struct Replicas {
    replicas: Vec<Arc<Replica>>,
    fallback: Option<Arc<Replica>>,
    /// Changes with each sample of any of them.
    news: Arc<watch::Sender<()>>,
    settings: Settings,
    /// Whether documents are kept; without, nobody looks for them.
    has_cache: bool,
    /// Counts choices, so that equals take turns.
    turns: AtomicUsize,
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
    pub(crate) fn start(config: &Config, workers: &Workers, ready: Condition) -> (Arc<Self>, JoinSet<()>) {
        let settings = Settings {
            connections: config.replica_connections,
            position_interval: config.position_interval,
            silence_max: config.replica_silence_max,
            patience: config.replica_patience,
            comeback: config.replica_comeback,
            limits: Limits { lag_max: config.replica_lag_max, staleness_max: config.staleness_max },
            statement_time_max: config.request_time_max,
        };
        let news = Arc::new(watch::Sender::new(()));
        let replica = |database: &Database| Arc::new(Replica::new(database, settings.clone(), news.clone()));
        let replicas: Vec<_> = config.replicas.iter().map(replica).collect();
        let all = Arc::new(Self {
            replicas,
            fallback: config.fallback.as_ref().map(replica),
            news,
            has_cache: config.cache_bytes > 0,
            turns: AtomicUsize::new(0),
            settings,
        });
        let mut upkeep = JoinSet::new();
        for replica in all.each() {
            replica.spawn_upkeep(workers, &mut upkeep);
        }
        upkeep.spawn(survey(all.clone(), ready));
        (all, upkeep)
    }

    /// Asks a healthy replica that is where the client demands it to be; waits for one for as long as the client will.
    ///
    /// The sample that comes with the rows was taken on the same replica before they were read.
    pub(crate) async fn ask<Q: Query>(&self, query: &Q, demand: &Demand) -> Result<(Q::Found, Grounds), Error> {
        match self.ask_now(query, demand).await {
            Err(Error::PositionNotReached(_)) if demand.position.is_some() || !demand.wait.is_zero() => {
                // On the heap, as few wait.
                Box::pin(self.ask_until_reached(query, demand)).await
            }
            result => result,
        }
    }

    /// Asks again with each sample until the wait is over. Even who does not wait is not refused by samples that are older
    /// than his request: the position that he demands may be one that he was just given.
    async fn ask_until_reached<Q: Query>(&self, query: &Q, demand: &Demand) -> Result<(Q::Found, Grounds), Error> {
        let (mut news, started) = (self.news.subscribe(), Instant::now());
        let over = async {
            tokio::join!(self.sample_anew(), tokio::time::sleep(demand.wait));
        };
        tokio::pin!(over);
        let (mut result, mut is_over) = (self.ask_now(query, demand).await, false);
        while !is_over && matches!(result, Err(Error::PositionNotReached(_))) {
            is_over = tokio::select! {
                _ = news.changed() => false,
                () = &mut over => true,
            };
            // Once more when it is over: the sample that ended it may be there before the news of it are.
            result = self.ask_now(query, demand).await;
        }
        if !demand.wait.is_zero() {
            observe::position_wait(started.elapsed());
        }
        if let Err(Error::PositionNotReached(_)) = result {
            let sampled =
                self.each().map(|replica| (replica.name(), replica.sample().map(|sample| sample.asked_at.elapsed())));
            tracing::debug!(waited = ?started.elapsed(), sampled = ?sampled.collect::<Vec<_>>(), "position not reached");
        }
        result
    }

    /// Has all sampled that may answer, and waits for it.
    pub(crate) async fn sample_anew(&self) {
        let healthy = self.each().filter(|replica| replica.is_healthy());
        join_all(healthy.map(|replica| replica.sample_anew())).await;
    }

    /// Asks one replica after the other until one has the version that is demanded.
    async fn ask_now<Q: Query>(&self, query: &Q, demand: &Demand) -> Result<(Q::Found, Grounds), Error> {
        let mut behind: Vec<Lease> = Vec::new();
        loop {
            let asked = match self.lease(demand, &behind, None) {
                Ok(first) => self.ask_with_retry(query, demand, &behind, first).await,
                Err(error) => Err(error),
            };
            let (found, lease) = match asked {
                Err(Error::NoReplica) if !behind.is_empty() => return Err(Error::PositionNotReached(demand.wait)),
                other => other?,
            };
            if demand.version.is_none_or(|version| Q::reaches(&found, version)) {
                return Ok((found, lease.grounds()));
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
        first: Lease,
    ) -> Result<(Q::Found, Lease), Error> {
        let reason = match self.attempt(&first, query).await {
            Ok(found) => return Ok((found, first)),
            Err(failure) => failure.reason(first.replica_name())?,
        };
        observe::replica_retry(reason);
        match reason {
            // The same sample would lead to the same tables, which are there no more.
            GENERATION => first.resampled().await,
            _ => first.erred(),
        }
        let second = self.lease(demand, behind, Some(&first))?;
        match second.ask(query).await {
            Ok(found) => Ok((found, second)),
            Err(failure) => {
                second.erred();
                Err(failure.reason(second.replica_name()).err().unwrap_or(Error::NoReplica))
            }
        }
    }

    /// The first attempt: cut short only where there is somewhere else to turn to.
    async fn attempt<Q: Query>(&self, lease: &Lease, query: &Q) -> Result<Q::Found, Failure> {
        tokio::select! {
            biased;
            result = lease.ask(query) => result,
            () = self.hangs(lease) => Err(Failure::Silent),
        }
    }

    /// Ends when the look-up has waited in vain, and another try may not: its replica owes samples too while another one gives
    /// them, or the look-up takes longer than a replica may be silent. Where all are slow nothing is gained by asking twice.
    async fn hangs(&self, lease: &Lease) {
        let asked_at = Instant::now();
        loop {
            tokio::time::sleep(self.settings.patience).await;
            let elsewhere = self.each().any(|replica| replica.is_prompt() && !lease.is_of(replica));
            if elsewhere && !lease.is_prompt() {
                return;
            }
            if asked_at.elapsed() >= self.settings.silence_max && (elsewhere || lease.is_prompt()) {
                return lease.give_up_if_mute();
            }
        }
    }

    /// The best connection, as `choice` ranks replicas, and there the one that the worker leases. Replicas are
    /// left out that are not where the client demands, or that have shown to be behind; the primary stands in only where no
    /// replica can answer.
    fn lease(&self, demand: &Demand, behind: &[Lease], failed: Option<&Lease>) -> Result<Lease, Error> {
        let has_failed = |replica: &Arc<Replica>| failed.is_some_and(|lease| lease.is_of(replica));
        // Rather the primary than a replica that has just failed and gives no samples.
        let hangs = |replica: &Arc<Replica>| has_failed(replica) && self.fallback.is_some() && !replica.is_prompt();
        let is_behind = |replica: &Arc<Replica>| behind.iter().any(|lease| lease.is_of(replica));
        let fit = |replica: &&Arc<Replica>| replica.is_healthy() && !is_behind(replica) && !hangs(replica);
        let fit: Few<_> = self.replicas.iter().filter(fit).collect();
        let standings: Few<Standing> = fit.iter().map(|replica| replica.standing(has_failed(replica))).collect();
        let turn = self.turns.fetch_add(1, Ordering::Relaxed);
        let ranked: Few<_> =
            choice::rank(&standings, &self.settings.limits, turn).into_iter().map(|index| fit[index]).collect();
        let position = demand.position.as_ref();
        if let Some(lease) = ranked.iter().find_map(|replica| replica.lease(position, failed)) {
            return Ok(lease);
        }
        let short = |replica: &&Arc<Replica>| position.is_some_and(|position| !replica.reaches(position));
        if !ranked.is_empty() && ranked.iter().all(short) {
            return Err(Error::PositionNotReached(demand.wait));
        }
        self.stand_in(demand, behind, failed)
    }

    /// The primary, where it is configured to stand in, and no replica has answered yet.
    fn stand_in(&self, demand: &Demand, behind: &[Lease], failed: Option<&Lease>) -> Result<Lease, Error> {
        let primary = self.fallback.as_ref().filter(|primary| primary.is_healthy() && behind.is_empty());
        let primary = primary.ok_or(Error::NoReplica)?;
        match demand.position.as_ref() {
            Some(position) if !primary.reaches(position) => Err(Error::PositionNotReached(demand.wait)),
            position => primary.lease(position, failed).ok_or(Error::NoReplica),
        }
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

/// Keeps lag, trust, the condition and the gauges in step with the samples.
async fn survey(all: Arc<Replicas>, ready: Condition) {
    let mut ticks = tokio::time::interval(all.settings.position_interval);
    loop {
        ticks.tick().await;
        for replica in all.each() {
            let is_other = |other: &&Arc<Replica>| !Arc::ptr_eq(other, replica) && other.is_healthy();
            replica.survey(&all.each().filter(is_other).collect::<Vec<_>>());
            observe::replica(replica.name(), replica.can_answer(), replica.share(), replica.lag());
            if let Some(sample) = replica.sample() {
                observe::replica_generation(replica.name(), sample.generation);
            }
        }
        let told = |replica: &Arc<Replica>| match replica.trouble() {
            None => replica.name().to_owned(),
            Some(trouble) => format!("{} ({trouble})", replica.name()),
        };
        let told = all.each().map(told).collect::<Vec<_>>().join("; ");
        ready.set(all.each().any(|replica| replica.can_answer()), told);
    }
}
