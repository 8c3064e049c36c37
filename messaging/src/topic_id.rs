//! Which topic a name stands for: Kafka's topic id (KIP-516). A topic that is deleted and made anew under its old name has
//! another one, and offsets of the one mean nothing in the other.
//!
//! librdkafka follows such a change by itself and goes on fetching at the old offset; only where that offset lies beyond the
//! new log does it report an error (rdkafka_topic.c, `rd_kafka_topic_metadata_update`, says so in a FIXME). So the id has to
//! be compared here. `rdkafka` has no call for it; these are librdkafka's own (rdkafka.h, DescribeTopics, since 2.3).

use std::ffi::CString;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rdkafka::{
    bindings::{
        rd_kafka_DescribeTopics, rd_kafka_DescribeTopics_result_topics, rd_kafka_TopicCollection_destroy,
        rd_kafka_TopicCollection_of_topic_names, rd_kafka_TopicDescription_error, rd_kafka_TopicDescription_topic_id,
        rd_kafka_Uuid_least_significant_bits, rd_kafka_Uuid_most_significant_bits, rd_kafka_admin_op_t,
        rd_kafka_error_code, rd_kafka_event_DescribeTopics_result, rd_kafka_event_error, rd_kafka_event_t,
        rd_kafka_resp_err_t, rd_kafka_t,
    },
    consumer::{Consumer, ConsumerContext},
    error::{KafkaError, KafkaResult},
    types::RDKafkaErrorCode,
};

use crate::native::{Owned, answer, no_error};

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
pub fn fetch<C: ConsumerContext>(consumer: &impl Consumer<C>, topic: &str) -> KafkaResult<Option<TopicId>> {
    let name = CString::new(topic)?;
    let described = describe(consumer.client().native_ptr(), &name);
    described.map_err(|error| KafkaError::MetadataFetch(RDKafkaErrorCode::from(error)))
}

fn describe(client: *mut rd_kafka_t, topic: &CString) -> Result<Option<TopicId>, rd_kafka_resp_err_t> {
    let mut names = [topic.as_ptr()];
    // SAFETY: `client` is a consumer's handle, which the caller borrows for the call; the names are copied by the
    // constructor, and the collection by the request.
    unsafe {
        let collection = rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let collection = Owned::new(collection, rd_kafka_TopicCollection_destroy)?;
        let event = answer(client, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, |options, queue| {
            rd_kafka_DescribeTopics(client, collection.get(), options, queue);
        })?;
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
