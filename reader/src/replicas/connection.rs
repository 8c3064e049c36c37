//! Long-lived connections: made, watched, made anew.
//!
//! A connection is checked out of its pool for life and shared by all requests: tokio-postgres pipelines what several of
//! them send, which costs less than half of a check-out per request.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use deadpool_postgres::{ClientWrapper, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime};
use tokio_postgres::{Error, NoTls};

use super::Settings;
use super::look_ups::{self, LookUps};
use super::replica::Replica;
use crate::config::Database;
use crate::error::Failure;
use crate::position::{Generation, Sample};
use crate::queries::{FoundSite, Placing, Query, Session, Statements};

/// Time to connect and log in.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);

/// A peer that acknowledges nothing for so long is gone.
const PEER_SILENCE_MAX: Duration = Duration::from_secs(5);

/// Generations whose statements a connection keeps: the active one, and the one before it for requests that are under
/// way when the active one changes.
const GENERATIONS_KEPT: usize = 2;

/// One connection and its prepared statements.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) client: ClientWrapper,
    look_ups: LookUps,
    /// Newest last, at most [`GENERATIONS_KEPT`].
    statements: RwLock<Vec<Arc<Statements>>>,
    pub(super) in_flight: AtomicUsize,
    opened_at: Instant,
    /// When the last answer came, in microseconds after `opened_at`.
    answered_after: AtomicU64,
    /// It was found mute: it is to be closed.
    given_up: AtomicBool,
}

impl Connection {
    fn new(client: ClientWrapper, look_ups: LookUps) -> Self {
        Self {
            client,
            look_ups,
            statements: RwLock::default(),
            in_flight: AtomicUsize::new(0),
            opened_at: Instant::now(),
            answered_after: AtomicU64::new(0),
            given_up: AtomicBool::new(false),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        !self.client.is_closed() && !self.given_up.load(Ordering::Relaxed)
    }

    /// Gives the connection up if it has answered nothing for so long; who asks knows that it owes an answer.
    pub(super) fn give_up_if_mute(&self, silence_max: Duration) {
        let answered_after = Duration::from_micros(self.answered_after.load(Ordering::Relaxed));
        if self.opened_at.elapsed().saturating_sub(answered_after) >= silence_max {
            self.given_up.store(true, Ordering::Relaxed);
        }
    }

    /// Asks with the statements of the sample's generation; the sample was taken before, on the same replica.
    pub(super) async fn ask<Q: Query>(&self, query: &Q, sample: &Sample) -> Result<Q::Found, Failure> {
        let statements = self.statements(sample.generation).await?;
        let found = query.ask(Session { connection: self, statements: &statements, sample }).await;
        self.answered_after.store(self.opened_at.elapsed().as_micros() as u64, Ordering::Relaxed);
        found
    }

    /// The row of a site, read together with those that others ask for at the same time.
    pub(crate) async fn look_up(
        &self,
        generation: Generation,
        placing: Placing,
        site_id: &str,
    ) -> Result<Option<FoundSite>, Failure> {
        let answer = look_ups::ask(&self.look_ups, generation, placing, site_id).await.ok_or(Failure::Lost)?;
        answer.map_err(Failure::Database)
    }

    /// The statements of a generation, prepared now if they are not yet.
    ///
    /// Requests that come at the same moment may each prepare them; all but the last to finish are forgotten.
    pub(super) async fn statements(&self, generation: Generation) -> Result<Arc<Statements>, Error> {
        let kept = |list: &Vec<Arc<Statements>>| list.iter().find(|s| s.generation == generation).cloned();
        if let Some(statements) = kept(&self.statements.read().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(statements);
        }
        // On the heap: what every look-up would hold room for happens once.
        let prepared = Arc::new(Box::pin(Statements::prepare(&self.client, generation)).await?);
        let mut list = self.statements.write().unwrap_or_else(PoisonError::into_inner);
        list.retain(|s| s.generation != generation);
        list.push(prepared.clone());
        if list.len() > GENERATIONS_KEPT {
            list.remove(0);
        }
        Ok(prepared)
    }
}

/// Connections to a replica beside those of its places: one for the sampler and one for the change log.
pub(crate) const CONNECTIONS_BESIDE: usize = 2;

/// The pool that connections come from.
///
/// Sessions can't write, and no statement runs longer than a request may.
pub(super) fn pool(database: &Database, settings: &Settings) -> Pool {
    let mut connect = database.connect.clone();
    let given = connect.get_options().unwrap_or_default();
    let options = format!(
        "{given} -c default_transaction_read_only=on -c statement_timeout={}",
        settings.statement_time_max.as_millis().max(1)
    );
    connect.options(options.trim()).connect_timeout(CONNECT_TIME_MAX).tcp_user_timeout(PEER_SILENCE_MAX);
    connect.keepalives_idle(PEER_SILENCE_MAX);
    if connect.get_application_name().is_none() {
        connect.application_name("siteview-reader");
    }
    let manager = Manager::from_config(connect, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
    Pool::builder(manager)
        .max_size(settings.connections + CONNECTIONS_BESIDE)
        .create_timeout(Some(CONNECT_TIME_MAX))
        .runtime(Runtime::Tokio1)
        .build()
        .expect("a runtime is given, which timeouts need")
}

/// Keeps one place of a replica connected, for ever.
pub(super) async fn keep(replica: Arc<Replica>, place: usize) {
    loop {
        let client = connect(&replica).await;
        let (look_ups, queue) = look_ups::queue();
        let connection = Arc::new(Connection::new(client, look_ups));
        replica.connected(place, Some(connection.clone()));
        tokio::select! {
            () = look_ups::serve(&connection, queue) => {}
            () = closed(&connection, replica.settings.position_interval) => {}
        }
        replica.connected(place, None);
        tracing::warn!(replica = replica.name(), "connection lost");
    }
}

async fn closed(connection: &Connection, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    while connection.is_open() {
        ticks.tick().await;
    }
}

/// Connects, with backoff for as long as it takes; the first failure is logged.
///
/// The connection is taken out of its pool: it never goes back, so that a dead one is not found there later.
pub(super) async fn connect(replica: &Replica) -> ClientWrapper {
    let mut delays = backoff();
    let mut failures = 0_u32;
    loop {
        let error = match replica.pool.get().await {
            Ok(client) => {
                tracing::debug!(replica = replica.name(), failures, "connected");
                return Object::take(client);
            }
            Err(error) => error,
        };
        failures += 1;
        replica.failed_to_connect(describe(&error));
        if failures == 1 {
            tracing::warn!(replica = replica.name(), error = describe(&error), "can't connect; trying on");
        }
        tokio::time::sleep(delays.next().unwrap_or(DELAY_MAX)).await;
    }
}

const DELAY_MAX: Duration = Duration::from_secs(1);

/// Delays between attempts: quick at first, as a restart of Postgres takes a second or two.
pub(crate) fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(DELAY_MAX)
        .with_jitter()
        .without_max_times()
        .build()
}

/// The error with its causes: tokio-postgres keeps what Postgres said in the source.
pub(super) fn describe(error: &PoolError) -> String {
    match error {
        PoolError::Backend(error) => chain(error),
        other => other.to_string(),
    }
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
