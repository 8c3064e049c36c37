//! Which topic a name stands for: Kafka's topic id (KIP-516). A topic that is deleted and made anew under its old name has
//! another one, and offsets of the one mean nothing in the other.
//!
//! librdkafka follows such a change by itself and goes on fetching at the old offset; only where that offset lies beyond the
//! new log does it report an error (rdkafka_topic.c, `rd_kafka_topic_metadata_update`, says so in a FIXME). So the id has to
//! be compared here. `rdkafka` has no call for it; these are librdkafka's own (rdkafka.h, DescribeTopics, since 2.3).

use std::{
    ffi::CString,
    ptr::{self, NonNull},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rdkafka::{
    bindings::{
        rd_kafka_AdminOptions_destroy, rd_kafka_AdminOptions_new, rd_kafka_AdminOptions_set_request_timeout,
        rd_kafka_DescribeTopics, rd_kafka_DescribeTopics_result_topics, rd_kafka_TopicCollection_destroy,
        rd_kafka_TopicCollection_of_topic_names, rd_kafka_TopicDescription_error, rd_kafka_TopicDescription_topic_id,
        rd_kafka_Uuid_least_significant_bits, rd_kafka_Uuid_most_significant_bits, rd_kafka_admin_op_t,
        rd_kafka_error_code, rd_kafka_event_DescribeTopics_result, rd_kafka_event_destroy, rd_kafka_event_error,
        rd_kafka_event_t, rd_kafka_queue_destroy, rd_kafka_queue_new, rd_kafka_queue_poll, rd_kafka_resp_err_t,
        rd_kafka_t,
    },
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, KafkaResult},
    types::RDKafkaErrorCode,
};

/// How long the brokers may take for the answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How much longer librdkafka may take to tell that they did not.
const GRACE: Duration = Duration::from_secs(1);

/// Kafka's id of a topic, as its own tools write it: base64 in the alphabet for URLs, 22 characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicId(String);

impl TopicId {
    /// As it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of these 128 bits, as the protocol has them; `None` for zero.
    pub fn of_bits(most_significant: i64, least_significant: i64) -> Option<Self> {
        // Brokers before 2.8 know no ids and send zero.
        let bits = (u128::from(most_significant.cast_unsigned()) << 64) | u128::from(least_significant.cast_unsigned());
        (bits != 0).then(|| Self(URL_SAFE_NO_PAD.encode(bits.to_be_bytes())))
    }
}

/// Whether a position that belongs to `position` lies in another topic than `topic`. Where one of them is not known (old
/// brokers; positions of an older version), nothing speaks against it.
pub fn differ(position: Option<&str>, topic: Option<&TopicId>) -> bool {
    position.zip(topic).is_some_and(|(position, topic)| position != topic.as_str())
}

/// Asks the brokers; blocks for up to six seconds. `None` where the brokers know no ids.
///
/// Errors: the brokers do not answer; there is no such topic; it may not be described.
pub fn fetch(consumer: &BaseConsumer<impl ConsumerContext>, topic: &str) -> KafkaResult<Option<TopicId>> {
    let name = CString::new(topic)?;
    let described = describe(consumer.client().native_ptr(), &name);
    described.map_err(|error| KafkaError::MetadataFetch(RDKafkaErrorCode::from(error)))
}

/// Frees what librdkafka has handed out.
struct Owned<T> {
    pointer: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    fn new(pointer: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Result<Self, rd_kafka_resp_err_t> {
        let pointer = NonNull::new(pointer).ok_or(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__FAIL)?;
        Ok(Self { pointer, destroy })
    }

    fn get(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from the constructor that `destroy` belongs to, and is freed here only.
        unsafe { (self.destroy)(self.pointer.as_ptr()) }
    }
}

fn describe(client: *mut rd_kafka_t, topic: &CString) -> Result<Option<TopicId>, rd_kafka_resp_err_t> {
    let mut names = [topic.as_ptr()];
    // SAFETY: `client` is a consumer's handle, which the caller borrows for the call; the names are copied by the
    // constructor. Each object is freed by its own destructor, in the reverse order of these lines, and the request keeps
    // what it needs: options and collection are copied, and a queue that is gone discards the answer (rdkafka.h, Admin API).
    unsafe {
        let queue = Owned::new(rd_kafka_queue_new(client), rd_kafka_queue_destroy)?;
        let collection = rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let collection = Owned::new(collection, rd_kafka_TopicCollection_destroy)?;
        let options = rd_kafka_AdminOptions_new(client, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let options = Owned::new(options, rd_kafka_AdminOptions_destroy)?;
        let refused = rd_kafka_AdminOptions_set_request_timeout(options.get(), millis(ANSWER_MAX), ptr::null_mut(), 0);
        no_error(refused)?;
        rd_kafka_DescribeTopics(client, collection.get(), options.get(), queue.get());
        let event = rd_kafka_queue_poll(queue.get(), millis(ANSWER_MAX + GRACE));
        let event = NonNull::new(event).ok_or(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__TIMED_OUT)?;
        let event = Owned::new(event.as_ptr(), rd_kafka_event_destroy)?;
        id_in(&event)
    }
}

/// The id in the answer to a request for one topic.
///
/// # Safety
/// `event` is the answer to `rd_kafka_DescribeTopics`.
unsafe fn id_in(event: &Owned<rd_kafka_event_t>) -> Result<Option<TopicId>, rd_kafka_resp_err_t> {
    // SAFETY: what these calls give is owned by the event, which outlives them; a null result, as of an answer of another
    // kind, is looked for before it is used, and so is an empty list.
    unsafe {
        no_error(rd_kafka_event_error(event.get()))?;
        let result = rd_kafka_event_DescribeTopics_result(event.get());
        let (mut count, bad) = (0, rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__BAD_MSG);
        if result.is_null() {
            return Err(bad);
        }
        let topics = rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if topics.is_null() || count == 0 {
            return Err(bad);
        }
        no_error(rd_kafka_error_code(rd_kafka_TopicDescription_error(*topics)))?;
        let id = rd_kafka_TopicDescription_topic_id(*topics);
        match id.is_null() {
            true => Ok(None),
            false => {
                Ok(TopicId::of_bits(rd_kafka_Uuid_most_significant_bits(id), rd_kafka_Uuid_least_significant_bits(id)))
            }
        }
    }
}

fn no_error(code: rd_kafka_resp_err_t) -> Result<(), rd_kafka_resp_err_t> {
    match code {
        rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        error => Err(error),
    }
}

fn millis(limit: Duration) -> i32 {
    i32::try_from(limit.as_millis()).expect("a limit of seconds")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_as_kafkas_tools_write_it_and_zero_is_none() {
        // Kafka's Uuid.METADATA_TOPIC_ID is (0, 1).
        let text = |most, least| TopicId::of_bits(most, least).map(|id| id.0);
        assert_eq!(text(0, 1).as_deref(), Some("AAAAAAAAAAAAAAAAAAAAAQ"));
        assert_eq!(text(-1, -1).as_deref(), Some("_____________________w"));
        assert_eq!(text(0, 0), None);
    }

    #[test]
    fn only_known_ids_differ() {
        let id = TopicId::of_bits(1, 2);
        let same = id.as_ref().map(TopicId::as_str);
        assert!(differ(Some("another"), id.as_ref()));
        assert!(!differ(same, id.as_ref()) && !differ(None, id.as_ref()) && !differ(Some("another"), None));
    }
}
