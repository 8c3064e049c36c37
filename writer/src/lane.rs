//! A lane: one connection to Postgres and the partitions of its number. Takes batches in order, tries each until it is stored
//! or its claim is over, and tells the source.

mod advance;
mod claim;
mod failures;
mod sweep;
mod wait;

use std::{
    collections::HashMap,
    sync::{Arc, mpsc::Sender},
    time::{Duration, Instant, SystemTime},
};

use backon::{BackoffBuilder, ExponentialBuilder};
use messaging::{brake::BrakeLimits, dead_letter::DeadLetters};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    assignment::TopicConsumer,
    batch::{Batch, Part, Tenure},
    board::Board,
    decode::Limits,
    ends::{Sample, Samples},
    error::{Disposition, StoreError},
    observe::Metrics,
    pipeline::{self, Attempt, Brakes, Judgement, Prepared, Rules, Stored, Verdicts},
    projection::Projection,
    standing::Standing,
    store::{NextPosition, Store, TRANSACTION_MAX},
    topic_watch::TopicWatch,
    trace::{BatchTraces, Stage, Stages},
};
use wait::Wait;

use failures::LogBudget;

/// First and longest pause between attempts that the environment ends.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));
/// Pause before a claim that was lost is taken again: the group tells first when the partition went to another member. An
/// operator's verb ends claims too and shall act within 5 s.
pub(crate) const RECLAIM_AFTER: Duration = Duration::from_secs(1);

/// What the source asks of a lane.
#[derive(Debug)]
pub enum Command {
    /// Take these partitions over.
    Claim(Vec<i32>),
    /// See whether these, which stand, may be claimed again.
    Look(Vec<i32>),
    /// Store this.
    Batch(Batch),
}

/// What a lane tells the source.
#[derive(Debug)]
pub enum LaneEvent {
    /// A partition is taken; fetch it from this offset on.
    Claimed {
        /// The claim.
        tenure: Arc<Tenure>,
        /// The view's position.
        next_offset: i64,
    },
    /// All partitions of a [`Command::Claim`] or [`Command::Look`] have been told.
    ClaimsDone {
        /// The lane's number.
        lane: usize,
    },
    /// A batch is stored, or what was left of it abandoned.
    BatchDone {
        /// The lane's number.
        lane: usize,
        /// Positions that the view has now.
        positions: Vec<(i32, i64)>,
    },
    /// The tenure of a partition is over; claim it again after a pause, if the group still gives it.
    LetGo {
        /// The partition.
        partition: i32,
        /// The pause.
        retry_after: Duration,
    },
    /// The partition stands; its tenure is over.
    Blocked {
        /// The partition.
        partition: i32,
    },
}

/// What all lanes share.
pub struct Shared {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// The mapping.
    pub projection: Projection,
    /// Limits of a record.
    pub limits: Limits,
    /// When a partition is stopped for its dead letters.
    pub brake_limits: BrakeLimits,
    /// Where records go that cannot be projected.
    pub dead_letters: DeadLetters,
    /// How long the create of a key change waits for its old key's delete.
    pub key_change_wait: Duration,
    /// How long delete markers are kept.
    pub marker_retention: Duration,
    /// Where each lane shows what it holds.
    pub board: Arc<Board>,
    /// For the ends of partitions that are claimed.
    pub consumer: Arc<TopicConsumer>,
    /// What operators see.
    pub standing: Arc<Standing>,
    /// Metrics.
    pub metrics: Metrics,
    /// Traces of batches.
    pub traces: BatchTraces,
}

/// One lane's state.
pub struct Lane {
    number: usize,
    shared: Arc<Shared>,
    store: Store,
    events: Sender<LaneEvent>,
    newest_sample: watch::Receiver<Arc<Sample>>,
    samples: Samples,
    topic: TopicWatch,
    positions: HashMap<i32, NextPosition>,
    waits: HashMap<i32, Wait>,
    /// Positions that this lane has stored, also of partitions that are no longer its own.
    reached: HashMap<i32, i64>,
    verdicts: Verdicts,
    brakes: Brakes,
    letter_waits: HashMap<i32, Instant>,
    letter_log: LogBudget,
    sweep_at: Instant,
}

