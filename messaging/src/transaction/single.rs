//! One transaction of records alone, of any size, under a transactional id that belongs to it: all of them, or nothing.
//!
//! For work that comes from outside Kafka and has a name of its own. Whoever takes the id ends what a predecessor left open and fences
//! one that still works, so between [`SingleTransaction::take`] and the end of the transaction nobody else can commit under it: what
//! is looked up after the taking (was it done before?) holds until the commit.
//!
//! All calls block. Records go out while they are sent, so memory is bounded by the client's queue and not by the transaction.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use rdkafka::error::KafkaError;
use tokio_util::sync::CancellationToken;

use super::{
    Output, TransactionError,
    error::{Disposition, disposition},
    producer::Producer,
};

/// Bytes that wait in the client to be sent; more wait for their turn. Many transactions may be under way at once, each with its client.
const QUEUE_KIB_MAX: &str = "2048";
/// An abort may take so long, and one call beyond it; then it is left to the coordinator.
const ABORT_MAX: Duration = Duration::from_secs(5);

/// A transactional id that is taken, and the transaction under it once it has begun. Dropping it without a commit aborts.
pub struct SingleTransaction {
    producer: Producer,
    /// Cancelled, each call is tried once.
    shutdown: CancellationToken,
    /// By when everything but the commit must be done.
    deadline: Option<Instant>,
}

impl SingleTransaction {
    /// Takes the id. Waits so long for the brokers, and for the end of a predecessor's transaction; or until `shutdown`.
    ///
    /// `timeout` bounds the transaction: past it the coordinator aborts on its own. A process that dies holds up readers of the
    /// topics for so long, unless somebody takes the id.
    pub fn take(
        settings: &HashMap<String, String>,
        transactional_id: &str,
        timeout: Duration,
        wait: Duration,
        shutdown: &CancellationToken,
    ) -> Result<Self, TransactionError> {
        let mut settings = settings.clone();
        let own = [("queue.buffering.max.kbytes", QUEUE_KIB_MAX), ("compression.type", "lz4")];
        for (key, value) in own {
            settings.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
        let shutdown = shutdown.child_token();
        let producer = Producer::new(&settings, transactional_id.to_owned(), timeout, shutdown.clone());
        let producer = producer.map_err(TransactionError::Settings)?;
        let taken = producer.init_by(Instant::now() + wait);
        taken.map_err(|error| producer.fatal("taking the transactional id", error))?;
        Ok(Self { producer, shutdown, deadline: None })
    }

    /// Begins the transaction.
    pub fn begin(&mut self) -> Result<(), TransactionError> {
        let begun = self.producer.begin();
        self.deadline = Some(begun.map_err(|error| self.producer.fatal("beginning", error))?);
        Ok(())
    }

    /// Sends a record; two with one key and topic keep their order. Waits while the client's queue is full.
    ///
    /// Errors: the transaction will not be; drop it.
    pub fn send(&mut self, output: &Output) -> Result<(), TransactionError> {
        let deadline = self.deadline.expect("a transaction begins before its records");
        self.producer.send(output, deadline).map_err(|error| self.failed("producing", error))
    }

    /// Commits: everything that was sent is there from now on.
    ///
    /// Errors: nothing of it is there; only when shutdown comes between the asking and the answer, the coordinator decides.
    pub fn commit(mut self) -> Result<(), TransactionError> {
        let deadline = self.deadline.expect("a transaction begins before its end");
        self.producer.flush(deadline).map_err(|error| self.failed("producing", error))?;
        self.producer.commit().map_err(|error| self.failed("committing", error))?;
        self.deadline = None;
        Ok(())
    }

    /// A record that was not delivered is why, where there is one.
    fn failed(&self, step: &'static str, error: KafkaError) -> TransactionError {
        let cause = self.producer.failure().unwrap_or(error);
        self.producer.fatal(step, cause)
    }
}

impl Drop for SingleTransaction {
    fn drop(&mut self) {
        if self.deadline.is_none() {
            return;
        }
        self.shutdown.cancel();
        let until = Instant::now() + ABORT_MAX;
        while let Err(error) = self.producer.abort() {
            if disposition(&error) != Disposition::Retry || Instant::now() >= until {
                // The coordinator does it, when the time is over or the id is taken again.
                tracing::warn!(error = %error, "a transaction was left open");
                return;
            }
        }
    }
}
