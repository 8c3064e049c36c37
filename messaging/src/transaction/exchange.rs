//! The loop: poll, handle, produce, commit. One thread does all of it, so that no rebalance can come in the middle of a
//! transaction: the group is heard in `poll` only, and what it takes is dropped before the next transaction begins.

mod placing;

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use rdkafka::{
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio_util::sync::CancellationToken;

use super::{
    TransactionConfig, TransactionError,
    batch::Batch,
    membership::{Change, Membership},
    observe,
    producer::{Failure, Producer},
    record::TopicPartition,
    work::{Ends, Work},
};
use crate::client::client;
use placing::Placing;

/// How long a round waits for its first record.
const POLL_MAX: Duration = Duration::from_millis(20);
/// Pause after the first abort in a row; doubled with each further one.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long leaving the group may take; with the brokers away the group finds out by the session's end.
const LEAVE_MAX: Duration = Duration::from_secs(1);

/// Settings of the consumer. Names and meaning: librdkafka, CONFIGURATION.md.
const CONSUMES: [(&str, &str); 10] = [
    // Offsets are committed by the producer, inside its transactions.
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    // The input may be another transaction's output. It also makes the client ask for stable offsets (KIP-447), so that a
    // successor waits for the transaction of its predecessor.
    ("isolation.level", "read_committed"),
    // Outside the log is an operator's decision, never a silent jump.
    ("auto.offset.reset", "error"),
    // Partitions are added one by one, when their offsets are settled; the eager protocol would not allow it.
    ("partition.assignment.strategy", "cooperative-sticky"),
    ("allow.auto.create.topics", "false"),
    ("check.crcs", "true"),
    ("queued.max.messages.kbytes", "16384"),
    ("fetch.queue.backoff.ms", "10"),
    // A topic that does not exist yet is looked for this often.
    ("topic.metadata.refresh.interval.ms", "5000"),
];

/// One member's loop.
pub(super) struct Exchange<W> {
    config: TransactionConfig,
    consumer: BaseConsumer<Membership>,
    producer: Producer,
    work: W,
    batch: Batch,
    /// Given partitions that are not fetched yet.
    placing: BTreeMap<TopicPartition, Placing>,
    aborts_in_a_row: u32,
    /// No transaction begins before this moment.
    pause_until: Option<Instant>,
    shutdown: CancellationToken,
}

impl<W: Work> Exchange<W> {
    pub(super) fn new(
        settings: &HashMap<String, String>,
        config: TransactionConfig,
        work: W,
        shutdown: CancellationToken,
    ) -> Result<Self, TransactionError> {
        observe::describe();
        let mut own = CONSUMES.to_vec();
        own.push(("group.id", &config.group));
        if settings.get("group.protocol").is_some_and(|protocol| protocol == "consumer") {
            // Under KIP-848 the broker assigns, cooperatively, and takes no strategy.
            own.retain(|(key, _)| *key != "partition.assignment.strategy");
        }
        let consumer = client(settings, &own).create_with_context(Membership::default());
        let consumer = consumer.map_err(TransactionError::Settings)?;
        let transactional_id = format!("{}-{}", config.group, config.member);
        let producer = Producer::new(settings, transactional_id, config.transaction_timeout, shutdown.clone());
        let producer = producer.map_err(TransactionError::Settings)?;
        Ok(Self {
            config,
            consumer,
            producer,
            work,
            batch: Batch::default(),
            placing: BTreeMap::new(),
            aborts_in_a_row: 0,
            pause_until: None,
            shutdown,
        })
    }

    /// Until shutdown, or a fatal error.
    pub(super) fn run(mut self) -> Result<(), TransactionError> {
        // Before the group is joined: a predecessor's transaction is aborted then, and this member's partitions are free.
        match self.producer.init() {
            Err(_) if self.shutdown.is_cancelled() => return Ok(()),
            initialised => initialised.map_err(|error| self.fatal("taking the transactional id", error))?,
        }
        let topics: Vec<&str> = self.config.topics.iter().map(String::as_str).collect();
        self.consumer.subscribe(&topics).map_err(TransactionError::Settings)?;
        while !self.shutdown.is_cancelled() {
            self.poll()?;
            self.follow_group();
            self.place()?;
            self.end_pause();
            if !self.batch.records().is_empty() && self.pause_until.is_none() {
                self.transact()?;
            }
        }
        self.leave();
        Ok(())
    }

    /// Takes what waits in the client, up to the limits; waits a moment for the first. What is given while the group takes a
    /// partition is dropped by [`Self::follow_group`].
    fn poll(&mut self) -> Result<(), TransactionError> {
        let mut wait =
            if self.batch.records().is_empty() || self.pause_until.is_some() { POLL_MAX } else { Duration::ZERO };
        loop {
            match self.consumer.poll(wait) {
                Some(Ok(message)) => self.batch.push(&message),
                Some(Err(error)) => return self.hear(error),
                None => return Ok(()),
            }
            let is_full = self.batch.records().len() >= self.config.batch_records_max
                || self.batch.bytes() >= self.config.batch_bytes_max;
            if is_full || self.shutdown.is_cancelled() {
                return Ok(());
            }
            wait = Duration::ZERO;
        }
    }

    fn hear(&self, error: KafkaError) -> Result<(), TransactionError> {
        use RDKafkaErrorCode::{AutoOffsetReset, LogTruncation, OffsetOutOfRange, PollExceeded};
        match error.rdkafka_error_code() {
            Some(AutoOffsetReset | OffsetOutOfRange | LogTruncation) => {
                return Err(TransactionError::OutOfRange { group: self.config.group.clone() });
            }
            // The group has taken everything; the next poll joins it again.
            Some(PollExceeded) => tracing::warn!("a transaction took longer than the group waits for a poll"),
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => return Err(self.fatal("consuming", error)),
            _ => tracing::debug!(error = %error, "the client goes on by itself"),
        }
        Ok(())
    }

    fn follow_group(&mut self) {
        for change in self.consumer.context().take_changes() {
            match change {
                Change::Given(listed) => {
                    for (topic, partition) in listed {
                        let given = TopicPartition { topic: self.batch.name(&topic), partition };
                        self.placing.insert(given, Placing::new());
                    }
                }
                Change::Taken(listed) => {
                    for (topic, partition) in listed {
                        let taken = TopicPartition { topic: self.batch.name(&topic), partition };
                        self.batch.drop_taken(&taken);
                        self.placing.remove(&taken);
                        self.work.taken(&taken);
                    }
                }
            }
        }
    }

    /// One attempt at the batch in hand.
    fn transact(&mut self) -> Result<(), TransactionError> {
        let began = Instant::now();
        match self.attempt() {
            Ok((ends, outputs)) => {
                observe::committed(&self.config.group, self.batch.records().len(), outputs, began.elapsed());
                self.work.committed(ends);
                self.batch.clear();
                self.aborts_in_a_row = 0;
                Ok(())
            }
            Err(Failure::Fatal(_)) if self.shutdown.is_cancelled() => Ok(()),
            Err(Failure::Fatal(error)) => Err(error),
            Err(Failure::Abort(step, error)) => self.abort(step, &error),
        }
    }

    fn attempt(&mut self) -> Result<(Ends, usize), Failure> {
        // The group as it is now: nothing is polled until the commit, so these records' partitions are this member's in that
        // generation, or the coordinator refuses the offsets.
        let Some(group) = self.consumer.group_metadata() else {
            let error = KafkaError::Global(RDKafkaErrorCode::UnknownGroup);
            return Err(Failure::Fatal(self.fatal("asking for the group", error)));
        };
        let outputs = self.work.transform(self.batch.records()).map_err(|error| self.refused(error))?;
        let offsets = self.batch.next_offsets().map_err(|error| Failure::Fatal(self.fatal("naming offsets", error)))?;
        let ends = self.producer.transact(&outputs, &offsets, &group)?;
        Ok((ends, outputs.len()))
    }

    fn refused(&self, error: super::HandlerError) -> Failure {
        let first = &self.batch.records()[0];
        let (topic, partition, offset) = (first.topic.to_string(), first.partition, first.offset);
        Failure::Fatal(TransactionError::Handler { topic, partition, offset, error })
    }

    fn fatal(&self, step: &'static str, error: KafkaError) -> TransactionError {
        self.producer.fatal(step, error)
    }

    /// Aborts and keeps the batch for the next attempt. Fetching stands until then, polling does not.
    fn abort(&mut self, step: &'static str, error: &KafkaError) -> Result<(), TransactionError> {
        let (group, records, failure) = (&self.config.group, self.batch.records().len(), self.producer.failure());
        let cause = failure.as_ref().unwrap_or(error);
        tracing::warn!(group, records, step, error = %cause, "a transaction is aborted and tried again");
        observe::aborted(group);
        match self.producer.abort() {
            Err(_) if self.shutdown.is_cancelled() => return Ok(()),
            aborted => aborted.map_err(|error| self.fatal("aborting", error))?,
        }
        self.work.aborted();
        let pause = PAUSE.saturating_mul(1 << self.aborts_in_a_row.min(16)).min(PAUSE_MAX);
        self.aborts_in_a_row += 1;
        self.pause_until = Some(Instant::now() + pause);
        self.pause();
        Ok(())
    }

    fn pause(&self) {
        let paused = self.consumer.assignment().and_then(|assignment| self.consumer.pause(&assignment));
        if let Err(error) = paused {
            tracing::warn!(error = %error, "fetching goes on while a transaction waits to be tried again");
        }
    }

    /// Fetches again when the pause is over. What the batch has no place for waits in the client.
    fn end_pause(&mut self) {
        if self.pause_until.is_none_or(|until| Instant::now() < until) {
            return;
        }
        self.pause_until = None;
        let resumed = self.consumer.assignment().and_then(|assignment| self.consumer.resume(&assignment));
        if let Err(error) = resumed {
            tracing::error!(error = %error, "fetching was not resumed");
        }
    }

    /// Closing tells the group, so that the successor need not wait for a session to end.
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
