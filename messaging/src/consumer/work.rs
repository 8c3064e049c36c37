//! What runs beside the loop: an attempt in the handler, a delivery to a retry topic or to the dead letters. Each is a task
//! that owns what it needs and reports once.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    producer::{FutureProducer, FutureRecord},
};
use tokio::time::{Instant, timeout};

use super::{
    handler::{HandleError, RecordHandler},
    observe::{Metrics, Outcome},
};
use crate::{
    dead_letter::{DeadLetters, Letter},
    record::Record,
    retry::retry_headers,
};

/// How long a delivery waits for its answer before it says that there is none yet.
const DELIVERY_WAIT: Duration = Duration::from_secs(5);
/// Pause before a delivery that was refused is tried again.
const DELIVERY_RETRY: Duration = Duration::from_millis(500);

/// What a task reports.
pub(super) enum Done {
    /// The handler's answer.
    Handled(Result<(), HandleError>),
    /// The record stands elsewhere now.
    Moved(Outcome),
}

/// A place in a retry topic, and when to be tried there.
pub(super) struct Onward {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) delay: Duration,
}

/// What deliveries need.
#[derive(Clone)]
pub(super) struct Deliveries {
    pub(super) letters: Arc<DeadLetters>,
    pub(super) producer: FutureProducer,
    pub(super) metrics: Metrics,
}

/// One attempt.
pub(super) async fn handle<H: RecordHandler>(
    handler: Arc<H>,
    record: Arc<Record>,
    handle_max: Duration,
    metrics: Metrics,
) -> Done {
    let began = Instant::now();
    let attempt = timeout(handle_max, AssertUnwindSafe(handler.handle(&record)).catch_unwind()).await;
    metrics.handled_in(began.elapsed());
    Done::Handled(match attempt {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(HandleError::new("panic", "the handler panicked")),
        Err(_) => Err(HandleError::new("timeout", format!("not done within {handle_max:?}"))),
    })
}

impl Deliveries {
    /// Puts a record into the dead letters; does not give up.
    pub(super) async fn bury(self, record: Arc<Record>, reason: String, message: String, outcome: Outcome) -> Done {
        let letter = letter(&record, &reason, &message);
        loop {
            let answers = self.letters.deliver(std::slice::from_ref(&letter), DELIVERY_WAIT).await;
            match answers.into_iter().next() {
                Some(Ok(())) | None => return Done::Moved(outcome),
                Some(Err(error)) => self.failed(&record, &error).await,
            }
        }
    }

    /// Puts a record into a retry topic; does not give up. One that has become too large by its headers is a dead letter.
    pub(super) async fn send_on(self, record: Arc<Record>, onward: Onward, error: HandleError) -> Done {
        loop {
            let headers = retry_headers(&record, onward.delay, jiff::Timestamp::now().as_millisecond());
            let mut message =
                FutureRecord::<[u8], [u8]>::to(&onward.topic).partition(onward.partition).headers(headers);
            (message.key, message.payload) = (record.key.as_deref(), record.value.as_deref());
            let sent = match self.producer.send_result(message) {
                // The client keeps it until the broker has answered, so this is waited for without end: sending it again
                // would let it stand twice.
                Ok(delivery) => delivery
                    .await
                    .map_or(Err(KafkaError::Canceled), |answer| answer.map_err(|(error, _)| error).map(drop)),
                Err((error, _)) => Err(error),
            };
            match sent {
                Ok(()) => return Done::Moved(Outcome::RetryTopic),
                Err(refused) if is_too_large(&refused) => {
                    return self.bury(record, error.class.into_owned(), error.message, Outcome::DeadLettered).await;
                }
                Err(refused) => self.failed(&record, &refused).await,
            }
        }
    }

    async fn failed(&self, record: &Record, error: &(dyn std::error::Error + Sync)) {
        let place = &record.place;
        self.metrics.delivery_failure();
        tracing::error!(topic = %place.topic, partition = place.partition, offset = place.offset, error = %error,
            "a record that cannot be handled could not be moved on; its place in the partition is kept");
        tokio::time::sleep(DELIVERY_RETRY).await;
    }
}

/// A letter says where the record stood first, whichever retry topic it comes from.
fn letter<'a>(record: &'a Record, reason: &'a str, message: &'a str) -> Letter<'a> {
    let header = |(name, value): &'a (bytes::Bytes, Option<bytes::Bytes>)| (&name[..], value.as_deref());
    Letter {
        partition: record.trail.origin.partition,
        offset: record.trail.origin.offset,
        timestamp_ms: record.trail.origin_timestamp_ms,
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: record.headers.iter().map(header).collect(),
        reason,
        message,
    }
}

fn is_too_large(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(code, Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize))
}
