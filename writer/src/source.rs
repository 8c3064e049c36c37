//! The topic, as batches per lane: one thread that polls the client.
//!
//! Duties: records of a partition leave in offset order, from the position that was claimed, each once per tenure. A lane has
//! at most `lanes::BATCHES_MAX` batches in hand; while all lanes with records are full the client is not polled, and a lane that
//! stays full has its partitions paused, so that the others go on and the group keeps this member. When the client has no
//! more records waiting, what has come goes at once: latency without a backlog, large batches with one.
//!
//! Offsets are committed to the group after the view has them, as a hint for lag tools; nothing here reads them.

mod claims;
mod lanes;

use std::{
    collections::HashMap,
    sync::{Arc, mpsc::Receiver},
    time::{Duration, Instant},
};

use messaging::headers;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer},
    error::KafkaResult,
    message::BorrowedMessage,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use claims::LOOK_INTERVAL;
pub use lanes::COMMANDS_MAX;
use lanes::{LaneLink, STALL_MAX};

use crate::{
    assignment::{Rebalance, TopicConsumer},
    batch::{BatchLimits, Tenure},
    ends::Sample,
    error::{PollDisposition, poll_disposition},
    lane::{Command, LaneEvent},
    standing::Standing,
    topic_watch::TopicWatch,
};

/// How long the thread waits for records when there is nothing else to do.
const POLL_MAX: Duration = Duration::from_millis(20);
/// How long it waits for records while some wait to be sent.
const POLL_BUSY: Duration = Duration::from_millis(1);
/// How often offsets are committed to the group, and positions without records looked for.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// How long leaving the group may take; with the brokers away the group finds out by the session's end.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// The polling thread's state.
pub struct Source {
    consumer: Arc<TopicConsumer>,
    topic: Arc<str>,
    limits: BatchLimits,
    lanes: Vec<LaneLink>,
    events: Receiver<LaneEvent>,
    partitions: HashMap<i32, State>,
    standing: Arc<Standing>,
    topic_watch: TopicWatch,
    newest_sample: watch::Receiver<Arc<Sample>>,
    stored: HashMap<i32, i64>,
    housekept_at: Instant,
    outside_since: Option<Instant>,
}

/// What a source works with beside its lanes.
pub struct Surroundings {
    /// The client.
    pub consumer: Arc<TopicConsumer>,
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Sizes of batches.
    pub limits: BatchLimits,
    /// What operators see.
    pub standing: Arc<Standing>,
    /// Asked for each batch.
    pub topic_watch: TopicWatch,
    /// The ends of the partitions in hand.
    pub newest_sample: watch::Receiver<Arc<Sample>>,
}

enum State {
    /// To be claimed at this time.
    Unclaimed(Instant),
    /// A lane is claiming it.
    Claiming,
    Running(Running),
    /// Stands; to be looked at again at this time, whether an operator or the log has changed that.
    Blocked(Instant),
}

struct Running {
    tenure: Arc<Tenure>,
    /// The position that the next batch continues.
    next_offset: i64,
    /// Whether the client's position is known to be of this tenure: it was unset once, or a record has come.
    settled: bool,
}

impl Source {
    /// A source that feeds these lanes.
    pub fn new(
        surroundings: Surroundings,
        lanes: impl Iterator<Item = mpsc::Sender<Command>>,
        events: Receiver<LaneEvent>,
    ) -> Self {
        let Surroundings { consumer, topic, limits, standing, topic_watch, newest_sample } = surroundings;
        Self {
            consumer,
            topic,
            limits,
            lanes: lanes.map(LaneLink::new).collect(),
            events,
            partitions: HashMap::new(),
            standing,
            topic_watch,
            newest_sample,
            stored: HashMap::new(),
            housekept_at: Instant::now(),
            outside_since: None,
        }
    }

    /// Polls until shutdown, then lets the lanes finish what they have and leaves the group. Errors are the client's fatal
    /// ones.
    pub fn run(mut self, shutdown: &CancellationToken) -> KafkaResult<()> {
        self.consumer.subscribe(&[&self.topic])?;
        while !shutdown.is_cancelled() {
            self.follow_rebalances();
            self.follow_lanes();
            self.claim_due();
            if self.must_wait() {
                self.wait_for_lane();
                continue;
            }
            let waiting = self.lanes.iter().any(|lane| !lane.filling.records.is_empty());
            let message = self.consumer.poll(if waiting { POLL_BUSY } else { POLL_MAX });
            let drained = message.is_none();
            match message {
                Some(Ok(message)) => accept(&mut self.lanes, &mut self.partitions, &message),
                Some(Err(error)) => match poll_disposition(&error) {
                    PollDisposition::Recovers => self.standing.client_error(error),
                    PollDisposition::OutsideLog => self.outside_since = Some(Instant::now()),
                    PollDisposition::Fatal => return Err(error),
                },
                None => {}
            }
            self.dispatch(drained);
            self.keep_house();
        }
        self.drain();
        Ok(())
    }

