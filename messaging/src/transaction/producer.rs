//! The transactional producer: each call, with its time limit, and repeated while that can help.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Message, TopicPartitionList,
    consumer::ConsumerGroupMetadata,
    error::{KafkaError, KafkaResult},
    message::DeliveryResult,
    producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext},
};
use tokio_util::sync::CancellationToken;

use super::{
    TransactionError,
    error::{Disposition, disposition, is_fenced},
    record::{Output, TopicPartition},
    work::Ends,
};
use crate::client::{client, without_membership};

/// How long one call may take before it is repeated, so that shutdown is heard in between.
const CALL_MAX: Duration = Duration::from_secs(2);
/// One look at the client's events while it has records to send.
const EVENTS: Duration = Duration::from_millis(1);

/// Notes how far each partition was written, and the first record that was not.
#[derive(Debug, Default)]
struct Deliveries(Mutex<Delivered>);

#[derive(Debug, Default)]
struct Delivered {
    ends: HashMap<String, HashMap<i32, i64>>,
    failure: Option<KafkaError>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut delivered = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(message) => {
                if !delivered.ends.contains_key(message.topic()) {
                    delivered.ends.insert(message.topic().to_owned(), HashMap::new());
                }
                let ends = delivered.ends.get_mut(message.topic()).expect("it was inserted");
                let end = ends.entry(message.partition()).or_default();
                *end = (message.offset() + 1).max(*end);
            }
            Err((error, _)) => drop(delivered.failure.get_or_insert(error.clone())),
        }
    }
}

/// One member's producer.
pub(crate) struct Producer {
    client: BaseProducer<Deliveries>,
    transactional_id: String,
    timeout: Duration,
    shutdown: CancellationToken,
}

/// How an attempt at a transaction failed.
pub(crate) enum Failure {
    /// The transaction is open, or in the state that wants an abort.
    Abort(&'static str, KafkaError),
    Fatal(TransactionError),
}

impl Producer {
    pub(crate) fn new(
        settings: &HashMap<String, String>,
        transactional_id: String,
        timeout: Duration,
        shutdown: CancellationToken,
    ) -> KafkaResult<Self> {
        let timeout_ms = timeout.as_millis().to_string();
        let own = [
            // The same after each restart: taking it aborts what a crashed predecessor left open, and fences a frozen one.
            ("transactional.id", transactional_id.as_str()),
            ("transaction.timeout.ms", timeout_ms.as_str()),
            // A record may not be under way for longer than its transaction may live; librdkafka refuses more.
            ("message.timeout.ms", &timeout_ms),
            // Records are handed over a batch at a time and flushed, so waiting for more gains nothing.
            ("linger.ms", "1"),
        ];
        let settings = without_membership(settings);
        let client = client(&settings, &own).create_with_context(Deliveries::default())?;
        Ok(Self { client, transactional_id, timeout, shutdown })
    }

    /// Takes the transactional id. Waits for the brokers, and for the end of a predecessor's transaction.
    pub(crate) fn init(&self) -> KafkaResult<()> {
        self.repeat(None, || self.client.init_transactions(CALL_MAX))
    }

    /// As [`Self::init`], but not beyond this moment.
    pub(super) fn init_by(&self, deadline: Instant) -> KafkaResult<()> {
        self.repeat(Some(deadline), || self.client.init_transactions(CALL_MAX))
    }

    /// One whole transaction: these records in their order, and the group's next offsets; or nothing of it.
    pub(crate) fn transact(
        &self,
        outputs: &[Output],
        offsets: &TopicPartitionList,
        group: &ConsumerGroupMetadata,
    ) -> Result<Ends, Failure> {
        let deadline = self.begin().map_err(|error| self.failed("beginning", error))?;
        for output in outputs {
            self.send(output, deadline).map_err(|error| self.failed("producing", error))?;
        }
        self.flush(deadline).map_err(|error| Failure::Abort("producing", error))?;
        let sent = self.send_offsets(offsets, group, deadline);
        sent.map_err(|error| match disposition(&error) {
            // Out of time, and nothing is decided yet.
            Disposition::Retry => Failure::Abort("sending offsets", error),
            _ => self.failed("sending offsets", error),
        })?;
        self.commit().map_err(|error| self.failed("committing", error))
    }

