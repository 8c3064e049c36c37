//! From a log outside Kafka to a topic, exactly once: records and the position behind them, in one Kafka transaction.
//!
//! **Flow.** [`TransactionalRelay`] owns one thread. It asks its [`RelaySource`] for what comes after its positions, produces that
//! and commits it together with the positions behind it. Positions are committed offsets of a group that nobody else uses: one
//! for each partition of [`RelayConfig::source_topic`], whose offsets the log is numbered by. Kafka's own tools show them.
//!
//! **Order.** That in which the source gives its outputs; two with one key keep it.
//!
//! **Duplication.** None, for readers with `read_committed`. The source is asked again for what an aborted transaction held.
//!
//! **Durability.** A committed transaction is on all in-sync replicas: records and positions, or neither.
//!
//! **A crash**, at whatever step: the next relay takes the transactional id, which ends what was open, and asks for positions
//! that are settled (KIP-447). They stand behind the last record that readers see, and in front of the next.
//!
//! **One is active**, the one that came last: its transactional id is the group's name, so taking it fences whoever had it. A
//! fenced relay ends with an error at its next transaction, [`POSITIONS_KEPT`] later at most, and commits nothing.
//!
//! **Trouble.** Brokers or source away, a log that does not reach back to the positions, positions that are gone although records were
//! written: waited for, and told to the source ([`RelayEvent`]). Never is anything skipped; [`set_positions`] is how a person does.
//!
//! **Absent.** What the log is, and what its records say.

mod group;
mod source;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, sync::oneshot};
use tokio_util::sync::CancellationToken;

use crate::transaction::{
    Output, TransactionError, observe,
    producer::{Failure, Producer},
};
use group::Group;
pub use source::{Positions, RelayEvent, RelayPosition, RelaySource, Stretch, StretchLimits};

/// After so long positions are committed, moved or not: brokers forget those of an idle group, and a fenced relay finds out.
pub const POSITIONS_KEPT: Duration = Duration::from_secs(60);
/// Positions that have moved past what holds no record are committed this often.
const POSITIONS_MOVED: Duration = Duration::from_secs(5);
/// Pause after the first failure in a row; doubled with each further one.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// From what, to where, and how large a transaction may be.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// Topic by whose partitions and offsets the log is numbered.
    pub source_topic: String,
    /// Where to. Made with the partitions and replicas of `source_topic` when it is missing.
    pub topic: String,
    /// Group that keeps the positions; also the transactional id.
    pub group: String,
    /// How much a transaction takes at most.
    pub limits: StretchLimits,
    /// Pause before the source is asked again when it had nothing new.
    pub idle: Duration,
    /// After so long the coordinator aborts the transaction of a relay that is gone.
    pub transaction_timeout: Duration,
}

/// Relays what one source has.
pub struct TransactionalRelay<S> {
    config: RelayConfig,
    source: S,
    group: Group,
    producer: Producer,
    failures_in_a_row: u32,
    committed_at: Instant,
    shutdown: CancellationToken,
}

/// What became of one step.
enum Step<T> {
    Done(T),
    /// Shutdown came first.
    Stopped,
}

impl<S: RelaySource> TransactionalRelay<S> {
    /// Makes the clients; asks nobody yet. `settings` are the operator's. Ends with `shutdown`.
    pub fn new(
        settings: &HashMap<String, String>,
        config: RelayConfig,
        source: S,
        shutdown: &CancellationToken,
    ) -> Result<Self, TransactionError> {
        observe::describe();
        let shutdown = shutdown.child_token();
        let group = Group::new(settings, &config)?;
        let producer = producer(settings, &config, &shutdown)?;
        Ok(Self { config, source, group, producer, failures_in_a_row: 0, committed_at: Instant::now(), shutdown })
    }

