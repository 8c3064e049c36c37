//! A dead letter read back: where its record stood and why it is here, and the record as it was.

use std::borrow::Cow;

use crate::record::RecordHeader;

use super::letter::REDRIVE_COUNT;

const TOPIC: &str = "kafka_dlt-original-topic";
const PARTITION: &str = "kafka_dlt-original-partition";
const OFFSET: &str = "kafka_dlt-original-offset";
const TIMESTAMP: &str = "kafka_dlt-original-timestamp";
const GROUP: &str = "kafka_dlt-consumer-group";
const MESSAGE: &str = "kafka_dlt-exception-message";
const REASON: &str = "dlq-reason";
const VALUE_BYTES: &str = "dlq-value-bytes";
const VALUE_SHA256: &str = "dlq-value-sha256";
const ADDED: [&str; 9] = [TOPIC, PARTITION, OFFSET, TIMESTAMP, GROUP, MESSAGE, REASON, VALUE_BYTES, VALUE_SHA256];

/// What a dead letter says of its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Source topic.
    pub topic: String,
    /// Partition of it.
    pub partition: i32,
    /// Offset in it.
    pub offset: i64,
    /// Group that could not use it.
    pub group: String,
    /// Why, for programs.
    pub reason: String,
    /// Why, for people.
    pub message: String,
    /// How often it was given back to its source topic.
    pub redrive_count: u64,
    /// The broker refused the value for its size: the letter does not have it, and cannot be given back.
    pub lacks_value: bool,
}

impl Origin {
    /// Reads the headers that [`super::Letter`] adds; `None` when the record is no dead letter of this library.
    pub fn read(headers: &[RecordHeader]) -> Option<Self> {
        let text = |name: &str| {
            let (_, value) = headers.iter().rev().find(|(key, _)| key == name.as_bytes())?;
            value.as_deref().map(String::from_utf8_lossy).map(Cow::into_owned)
        };
        Some(Self {
            topic: text(TOPIC)?,
            partition: text(PARTITION)?.parse().ok()?,
            offset: text(OFFSET)?.parse().ok()?,
            group: text(GROUP)?,
            reason: text(REASON)?,
            message: text(MESSAGE).unwrap_or_default(),
            redrive_count: text(REDRIVE_COUNT).and_then(|count| count.parse().ok()).unwrap_or_default(),
            lacks_value: text(VALUE_SHA256).is_some() && text(VALUE_BYTES).is_some(),
        })
    }
}

/// The headers with which a letter's record goes back to its source topic: those it had there, and `dlq-redrive-count`, one
/// more than before. A record that was a dead letter of another topic before keeps what that says.
pub fn redrive_headers(headers: &[RecordHeader], redrive_count: u64) -> Vec<RecordHeader> {
    let last = |name: &str| headers.iter().rposition(|(key, _)| key == name.as_bytes());
    let added: Vec<usize> = ADDED.iter().filter_map(|name| last(name)).collect();
    let is_own = |(at, (key, _)): &(usize, &RecordHeader)| !added.contains(at) && key != REDRIVE_COUNT.as_bytes();
    let own = headers.iter().enumerate().filter(is_own).map(|(_, header)| header.clone());
    own.chain([(REDRIVE_COUNT.into(), Some((redrive_count + 1).to_string().into()))]).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rdkafka::message::Headers as _;

    use super::super::letter::{Form, Letter};
    use super::*;

    fn letter(own: &[(&str, &str)], form: Form) -> Vec<RecordHeader> {
        let headers = own.iter().map(|(name, value)| (name.as_bytes(), Some(value.as_bytes()))).collect();
        let (key, value, reason, message) = (None, Some(&b"v"[..]), "why", "what");
        let letter = Letter { partition: 3, offset: 7, timestamp_ms: Some(5), key, value, headers, reason, message };
        let headers = letter.headers("t", "g", form);
        let copied = |value: &[u8]| Bytes::copy_from_slice(value);
        headers.as_borrowed().iter().map(|header| (copied(header.key.as_bytes()), header.value.map(copied))).collect()
    }

    #[test]
    fn what_a_letter_says_is_read_back_and_its_record_is_as_it_was() {
        for (own, form, count, lacks_value) in [
            (&[("a", "1")][..], Form::Whole, 0, false),
            (&[("kafka_dlt-original-topic", "older"), ("dlq-redrive-count", "2")], Form::Whole, 2, false),
            (&[], Form::WithoutValue, 0, true),
        ] {
            let headers = letter(own, form);
            let origin = Origin::read(&headers).expect("a letter");
            assert_eq!((origin.topic.as_str(), origin.partition, origin.offset), ("t", 3, 7));
            assert_eq!((origin.group.as_str(), origin.reason.as_str(), origin.message.as_str()), ("g", "why", "what"));
            assert_eq!((origin.redrive_count, origin.lacks_value), (count, lacks_value), "{own:?}");
            let back: Vec<_> = redrive_headers(&headers, origin.redrive_count);
            let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
            let back: Vec<_> =
                back.iter().map(|(name, value)| (text(name), text(value.as_ref().expect("a value")))).collect();
            let kept = own.iter().filter(|(name, _)| *name != "dlq-redrive-count");
            let mut expected: Vec<_> = kept.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            expected.push(("dlq-redrive-count".to_owned(), (count + 1).to_string()));
            assert_eq!(back, expected);
        }
        assert_eq!(Origin::read(&[(Bytes::from("a"), None)]), None);
    }
}
