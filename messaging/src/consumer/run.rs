//! The loop: polls, begins, listens, commits. It alone knows all parts; what a report means stands in `settle`.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use rdkafka::{
    Message as _, TopicPartitionList,
    consumer::{CommitMode, Consumer as _, StreamConsumer},
    error::{KafkaError, KafkaResult},
    message::BorrowedMessage,
    producer::FutureProducer,
    types::RDKafkaErrorCode,
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, Id, JoinError, JoinSet},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::{
    ConsumerError,
    claim::Claims,
    config::ConsumerConfig,
    group::{Group, TopicPartition, give_back},
    handler::RecordHandler,
    observe::Metrics,
    partition::Partition,
    source::{self, Source},
    work::{self, Deliveries, Done},
};
use crate::{
    blocking::{Command, PartitionState, Reader, Told, Writer},
    brake::Brake,
    durable,
    record::Record,
    retry::{Stage, delay_of},
    settings::client,
};

/// How often offsets are committed.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// Messages taken from the client before anything else is looked at.
const POLLED_MAX: usize = 256;
/// Commands that can wait for the loop.
const COMMANDS_MAX: usize = 64;
/// Commands that are kept for partitions that are still to come.
const COMMANDS_KEPT_MAX: usize = 10_000;

/// The client's settings. Names and meaning: librdkafka, CONFIGURATION.md.
const OWN: [(&str, &str); 10] = [
    ("client.id", "siteview-consumer"),
    // What is done is known here only.
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    // An offset outside the log is an operator's decision, never a silent jump.
    ("auto.offset.reset", "error"),
    ("isolation.level", "read_committed"),
    ("allow.auto.create.topics", "false"),
    ("check.crcs", "true"),
    // Bounds the memory of records that wait in the client (default 64 MiB).
    ("queued.max.messages.kbytes", "16384"),
    // With a small queue the default of 1 s stalls the fetcher each time the queue was full.
    ("fetch.queue.backoff.ms", "10"),
    ("fetch.wait.max.ms", "100"),
];

/// The loop's state.
pub(super) struct Loop<H> {
    pub(super) config: Arc<ConsumerConfig>,
    handler: Arc<H>,
    pub(super) consumer: Arc<StreamConsumer<Group>>,
    producer: FutureProducer,
    pub(super) sources: HashMap<Arc<str>, Source>,
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) metrics: Metrics,
    pub(super) held: HashMap<TopicPartition, Held>,
    /// Assigned, and to be claimed at this time; `None` while that is under way.
    pub(super) claiming: BTreeMap<TopicPartition, Option<Instant>>,
    pub(super) claims: JoinSet<(Vec<TopicPartition>, KafkaResult<Claims>)>,
    /// Asked back; answered when nothing of them is running.
    pub(super) leaving: Vec<Leaving>,
    pub(super) commits: JoinSet<(Vec<TopicPartition>, KafkaResult<()>)>,
    tasks: JoinSet<Done>,
    pub(super) running: HashMap<Id, Running>,
    /// Tells results of an earlier tenure of a partition from those of this one.
    pub(super) tenures: u64,
    kept_commands: VecDeque<(i64, Command)>,
    /// Commands below this offset have been read.
    pub(super) commands_next: i64,
    /// All commands that stood there at start have been read; no partition is taken before.
    pub(super) caught_up: bool,
}

/// A partition that is fetched.
pub(super) struct Held {
    pub(super) partition: Partition,
    pub(super) brake: Brake,
    /// As it was last written down.
    pub(super) kept: PartitionState,
    pub(super) tenure: u64,
    pub(super) start: i64,
    pub(super) committed: (i64, String),
    pub(super) fetch_paused: bool,
    pub(super) leaving: bool,
}

/// Partitions that are asked back together, and until when what is running of them may go on.
pub(super) struct Leaving {
    pub(super) partitions: Vec<TopicPartition>,
    pub(super) deadline: Instant,
    /// When the group is told what is done of them, if nothing is running any more; `None` while it is being told.
    pub(super) commit_at: Option<Instant>,
    /// The group has taken it.
    pub(super) is_committed: bool,
}

/// What a task is about.
pub(super) struct Running {
    pub(super) of: TopicPartition,
    pub(super) record: Arc<Record>,
    /// Attempts made before this one.
    pub(super) attempts: u32,
    tenure: u64,
    pub(super) task: AbortHandle,
}