    /// Relays until shutdown. Errors: fatal ones alone, such as a successor; the process should end. Dropping the future stops
    /// the relay as shutdown does.
    pub async fn run(self) -> Result<(), TransactionError> {
        let _stop = self.shutdown.clone().drop_guard();
        let (runtime, (tell, ended)) = (Handle::current(), oneshot::channel());
        std::thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || drop(tell.send(self.relay(&runtime))))
            .map_err(TransactionError::Thread)?;
        // A panic of the source drops the sender.
        ended.await.unwrap_or(Err(TransactionError::Panicked))
    }

    fn relay(mut self, runtime: &Handle) -> Result<(), TransactionError> {
        let Step::Done(()) = self.open(runtime)? else { return Ok(()) };
        let Step::Done(mut positions) = self.settled(runtime)? else { return Ok(()) };
        while !self.shutdown.is_cancelled() {
            let limits = self.config.limits;
            let read = {
                let (source, shutdown) = (&mut self.source, &self.shutdown);
                runtime.block_on(shutdown.run_until_cancelled(source.read(&positions, limits)))
            };
            match read {
                None => break,
                Some(Ok(stretch)) => positions = self.pass(runtime, positions, stretch)?,
                Some(Err(error)) => {
                    self.source.observe(RelayEvent::Unread(&error));
                    self.pause(runtime);
                    // They may have been set meanwhile, as the way out of what is wrong.
                    let Step::Done(settled) = self.settled(runtime)? else { break };
                    positions = settled;
                }
            }
        }
        Ok(())
    }

    /// Finds or makes the topic, then takes the transactional id: what a predecessor has left open ends, and it can commit nothing more.
    fn open(&mut self, runtime: &Handle) -> Result<Step<()>, TransactionError> {
        while !self.shutdown.is_cancelled() {
            match self.group.open_topic(runtime) {
                Ok(partitions) => {
                    self.source.observe(RelayEvent::Opened { partitions });
                    return match self.producer.init() {
                        Err(_) if self.shutdown.is_cancelled() => Ok(Step::Stopped),
                        Err(error) => Err(self.producer.fatal("taking the transactional id", error)),
                        Ok(()) => Ok(Step::Done(())),
                    };
                }
                Err(why) => self.wait(runtime, &why),
            }
        }
        Ok(Step::Stopped)
    }

    /// The group's positions. A group without any begins where the source says, if nothing was relayed before.
    fn settled(&mut self, runtime: &Handle) -> Result<Step<Positions>, TransactionError> {
        while !self.shutdown.is_cancelled() {
            match self.group.positions() {
                Err(error) => self.wait(runtime, &format!("the group's positions are not told: {error}")),
                Ok(Some(positions)) => {
                    self.source.observe(RelayEvent::Runs);
                    return Ok(Step::Done(positions));
                }
                Ok(None) => match self.group.is_untouched() {
                    Err(error) => self.wait(runtime, &format!("the topic's end is not told: {error}")),
                    Ok(false) => {
                        self.source.observe(RelayEvent::PositionsLost);
                        self.pause(runtime);
                    }
                    Ok(true) => self.begin(runtime)?,
                },
            }
        }
        Ok(Step::Stopped)
    }

    /// Commits the first positions before the first record: a topic with records and no positions is then never a first start.
    fn begin(&mut self, runtime: &Handle) -> Result<(), TransactionError> {
        let begun = {
            let (source, shutdown) = (&mut self.source, &self.shutdown);
            runtime.block_on(shutdown.run_until_cancelled(source.begin()))
        };
        match begun {
            None => Ok(()),
            Some(Ok(positions)) => self.commit(runtime, &[], &positions).map(drop),
            Some(Err(error)) => {
                self.source.observe(RelayEvent::Unread(&error));
                self.pause(runtime);
                Ok(())
            }
        }
    }

    /// Commits a stretch where there is something to commit; gives where to go on.
    fn pass(&mut self, runtime: &Handle, from: Positions, stretch: Stretch) -> Result<Positions, TransactionError> {
        let kept = self.committed_at.elapsed();
        let is_due = kept >= POSITIONS_KEPT || (kept >= POSITIONS_MOVED && stretch.to != from);
        if !is_due && stretch.outputs.is_empty() {
            self.failures_in_a_row = 0;
        } else if !self.commit(runtime, &stretch.outputs, &stretch.to)? {
            return Ok(from);
        }
        if stretch.is_last {
            self.sleep(runtime, self.config.idle);
        }
        Ok(stretch.to)
    }

    /// One transaction; `false` when nothing of it happened, after a pause.
    fn commit(&mut self, runtime: &Handle, outputs: &[Output], to: &Positions) -> Result<bool, TransactionError> {
        let named = self.group.offsets(to).and_then(|offsets| Ok((offsets, self.group.metadata()?)));
        let (offsets, group) = named.map_err(|error| self.producer.fatal("naming offsets", error))?;
        let began = Instant::now();
        match self.producer.transact(outputs, &offsets, &group) {
            Ok(_) => {
                observe::committed(&self.config.group, outputs.len(), outputs.len(), began.elapsed());
                (self.failures_in_a_row, self.committed_at) = (0, Instant::now());
                self.source.observe(RelayEvent::Committed { outputs: outputs.len(), to });
                Ok(true)
            }
            Err(Failure::Fatal(_)) if self.shutdown.is_cancelled() => Ok(false),
            Err(Failure::Fatal(error)) => Err(error),
            Err(Failure::Abort(step, error)) => {
                let cause = self.producer.failure().unwrap_or(error);
                observe::aborted(&self.config.group);
                match self.producer.abort() {
                    Err(_) if self.shutdown.is_cancelled() => return Ok(false),
                    aborted => aborted.map_err(|error| self.producer.fatal("aborting", error))?,
                }
                self.wait(runtime, &format!("a transaction is aborted and tried again: {step}: {cause}"));
                Ok(false)
            }
        }
    }

    /// Tells why it waits for the brokers, and does.
    fn wait(&mut self, runtime: &Handle, why: &str) {
        self.source.observe(RelayEvent::Waits(why));
        self.pause(runtime);
    }

    fn pause(&mut self, runtime: &Handle) {
        let pause = PAUSE.saturating_mul(1 << self.failures_in_a_row.min(16)).min(PAUSE_MAX);
        self.failures_in_a_row += 1;
        self.sleep(runtime, pause);
    }

    fn sleep(&self, runtime: &Handle, pause: Duration) {
        // Timers are made inside the runtime, which this thread is not.
        runtime.block_on(async {
            let _ = tokio::time::timeout(pause, self.shutdown.cancelled()).await;
        });
    }
}

