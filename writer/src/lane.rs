//! A lane: one connection to Postgres and the partitions of its number. Takes batches in order, tries each until it is stored
//! or its claim is over, and tells the source.

mod advance;
mod claim;
mod sweep;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, mpsc::Sender},
    time::{Duration, Instant, SystemTime},
};

use backon::{BackoffBuilder, ExponentialBuilder};
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
    pipeline::{self, Context, Prepared, Stop, Stored},
    projection::Projection,
    rejection::{Reason, Rejection},
    standing::Standing,
    store::{NextPosition, Store, TRANSACTION_MAX},
    trace::{BatchTraces, Stage, Stages},
};

/// First and longest pause between attempts that the environment ends.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));
/// Pause before a claim that was lost is taken again: the group tells first when the partition went to another member.
pub(crate) const RECLAIM_AFTER: Duration = Duration::from_secs(2);
/// Shortest and longest pause before a create that waits for its old key's delete is looked at again; it waits longer the
/// longer it has waited, since each look is a claim.
const OLD_KEY_RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// What the source asks of a lane.
#[derive(Debug)]
pub enum Command {
    /// Take these partitions over.
    Claim(Vec<i32>),
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
    /// All partitions of a [`Command::Claim`] have been told.
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
    positions: HashMap<i32, NextPosition>,
    old_key_waits: HashMap<i32, (i64, Instant)>,
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
    ) -> Self {
        let (positions, old_key_waits, samples) = (HashMap::new(), HashMap::new(), Samples::default());
        let sweep_at = Instant::now();
        Self { number, shared, store, events, newest_sample, samples, positions, old_key_waits, sweep_at }
    }

    /// Works until the source closes the commands, or `hard_stop`: whatever is under way then is rolled back.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>, hard_stop: CancellationToken) {
        let work = async {
            loop {
                tokio::select! {
                    biased;
                    command = commands.recv() => match command {
                        Some(Command::Claim(partitions)) => self.claim(partitions).await,
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
        let (stages, links) = (Stages::begin(), self.shared.traces.links(&batch));
        let mut prepared = pipeline::prepare(&batch, &self.shared.projection, self.shared.limits);
        drop(batch);
        stages.done(Stage::Decode);
        let (started, mut pauses) = (Instant::now(), pauses());
        let mut positions = Vec::new();
        loop {
            prepared.drop_ended();
            if prepared.is_empty() {
                self.shared.traces.batch(&stages, links, &prepared, None);
                break;
            }
            match self.try_store(&prepared, &stages).await {
                Ok(stored) => {
                    self.shared.traces.batch(&stages, links, &prepared, Some(&stored));
                    positions = stored.positions.iter().map(|p| (p.tenure.partition, p.next_offset)).collect();
                    self.shared.metrics.batch(prepared.len_records(), started.elapsed());
                    self.stored(stored);
                    break;
                }
                Err(error) => match error.disposition() {
                    Disposition::Retry => self.pause(&error, pauses.next()).await,
                    Disposition::LetGo => self.let_go(&error, prepared.parts()),
                    Disposition::Reject => self.reject(&error, &prepared),
                },
            }
        }
        self.tell(LaneEvent::BatchDone { lane: self.number, positions });
    }

    async fn try_store(&mut self, prepared: &Prepared, stages: &Stages) -> Result<Stored, StoreError> {
        if self.newest_sample.has_changed().unwrap_or(false) {
            self.take_sample();
        }
        let waited = |(partition, (offset, since)): (&i32, &(i64, Instant))| {
            (since.elapsed() >= self.shared.key_change_wait).then_some((*partition, *offset))
        };
        let waited_enough: HashSet<_> = self.old_key_waits.iter().filter_map(waited).collect();
        let context = Context { samples: &self.samples, waited_enough: &waited_enough, stages };
        let storing = pipeline::store(&mut self.store, prepared, &context);
        let stored = tokio::time::timeout(TRANSACTION_MAX, storing).await;
        let stored = stored.unwrap_or(Err(StoreError::TimedOut(TRANSACTION_MAX)));
        if stored.is_err() {
            self.store.disconnect();
        }
        stored
    }

    fn stored(&mut self, stored: Stored) {
        let metrics = &self.shared.metrics;
        self.shared.standing.database_answers();
        for ((partition, outcome), count) in &stored.outcomes {
            metrics.records(*partition, *outcome, *count);
        }
        let now = SystemTime::now();
        for committed_at_ms in &stored.committed_at_ms {
            let at = SystemTime::UNIX_EPOCH + Duration::from_millis((*committed_at_ms).max(0).unsigned_abs());
            metrics.end_to_end(now.duration_since(at).unwrap_or(Duration::ZERO));
        }
        for position in stored.positions {
            let partition = position.tenure.partition;
            self.old_key_waits.retain(|waiting, (offset, _)| *waiting != partition || *offset >= position.next_offset);
            self.positions.insert(partition, position);
        }
        for (partition, cut) in stored.cuts {
            self.end(partition);
            match cut.why {
                Stop::Rejected(rejection) => {
                    self.shared.standing.rejected(&self.shared.topic, partition, cut.offset, &rejection);
                    self.tell(LaneEvent::Blocked { partition });
                }
                Stop::AwaitsOldKey(old_key) => {
                    let (_, since) = *self.old_key_waits.entry(partition).or_insert_with(|| {
                        tracing::info!(partition, offset = cut.offset, %old_key, "a key change waits for its delete");
                        (cut.offset, Instant::now())
                    });
                    let retry_after = since.elapsed().clamp(OLD_KEY_RETRY.0, OLD_KEY_RETRY.1);
                    self.tell(LaneEvent::LetGo { partition, retry_after });
                }
            }
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

    /// Postgres refuses the data of some record of the batch: its partitions stand where the batch begins.
    fn reject(&mut self, error: &StoreError, prepared: &Prepared) {
        for part in prepared.parts() {
            part.tenure.end();
            let (partition, offset) = (part.tenure.partition, part.from_offset);
            let rejection = Rejection::new(Reason::RejectedByDatabase, error.to_string());
            self.end(partition);
            self.shared.standing.rejected(&self.shared.topic, partition, offset, &rejection);
            self.tell(LaneEvent::Blocked { partition });
        }
    }

    fn end(&mut self, partition: i32) {
        if let Some(position) = self.positions.remove(&partition) {
            position.tenure.end();
        }
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