impl Lane {
    /// A lane without partitions.
    pub fn new(
        number: usize,
        shared: Arc<Shared>,
        store: Store,
        events: Sender<LaneEvent>,
        newest_sample: watch::Receiver<Arc<Sample>>,
        topic: TopicWatch,
    ) -> Self {
        Self {
            number,
            shared,
            store,
            events,
            newest_sample,
            topic,
            samples: Samples::default(),
            positions: HashMap::new(),
            waits: HashMap::new(),
            reached: HashMap::new(),
            verdicts: Verdicts::new(),
            brakes: Brakes::new(),
            letter_waits: HashMap::new(),
            letter_log: LogBudget::default(),
            sweep_at: Instant::now(),
        }
    }

    /// Works until the source closes the commands, or `hard_stop`: whatever is under way then is rolled back.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>, hard_stop: CancellationToken) {
        let work = async {
            loop {
                tokio::select! {
                    biased;
                    command = commands.recv() => match command {
                        Some(Command::Claim(partitions)) => self.claim(partitions).await,
                        Some(Command::Look(partitions)) => self.look(partitions).await,
                        Some(Command::Batch(batch)) => self.store_batch(batch).await,
                        None => return,
                    },
                    () = tokio::time::sleep_until(self.sweep_due()) => self.sweep().await,
                    Ok(()) = self.newest_sample.changed() => self.follow_ends(),
                }
                self.publish();
            }
        };
        tokio::select! {
            () = work => {}
            () = hard_stop.cancelled() => tracing::warn!("batches in hand are left to the next owner"),
        }
    }

    /// Tries until the batch is stored or nothing of it is this writer's any more.
    async fn store_batch(&mut self, batch: Batch) {
        let polled_at = batch.polled_at.unwrap_or_else(Instant::now);
        let (stages, links) = (Stages::begin(), self.shared.traces.links(&batch));
        let mut prepared = pipeline::prepare(batch, &self.shared.projection, self.shared.limits);
        stages.done(Stage::Decode);
        let topic_id = self.topic.since(polled_at).await;
        self.let_go_of_another_topic(prepared.parts(), topic_id.as_ref());
        let (started, mut pauses) = (Instant::now(), pauses());
        let (mut positions, mut unwritable) = (HashMap::new(), HashMap::new());
        loop {
            prepared.drop_ended();
            if prepared.is_empty() {
                break;
            }
            match self.try_store(&prepared, &unwritable, &stages).await {
                Ok(Attempt::Stored(stored)) => {
                    self.shared.traces.batch(&stages, &links, &prepared, Some(&stored));
                    let records = prepared.stored(&stored.positions);
                    self.shared.metrics.batch(records, started.elapsed());
                    positions.extend(stored.positions.iter().map(|p| (p.tenure.partition, p.next_offset)));
                    self.stored(stored).await;
                }
                Ok(Attempt::Undelivered(found)) => self.deliver(&prepared, found, &mut unwritable).await,
                Err(error) => match error.disposition() {
                    Disposition::LetGo => self.let_go(&error, prepared.parts()),
                    Disposition::Again => tracing::warn!(lane = self.number, %error, "the batch is written again"),
                    Disposition::Reject if self.narrow(&error, &mut prepared) => {}
                    Disposition::Retry | Disposition::Reject => self.pause(&error, pauses.next()).await,
                },
            }
        }
        if positions.is_empty() {
            self.shared.traces.batch(&stages, &links, &prepared, None);
        }
        let positions = positions.into_iter().collect();
        self.tell(LaneEvent::BatchDone { lane: self.number, positions });
    }

    async fn try_store(
        &mut self,
        prepared: &Prepared,
        unwritable: &HashMap<i32, String>,
        stages: &Stages,
    ) -> Result<Attempt, StoreError> {
        if self.newest_sample.has_changed().unwrap_or(false) {
            self.take_sample();
        }
        let waited_enough = self.waited_enough();
        let rules = Rules {
            waited_enough: &waited_enough,
            on_truncate: self.shared.projection.on_truncate,
            verdicts: &self.verdicts,
            unwritable,
            brakes: &self.brakes,
            brake_limits: self.shared.brake_limits,
        };
        let storing = pipeline::store(&mut self.store, prepared, &self.samples, rules, stages);
        let attempt = tokio::time::timeout(TRANSACTION_MAX, storing).await;
        let attempt = attempt.unwrap_or(Err(StoreError::TimedOut(TRANSACTION_MAX)));
        if attempt.is_err() {
            self.store.disconnect();
        }
        attempt
    }

    async fn stored(&mut self, stored: Stored) {
        self.shared.standing.database_answers();
        self.count(&stored.judgement);
        self.brakes.extend(stored.judgement.brakes);
        for position in stored.positions {
            let (partition, next_offset) = (position.tenure.partition, position.next_offset);
            self.end_wait(&position.tenure, next_offset, position.blocked.is_some()).await;
            self.forget_before(partition, next_offset);
            if position.blocked.is_none() && self.letter_waits.remove(&partition).is_some() {
                self.shared.standing.dead_letters_written(&self.shared.topic, partition);
            }
            self.reached.insert(partition, next_offset);
            self.positions.insert(partition, position);
        }
        for (partition, cut) in stored.judgement.cuts {
            self.stop(partition, cut.offset, cut.why).await;
        }
    }

    fn count(&self, judgement: &Judgement) {
        let metrics = &self.shared.metrics;
        for ((partition, outcome), count) in &judgement.outcomes {
            metrics.records(*partition, *outcome, *count);
        }
        judgement.dead_letters.iter().for_each(|(.., reason)| metrics.dead_letter(*reason));
        let now = SystemTime::now();
        for committed_at_ms in &judgement.committed_at_ms {
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis((*committed_at_ms).max(0).unsigned_abs());
            metrics.end_to_end(now.duration_since(at).unwrap_or(Duration::ZERO));
        }
    }

    fn let_go(&mut self, error: &StoreError, parts: &[Part]) {
        let StoreError::ClaimsOver(partitions) = error else {
            return;
        };
        self.shared.metrics.fenced(partitions.len());
        tracing::warn!(?partitions, "another writer has taken partitions, or their positions were moved");
        for part in parts.iter().filter(|part| partitions.contains(&part.tenure.partition)) {
            part.tenure.end();
            let partition = part.tenure.partition;
            self.end(partition);
            self.tell(LaneEvent::LetGo { partition, retry_after: RECLAIM_AFTER });
        }
    }

    fn end(&mut self, partition: i32) -> Option<Arc<Tenure>> {
        let position = self.positions.remove(&partition)?;
        position.tenure.end();
        Some(position.tenure)
    }

    async fn pause(&mut self, error: &StoreError, pause: Option<Duration>) {
        self.store.disconnect();
        let pause = pause.unwrap_or(BACKOFF.1);
        tracing::warn!(lane = self.number, error = %error, ?pause, "the view does not take writes; trying again");
        self.shared.standing.database_fails(error);
        tokio::time::sleep(pause).await;
    }

    fn tell(&self, event: LaneEvent) {
        // Without a source the process is ending, and nothing is left to tell.
        let _ = self.events.send(event);
    }
}

fn pauses() -> impl Iterator<Item = Duration> + Send {
    ExponentialBuilder::default()
        .with_min_delay(BACKOFF.0)
        .with_max_delay(BACKOFF.1)
        .with_jitter()
        .without_max_times()
        .build()
}