    fn failed(&self, step: &'static str, error: KafkaError) -> Failure {
        match disposition(&error) {
            Disposition::Abort => Failure::Abort(step, error),
            // What could be repeated was, until shutdown: the coordinator decides what became of it.
            Disposition::Retry | Disposition::Fatal => Failure::Fatal(self.fatal(step, error)),
        }
    }

    /// What ends the process, and whether that is because of another one.
    pub(crate) fn fatal(&self, step: &'static str, error: KafkaError) -> TransactionError {
        match self.is_fenced() || is_fenced(&error) {
            true => TransactionError::Fenced { transactional_id: self.transactional_id.clone(), error },
            false => TransactionError::Fatal { step, error },
        }
    }

    /// Begins; gives the moment by which everything but the commit must be done, or the coordinator may abort on its own.
    pub(super) fn begin(&self) -> KafkaResult<Instant> {
        *self.delivered() = Delivered::default();
        self.client.begin_transaction()?;
        Ok(Instant::now() + self.timeout * 3 / 4)
    }

    /// Hands one record to the client; waits while its queue is full.
    pub(super) fn send(&self, output: &Output, deadline: Instant) -> KafkaResult<()> {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&output.topic);
        record.partition = output.partition;
        record.key = output.key.as_deref();
        record.payload = output.value.as_deref();
        record.headers = output.owned_headers();
        while let Err((error, refused)) = self.client.send(record) {
            if disposition(&error) != Disposition::Retry || Instant::now() >= deadline {
                return Err(error);
            }
            self.client.poll(EVENTS);
            record = refused;
        }
        Ok(())
    }

    /// Waits until the brokers have every record. `flush` of the client would do, but looks at its events for 100 ms at a time.
    pub(super) fn flush(&self, deadline: Instant) -> KafkaResult<()> {
        while self.client.in_flight_count() > 0 && Instant::now() < deadline {
            self.client.poll(EVENTS);
        }
        // Past the deadline the commit would time out as well; flushing for no time says whether that is so.
        self.client.flush(Duration::ZERO)
    }

    /// Adds the group's next offsets to the transaction.
    fn send_offsets(
        &self,
        offsets: &TopicPartitionList,
        group: &ConsumerGroupMetadata,
        deadline: Instant,
    ) -> KafkaResult<()> {
        self.repeat(Some(deadline), || self.client.send_offsets_to_transaction(offsets, group, CALL_MAX))
    }

    /// Commits. A commit that was asked for cannot be taken back: it is asked for until there is an answer, or shutdown.
    pub(super) fn commit(&self) -> KafkaResult<Ends> {
        self.repeat(None, || self.client.commit_transaction(CALL_MAX))?;
        let ends = std::mem::take(&mut self.delivered().ends);
        let of_topic = |(topic, ends): (String, HashMap<i32, i64>)| {
            let topic: std::sync::Arc<str> = topic.into();
            ends.into_iter().map(move |(partition, end)| (TopicPartition { topic: topic.clone(), partition }, end))
        };
        Ok(ends.into_iter().flat_map(of_topic).collect())
    }

    /// Aborts; what waits to be sent is dropped.
    pub(crate) fn abort(&self) -> KafkaResult<()> {
        self.repeat(None, || self.client.abort_transaction(CALL_MAX))?;
        // Serves the reports of what was dropped, so that they are not taken for the next transaction's.
        self.client.flush(CALL_MAX)
    }

    /// Why a record was not delivered, when that is why a transaction can't be committed.
    pub(crate) fn failure(&self) -> Option<KafkaError> {
        self.delivered().failure.take()
    }

    /// Whether the client has stopped for good because another process has its id.
    fn is_fenced(&self) -> bool {
        let fatal = self.client.client().fatal_error();
        fatal.is_some_and(|(code, _)| is_fenced(&KafkaError::Global(code)))
    }

    fn repeat(&self, deadline: Option<Instant>, mut call: impl FnMut() -> KafkaResult<()>) -> KafkaResult<()> {
        loop {
            // Events are served on the way: errors of the client, reports of records.
            self.client.poll(Duration::ZERO);
            let Err(error) = call() else { return Ok(()) };
            let is_late = deadline.is_some_and(|deadline| Instant::now() >= deadline) || self.shutdown.is_cancelled();
            if disposition(&error) != Disposition::Retry || is_late {
                return Err(error);
            }
            self.client.poll(EVENTS);
        }
    }

    fn delivered(&self) -> std::sync::MutexGuard<'_, Delivered> {
        self.client.context().0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
