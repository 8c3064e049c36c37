//! Dead letters: records that a consumer can't use, kept in a topic of their own with every byte they had.
//!
//! Goes in: a record, the reason and a text. Comes out: it is in the dead-letter topic, or it is not yet, and why. Nothing
//! here knows what the records are about.
//!
//! Guarantees. [`DeadLetters::deliver`] says `Ok` only after all in-sync replicas have the letter. A letter for which the
//! broker owes an answer stays under way and is remembered by (partition, offset): asking again waits for that answer and
//! sends nothing, so that without a crash of the process there is one letter per record, however long the broker is away.
//! After a crash the same (partition, offset) may stand twice, and none is missing.
//!
//! A letter stands in the partition of its number where that exists. It has the source's key, value and headers byte for
//! byte, then the headers of [`Letter`]. A value that the broker refuses for its size is replaced by its length and its
//! SHA-256; such a letter may stand behind later ones of its partition.

mod letter;
mod origin;
mod topic;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    producer::{DeliveryFuture, Producer as _},
};
use tokio::{
    sync::Mutex as AsyncMutex,
    time::{Instant, timeout_at},
};

use letter::Form;
pub use letter::Letter;
pub use origin::{Origin, redrive_headers};
use topic::{Names, Open};

/// Why a letter is not in the dead-letter topic yet. The record must wait: its position may not move.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DeadLetterError {
    /// The client refuses its settings.
    #[error("the Kafka client refuses its settings for dead letters: {0}")]
    Settings(KafkaError),
    /// The brokers do not tell what is needed to open the topic.
    #[error("the dead-letter topic {topic} cannot be looked up: {error}")]
    Lookup {
        /// The dead-letter topic.
        topic: String,
        /// Why.
        error: KafkaError,
    },
    /// The topic is missing and cannot be created.
    #[error(
        "the dead-letter topic {topic} is missing and cannot be created: {why}; create it, or grant what is missing"
    )]
    NotCreated {
        /// The dead-letter topic.
        topic: String,
        /// What the broker refused.
        why: String,
    },
    /// The broker refused the letter.
    #[error("the dead-letter topic {topic} refuses the letter: {error}")]
    Refused {
        /// The dead-letter topic.
        topic: String,
        /// Why.
        error: KafkaError,
    },
    /// The answer is still to come; nothing has to be sent again.
    #[error("the dead-letter topic {topic} has not answered yet")]
    Unanswered {
        /// The dead-letter topic.
        topic: String,
    },
}

/// The dead-letter topic of one source topic and one group.
pub struct DeadLetters {
    settings: HashMap<String, String>,
    names: Names,
    /// Opened by the first letter: a consumer without bad records needs no rights and no connections.
    open: Arc<AsyncMutex<Option<Arc<Open>>>>,
    under_way: Mutex<HashMap<(i32, i64), UnderWay>>,
}

/// A letter that was sent and not answered.
struct UnderWay {
    delivery: DeliveryFuture,
    form: Form,
    open: Arc<Open>,
}

impl DeadLetters {
    /// The dead letters of `group` for the records of `source_topic`; asks no broker yet. `settings` are the client's.
    pub fn new(settings: &HashMap<String, String>, source_topic: &str, group: &str) -> Self {
        let names = Names::new(source_topic, group);
        Self { settings: settings.clone(), names, open: Arc::default(), under_way: Mutex::default() }
    }

    /// Name of the topic: `<topic>-<group>-dlq`.
    pub fn topic(&self) -> &str {
        &self.names.dead_letter_topic
    }