pub(super) async fn run<H: RecordHandler>(
    config: Arc<ConsumerConfig>,
    handler: Arc<H>,
    shutdown: CancellationToken,
) -> Result<(), ConsumerError> {
    let (sources, reader) = tokio::select! {
        opened = source::open(&config) => opened?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let following = tokio::spawn(reader.follow(sender)?);
    let mut settings = client(&config.settings, &OWN);
    // Partitions join one by one; the eager protocol would not allow it. With `group.protocol=consumer` (KIP-848) the broker
    // decides, cooperatively, and takes no strategy.
    if settings.get("group.protocol") != Some("consumer") {
        settings.set("partition.assignment.strategy", "cooperative-sticky");
    }
    let consumer = settings.set("group.id", &config.group).create_with_context(Group::default())?;
    let topics: Vec<&str> = sources.keys().map(|topic| &**topic).collect();
    let consumer: Arc<StreamConsumer<Group>> = Arc::new(consumer);
    consumer.subscribe(&topics)?;
    let mut running = Loop {
        producer: durable::producer(&config.settings, "siteview-retries")?,
        writer: Writer::new(&config.settings, &config.group)?,
        metrics: Metrics::new(&config.group, sources.keys()),
        handler,
        consumer,
        sources,
        reader,
        config,
        held: HashMap::new(),
        claiming: BTreeMap::new(),
        claims: JoinSet::new(),
        leaving: Vec::new(),
        commits: JoinSet::new(),
        tasks: JoinSet::new(),
        running: HashMap::new(),
        tenures: 0,
        kept_commands: VecDeque::new(),
        commands_next: 0,
        caught_up: false,
    };
    let ended = running.consume(commands, &shutdown).await;
    running.drain().await;
    if let Err(ConsumerError::Commands(_)) = &ended {
        let why = following.await.map_or_else(|error| error.to_string(), |ended| format!("{ended:?}"));
        return Err(ConsumerError::Commands(why));
    }
    ended
}

impl<H: RecordHandler> Loop<H> {
    async fn consume(
        &mut self,
        mut commands: mpsc::Receiver<Told>,
        shutdown: &CancellationToken,
    ) -> Result<(), ConsumerError> {
        let consumer = Arc::clone(&self.consumer);
        let mut commits = tokio::time::interval(COMMIT_INTERVAL);
        commits.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.turn();
            let wake_at = self.wake_at().into();
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Some(ended) = self.tasks.join_next_with_id() => {
                    self.ended(ended);
                    while let Some(ended) = self.tasks.try_join_next_with_id() {
                        self.ended(ended);
                    }
                }
                Some(claimed) = self.claims.join_next() => self.claimed(claimed),
                Some(told) = self.commits.join_next() => self.committed(told),
                command = commands.recv() => match command {
                    Some(Told::Command(at, command)) => self.command(at, command),
                    Some(Told::CaughtUp) => self.caught_up = true,
                    None => return Err(ConsumerError::Commands(String::new())),
                },
                message = consumer.recv() => {
                    self.polled(message)?;
                    for _ in 0..POLLED_MAX {
                        let Some(message) = consumer.recv().now_or_never() else { break };
                        self.polled(message)?;
                    }
                }
                _ = commits.tick() => drop(self.commit(CommitMode::Async)),
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
    }

    /// What follows from whatever has just happened.
    fn turn(&mut self) {
        self.follow_rebalances();
        self.claim_due();
        self.begin_due();
        self.pause_and_resume();
        self.give_back_done();
    }

    fn command(&mut self, at: i64, command: Command) {
        self.commands_next = at + 1;
        let of = (Arc::<str>::from(command.topic.as_str()), command.partition);
        self.follow(&of, at, &command, self.caught_up);
        self.kept_commands.push_back((at, command));
        if self.kept_commands.len() > COMMANDS_KEPT_MAX {
            self.kept_commands.pop_front();
        }
    }

    /// Follows the commands that came while this partition had no owner.
    pub(super) fn follow_kept(&mut self, of: &TopicPartition) {
        let is_ours = |(_, command): &&(i64, Command)| command.topic == *of.0 && command.partition == of.1;
        let ours: Vec<_> = self.kept_commands.iter().filter(is_ours).cloned().collect();
        ours.iter().for_each(|(at, command)| self.follow(of, *at, command, false));
    }

    fn polled(&mut self, message: KafkaResult<BorrowedMessage<'_>>) -> Result<(), ConsumerError> {
        match message {
            Ok(message) => self.accept(&message),
            Err(
                error @ (KafkaError::MessageConsumptionFatal(_)
                | KafkaError::MessageConsumption(RDKafkaErrorCode::PollExceeded | RDKafkaErrorCode::Fatal)),
            ) => return Err(error.into()),
            Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset)) => self.claim_idle_anew(),
            Err(error) => tracing::warn!(error = %error, "the Kafka client; it goes on by itself"),
        }
        Ok(())
    }

    pub(super) fn accept(&mut self, message: &BorrowedMessage<'_>) {
        let Some((topic, source)) = self.sources.get_key_value(message.topic()) else { return };
        let of = (Arc::clone(topic), message.partition());
        let Some(held) = self.held.get_mut(&of) else { return };
        let record = Record::of(message, topic, &source.topic);
        let due = match source.stage {
            Stage::Source => None,
            Stage::Retry(_) => {
                let now_ms = jiff::Timestamp::now().as_millisecond();
                Some(Instant::now() + delay_of(&record.trail, record.timestamp_ms, now_ms))
            }
        };
        held.partition.accept(Arc::new(record), due);
    }

    fn begin_due(&mut self) {
        let now = Instant::now();
        for (of, held) in self.held.iter_mut().filter(|(_, held)| !held.leaving) {
            while let Some(job) = held.partition.next(now) {
                let record = Arc::clone(&job.record);
                let task = match job.left_out {
                    Some(who) => {
                        let source = &self.sources[&of.0];
                        let letters = Arc::clone(&source.letters);
                        let deliveries =
                            Deliveries { letters, producer: self.producer.clone(), metrics: self.metrics.clone() };
                        let left_out = super::observe::Outcome::LeftOut;
                        self.tasks.spawn(deliveries.bury(record, "skipped".to_owned(), who, left_out))
                    }
                    None => {
                        let handler = Arc::clone(&self.handler);
                        self.tasks.spawn(work::handle(handler, record, self.config.handle_max, self.metrics.clone()))
                    }
                };
                let (of, tenure) = (of.clone(), held.tenure);
                let running = Running { of, record: job.record, attempts: job.attempts, tenure, task: task.clone() };
                self.running.insert(task.id(), running);
            }
        }
    }

    /// The record stays where it is in its lane while this goes on.
    pub(super) fn move_on(
        &mut self,
        running: Running,
        work: impl FnOnce(Deliveries) -> futures_util::future::BoxFuture<'static, Done>,
    ) {
        let letters = Arc::clone(&self.sources[&running.of.0].letters);
        let deliveries = Deliveries { letters, producer: self.producer.clone(), metrics: self.metrics.clone() };
        let task = self.tasks.spawn(work(deliveries));
        self.running.insert(task.id(), Running { task, ..running });
    }

    fn ended(&mut self, ended: Result<(Id, Done), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let Some(running) = self.running.remove(&id) else { return };
        let is_current = self.held.get(&running.of).is_some_and(|held| held.tenure == running.tenure);
        if !is_current {
            return;
        }
        // Aborted only when its tenure has ended; the handler's panics are caught where it is called.
        let (_, done) = ended.expect("a task of a current tenure neither panics nor is aborted");
        self.settle(running, done);
    }

    pub(super) fn pause_and_resume(&mut self) {
        let (marks, parked_max) = (self.config.watermarks, self.config.parked_load_max());
        for (of, held) in &mut self.held {
            let (load, may_park) = (held.partition.load(), held.partition.parked().is_within(parked_max));
            let is_full = load.records >= marks.high_records || load.bytes >= marks.high_bytes || !may_park;
            let has_room = load.records <= marks.low_records && load.bytes <= marks.low_bytes && may_park;
            let pause = if held.fetch_paused { !has_room } else { is_full };
            if pause == held.fetch_paused {
                continue;
            }
            let mut list = TopicPartitionList::new();
            list.add_partition(&of.0, of.1);
            let done = if pause { self.consumer.pause(&list) } else { self.consumer.resume(&list) };
            match done {
                Ok(()) => held.fetch_paused = pause,
                Err(error) => {
                    tracing::warn!(topic = %of.0, partition = of.1, error = %error, "could not be paused or resumed");
                }
            }
        }
    }

    /// When something is due by itself.
    fn wake_at(&self) -> Instant {
        let retries = self.held.values().filter(|held| !held.leaving).filter_map(|held| held.partition.wake_at());
        let claims = self.claiming.values().filter_map(|at| at.filter(|_| self.caught_up));
        let leaving =
            self.leaving.iter().flat_map(|leaving| [Some(leaving.deadline), self.commit_at(leaving)]).flatten();
        let soonest = retries.chain(claims).chain(leaving).min();
        soonest.unwrap_or_else(|| Instant::now() + COMMIT_INTERVAL)
    }

    /// Finishes what is running, as long as that may take, commits and leaves the group.
    async fn drain(mut self) {
        self.held.values_mut().for_each(|held| held.leaving = true);
        let deadline = Instant::now() + self.config.drain_max;
        while !self.running.is_empty() {
            match tokio::time::timeout_at(deadline.into(), self.tasks.join_next_with_id()).await {
                Ok(Some(ended)) => self.ended(ended),
                Ok(None) | Err(_) => break,
            }
        }
        self.tasks.shutdown().await;
        self.claims.shutdown().await;
        self.commits.shutdown().await;
        let Ok(this) = self.commit_last(deadline).await else {
            return tracing::error!("the last commit has failed");
        };
        let left = tokio::task::spawn_blocking(move || {
            if let Err(error) = this.writer.flush() {
                tracing::warn!(error = %error, "what holds partitions is not all written down");
            }
            // The client leaves the group when it is dropped, and waits for that.
            drop(this);
        });
        if left.await.is_err() {
            tracing::error!("leaving the group has failed");
        }
    }
}

impl<H> Drop for Loop<H> {
    /// The client leaves the group when it is dropped, and waits until its partitions are given back: nobody else will.
    fn drop(&mut self) {
        self.consumer.client().context().close();
        for leaving in self.leaving.drain(..) {
            if let Err(error) = give_back(&*self.consumer, &leaving.partitions) {
                tracing::warn!(error = %error, "partitions could not be given back");
            }
        }
    }
}