    fn follow_rebalances(&mut self) {
        let context = Arc::clone(self.consumer.context());
        for rebalance in context.take_rebalances() {
            match rebalance {
                Rebalance::Assigned(partitions) => {
                    self.standing.assigned(partitions.len());
                    for partition in partitions {
                        self.partitions.insert(partition, State::Unclaimed(Instant::now()));
                    }
                }
                Rebalance::Revoked(partitions) => {
                    for partition in partitions {
                        self.partitions.remove(&partition);
                        self.stored.remove(&partition);
                        self.forget_records(partition);
                        self.standing.gone(partition);
                        // Its new owner tells how far it is behind; a last value kept here would be told for ever.
                        self.standing.metrics().lag(partition, 0);
                    }
                }
            }
        }
    }

    fn follow_lanes(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.follow(event);
        }
    }

    fn follow(&mut self, event: LaneEvent) {
        match event {
            LaneEvent::BatchDone { lane, positions } => {
                self.lanes[lane].in_hand -= 1;
                let ours = |(partition, _): &(i32, i64)| self.partitions.contains_key(partition);
                self.stored.extend(positions.into_iter().filter(ours));
            }
            LaneEvent::ClaimsDone { lane } => self.lanes[lane].claiming = false,
            LaneEvent::Claimed { tenure, next_offset } => self.begin(tenure, next_offset),
            LaneEvent::LetGo { partition, retry_after } => {
                self.let_go(partition, State::Unclaimed(Instant::now() + retry_after))
            }
            LaneEvent::Blocked { partition } => self.let_go(partition, State::Blocked(Instant::now() + LOOK_INTERVAL)),
        }
    }

    /// Fetches a claimed partition from its position on, unless it was revoked meanwhile.
    fn begin(&mut self, tenure: Arc<Tenure>, next_offset: i64) {
        let partition = tenure.partition;
        if !matches!(self.partitions.get(&partition), Some(State::Claiming)) {
            return;
        }
        let mut list = TopicPartitionList::new();
        let offset = Offset::Offset(next_offset);
        let assigned = list
            .add_partition_offset(&self.topic, partition, offset)
            .and_then(|()| self.consumer.incremental_assign(&list))
            .and_then(|()| self.follow_lane(&list, partition));
        if let Err(error) = assigned {
            tracing::warn!(partition, error = %error, "a claimed partition could not be assigned; it is claimed again");
            self.partitions.insert(partition, State::Unclaimed(Instant::now() + STALL_MAX));
            return;
        }
        self.consumer.context().begin(&tenure);
        self.partitions.insert(partition, State::Running(Running { tenure, next_offset, settled: false }));
        self.settle();
    }

    fn let_go(&mut self, partition: i32, state: State) {
        if !self.partitions.contains_key(&partition) {
            return;
        }
        self.consumer.context().end(partition);
        self.forget_records(partition);
        if let Some(State::Running(_)) = self.partitions.insert(partition, state) {
            let mut list = TopicPartitionList::new();
            list.add_partition(&self.topic, partition);
            if let Err(error) = self.consumer.incremental_unassign(&list) {
                tracing::warn!(partition, error = %error, "a partition could not be let go");
            }
        }
    }

    /// Drops what was polled of a partition but not sent: its next tenure polls it again.
    fn forget_records(&mut self, partition: i32) {
        let number = partition as usize % self.lanes.len();
        self.lanes[number].filling.records.retain(|record| record.partition != partition);
    }

    /// Commits offsets, and moves positions past markers behind which no record came.
    fn keep_house(&mut self) {
        if self.housekept_at.elapsed() < COMMIT_INTERVAL {
            return;
        }
        self.housekept_at = Instant::now();
        self.let_go_outside();
        self.settle();
        for number in 0..self.lanes.len() {
            if self.lanes[number].in_hand == 0 {
                self.send_batch(number);
            }
        }
        self.commit();
    }

    fn commit(&mut self) {
        let mut list = TopicPartitionList::new();
        for (partition, next_offset) in self.stored.drain() {
            if list.add_partition_offset(&self.topic, partition, Offset::Offset(next_offset)).is_err() {
                tracing::warn!(partition, next_offset, "an offset was not committed to the group");
            }
        }
        if list.count() > 0
            && let Err(error) = self.consumer.commit(&list, CommitMode::Async)
        {
            tracing::warn!(error = %error, "offsets were not committed to the group; the view's position counts");
        }
    }

    /// Lets the lanes store what they have in hand, commits its offsets and leaves the group.
    fn drain(mut self) {
        self.lanes.iter_mut().for_each(LaneLink::close);
        while let Ok(event) = self.events.recv() {
            self.follow(event);
        }
        self.commit();
        self.leave();
    }

    /// Closing sends the commits under way and tells the group, so that the successor need not wait for a session to end.
    fn leave(&self) {
        let deadline = Instant::now() + LEAVE_MAX;
        if let Err(error) = self.consumer.close_queue() {
            tracing::warn!(error = %error, "the group was not told that this member leaves");
        }
        while !self.consumer.closed() && Instant::now() < deadline {
            self.consumer.poll(POLL_MAX);
        }
    }
}

/// Puts a record into its lane's batch, unless its partition is no longer this writer's or its position is past it.
fn accept(lanes: &mut [LaneLink], partitions: &mut HashMap<i32, State>, message: &BorrowedMessage<'_>) {
    let partition = message.partition();
    let Some(State::Running(running)) = partitions.get_mut(&partition) else {
        return;
    };
    running.settled = true;
    if message.offset() >= running.next_offset {
        let number = partition as usize % lanes.len();
        lanes[number].filling.push(message, &headers::of(message));
    }
}