    /// Delivers letters, all at once; gives one answer for each, after `wait` at the latest.
    ///
    /// A letter that has been delivered may not be handed in again.
    pub async fn deliver(&self, letters: &[Letter<'_>], wait: Duration) -> Vec<Result<(), DeadLetterError>> {
        let deadline = Instant::now() + wait;
        let open = match self.open(deadline).await {
            Ok(open) => open,
            Err(error) => return letters.iter().map(|_| Err(error.clone())).collect(),
        };
        let highest = letters.iter().map(|letter| letter.partition).max().unwrap_or_default();
        let partitions = open.partitions_for(highest).await;
        let sent: Vec<_> = letters.iter().map(|letter| self.send(&open, letter, Form::Whole, partitions)).collect();
        let mut answers = Vec::with_capacity(letters.len());
        for (letter, sent) in letters.iter().zip(sent) {
            answers.push(match sent {
                Ok(()) => self.answer(letter, partitions, deadline).await,
                Err(error) => Err(error),
            });
        }
        if answers.iter().any(|answer| matches!(answer, Err(DeadLetterError::Refused { .. }))) {
            self.close(&open).await;
        }
        answers
    }

    /// Opens the topic, which goes on when the caller's time is over.
    async fn open(&self, deadline: Instant) -> Result<Arc<Open>, DeadLetterError> {
        let unanswered = || DeadLetterError::Unanswered { topic: self.topic().to_owned() };
        let guard = timeout_at(deadline, Arc::clone(&self.open).lock_owned()).await;
        let mut guard = guard.map_err(|_| unanswered())?;
        if let Some(open) = &*guard {
            return Ok(Arc::clone(open));
        }
        let (settings, names) = (self.settings.clone(), self.names.clone());
        let opening = tokio::spawn(async move {
            let open = Arc::new(topic::open(settings, names).await?);
            *guard = Some(Arc::clone(&open));
            Ok(open)
        });
        match timeout_at(deadline, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(_)) | Err(_) => Err(unanswered()),
        }
    }

    /// After a refusal the topic is looked up again: it may have been deleted, or the client may have failed for good.
    async fn close(&self, refused: &Arc<Open>) {
        let mut open = self.open.lock().await;
        if open.as_ref().is_some_and(|open| Arc::ptr_eq(open, refused)) {
            *open = None;
        }
    }

    /// Sends a letter unless it is under way.
    fn send(&self, open: &Arc<Open>, letter: &Letter<'_>, form: Form, partitions: i32) -> Result<(), DeadLetterError> {
        let mut under_way = self.under_way();
        let place = (letter.partition, letter.offset);
        if under_way.contains_key(&place) {
            return Ok(());
        }
        let headers = letter.headers(&self.names.source_topic, &self.names.group, form);
        let record = letter.record(self.topic(), letter.partition % partitions.max(1), form).headers(headers);
        let delivery = open.producer.send_result(record).map_err(|(error, _)| self.refused(error))?;
        under_way.insert(place, UnderWay { delivery, form, open: Arc::clone(open) });
        Ok(())
    }

    /// Waits for the answer to a letter under way; one whose value is too large is sent again without it.
    async fn answer(&self, letter: &Letter<'_>, partitions: i32, deadline: Instant) -> Result<(), DeadLetterError> {
        let place = (letter.partition, letter.offset);
        loop {
            let Some(mut sent) = self.under_way().remove(&place) else {
                return Err(DeadLetterError::Unanswered { topic: self.topic().to_owned() });
            };
            let Ok(delivery) = timeout_at(deadline, &mut sent.delivery).await else {
                self.under_way().insert(place, sent);
                return Err(DeadLetterError::Unanswered { topic: self.topic().to_owned() });
            };
            match (delivery, sent.form) {
                (Ok(Ok(_)), _) => return Ok(()),
                (Ok(Err((error, _))), Form::Whole) if is_too_large(&error) => {
                    self.send(&sent.open, letter, Form::WithoutValue, partitions)?;
                }
                (Ok(Err((error, _))), _) => {
                    let fatal = sent.open.producer.client().fatal_error();
                    return Err(self.refused(fatal.map_or(error, |(code, _)| KafkaError::MessageProduction(code))));
                }
                // The client was given up before the answer came.
                (Err(_), _) => return Err(self.refused(KafkaError::Canceled)),
            }
        }
    }

    fn refused(&self, error: KafkaError) -> DeadLetterError {
        DeadLetterError::Refused { topic: self.topic().to_owned(), error }
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<(i32, i64), UnderWay>> {
        // Each change is one insertion or removal, so a panic elsewhere leaves the map whole.
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_too_large(error: &KafkaError) -> bool {
    let code = error.rdkafka_error_code();
    matches!(code, Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::InvalidMessageSize))
}