/// Sets a relay's positions, by a person's decision. A relay that runs is fenced by it and ends; the next one goes on from here.
/// Waits for the brokers; dropping the future gives up.
pub async fn set_positions(
    settings: &HashMap<String, String>,
    config: &RelayConfig,
    positions: Positions,
) -> Result<(), TransactionError> {
    let shutdown = CancellationToken::new();
    let _stop = shutdown.clone().drop_guard();
    let (group, producer) = (Group::new(settings, config)?, producer(settings, config, &shutdown)?);
    let set = tokio::task::spawn_blocking(move || {
        producer.init().map_err(|error| producer.fatal("taking the transactional id", error))?;
        let named = group.offsets(&positions).and_then(|offsets| Ok((offsets, group.metadata()?)));
        let (offsets, group) = named.map_err(|error| producer.fatal("naming offsets", error))?;
        match producer.transact(&[], &offsets, &group) {
            Ok(_) => Ok(()),
            Err(Failure::Fatal(error)) => Err(error),
            Err(Failure::Abort(step, error)) => Err(producer.fatal(step, error)),
        }
    });
    set.await.unwrap_or(Err(TransactionError::Panicked))
}

/// The producer. Unless the operator says otherwise, partitions are chosen as Java's clients do, so that the topic can be joined
/// with theirs.
fn producer(
    settings: &HashMap<String, String>,
    config: &RelayConfig,
    shutdown: &CancellationToken,
) -> Result<Producer, TransactionError> {
    let mut settings = settings.clone();
    settings.entry("partitioner".to_owned()).or_insert_with(|| "murmur2_random".to_owned());
    // The broker decides what is too large (the client's own limit is 1 MB by default, and this at most).
    settings.entry("message.max.bytes".to_owned()).or_insert_with(|| "1000000000".to_owned());
    let (id, timeout) = (config.group.clone(), config.transaction_timeout);
    Producer::new(&settings, id, timeout, shutdown.clone()).map_err(TransactionError::Settings)
}
