//! One dead letter as a record of Kafka: the source's bytes, and the headers that say where they come from and why.

use rdkafka::{
    message::{Header, OwnedHeaders},
    producer::FutureRecord,
};
use sha2::{Digest, Sha256};

/// Longest text of `kafka_dlt-exception-message` in bytes; what a parser says may quote the record.
const MESSAGE_BYTES_MAX: usize = 1000;
/// Counts how often a letter was given back to its source topic; kept where the record has it.
pub(super) const REDRIVE_COUNT: &str = "dlq-redrive-count";

/// A record on its way into the dead letters, its bytes borrowed.
///
/// Headers added: `kafka_dlt-original-topic`, `-partition`, `-offset`, `-timestamp` (milliseconds since the Unix epoch, -1
/// where the record has none), `kafka_dlt-consumer-group`, `kafka_dlt-exception-message`, `dlq-reason`, `dlq-redrive-count`;
/// without its value also `dlq-value-bytes` and `dlq-value-sha256` (hexadecimal). Numbers are decimal text.
#[derive(Debug, Clone)]
pub struct Letter<'a> {
    /// Partition of the source topic.
    pub partition: i32,
    /// Offset in it.
    pub offset: i64,
    /// The record's timestamp in milliseconds since the Unix epoch.
    pub timestamp_ms: Option<i64>,
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Value.
    pub value: Option<&'a [u8]>,
    /// Headers in their order; a name may stand twice. One that is not UTF-8, as Kafka's protocol demands, loses those bytes.
    pub headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
    /// Why it is a dead letter, for programs.
    pub reason: &'a str,
    /// Why, for people.
    pub message: &'a str,
}

/// Whether the value goes with the letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Whole,
    /// The broker refuses the value for its size.
    WithoutValue,
}

impl<'a> Letter<'a> {
    pub(super) fn record(&self, topic: &'a str, partition: i32, form: Form) -> FutureRecord<'a, [u8], [u8]> {
        let mut record = FutureRecord::to(topic).partition(partition);
        record.key = self.key;
        record.payload = if form == Form::Whole { self.value } else { None };
        record
    }

    pub(super) fn headers(&self, source_topic: &str, group: &str, form: Form) -> OwnedHeaders {
        let mut headers = OwnedHeaders::new_with_capacity(self.headers.len() + 10);
        for (key, value) in &self.headers {
            headers = headers.insert(Header { key: &String::from_utf8_lossy(key), value: *value });
        }
        let number = |number: i64| number.to_string();
        let mut added = vec![
            ("kafka_dlt-original-topic", source_topic.to_owned()),
            ("kafka_dlt-original-partition", number(self.partition.into())),
            ("kafka_dlt-original-offset", number(self.offset)),
            ("kafka_dlt-original-timestamp", number(self.timestamp_ms.unwrap_or(-1))),
            ("kafka_dlt-consumer-group", group.to_owned()),
            ("kafka_dlt-exception-message", shortened(self.message).to_owned()),
            ("dlq-reason", self.reason.to_owned()),
        ];
        if !self.was_redriven() {
            added.push((REDRIVE_COUNT, number(0)));
        }
        if let (Form::WithoutValue, Some(value)) = (form, self.value) {
            added.push(("dlq-value-bytes", value.len().to_string()));
            added.push(("dlq-value-sha256", hexadecimal(&Sha256::digest(value))));
        }
        added.iter().fold(headers, |headers, (key, value)| headers.insert(Header { key, value: Some(value) }))
    }

    /// Whether the record says itself, as a number, how often it was given back.
    fn was_redriven(&self) -> bool {
        let last = self.headers.iter().rev().find(|(key, _)| *key == REDRIVE_COUNT.as_bytes());
        let text = last.and_then(|(_, value)| std::str::from_utf8((*value)?).ok());
        text.is_some_and(|text| text.parse::<u64>().is_ok())
    }
}

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(MESSAGE_BYTES_MAX)]
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Headers as _;

    use super::*;

    fn letter<'a>(value: Option<&'a [u8]>, headers: &[(&'a [u8], Option<&'a [u8]>)], message: &'a str) -> Letter<'a> {
        Letter {
            partition: 3,
            offset: 7,
            timestamp_ms: Some(5),
            key: None,
            value,
            headers: headers.to_vec(),
            reason: "why",
            message,
        }
    }

    fn headers(letter: &Letter<'_>, form: Form) -> Vec<(String, Option<String>)> {
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).expect("text");
        let headers = letter.headers("t", "g", form);
        headers.as_borrowed().iter().map(|header| (header.key.to_owned(), header.value.map(text))).collect()
    }

    #[test]
    fn the_records_headers_come_first_and_unchanged() {
        let own: [(&[u8], Option<&[u8]>); 3] =
            [(b"a", Some(b"1")), (b"a", None), (b"kafka_dlt-original-topic", Some(b"older"))];
        let found = headers(&letter(Some(b"v"), &own, "what"), Form::Whole);
        let text = |(key, value): (&str, &str)| (key.to_owned(), Some(value.to_owned()));
        let mut expected = vec![text(("a", "1")), ("a".to_owned(), None), text(("kafka_dlt-original-topic", "older"))];
        expected.extend(
            [
                ("kafka_dlt-original-topic", "t"),
                ("kafka_dlt-original-partition", "3"),
                ("kafka_dlt-original-offset", "7"),
                ("kafka_dlt-original-timestamp", "5"),
                ("kafka_dlt-consumer-group", "g"),
                ("kafka_dlt-exception-message", "what"),
                ("dlq-reason", "why"),
                ("dlq-redrive-count", "0"),
            ]
            .map(text),
        );
        assert_eq!(found, expected);
    }

    #[test]
    fn a_number_of_redrives_is_kept_and_anything_else_is_none() {
        for (value, expected) in
            [(Some(&b"2"[..]), &["2"][..]), (Some(b"two"), &["two", "0"]), (Some(b"-1"), &["-1", "0"])]
        {
            let found = headers(&letter(None, &[(REDRIVE_COUNT.as_bytes(), value)], ""), Form::Whole);
            let counts: Vec<_> = found.iter().filter(|(key, _)| key == REDRIVE_COUNT).collect();
            assert_eq!(counts.iter().filter_map(|(_, value)| value.as_deref()).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_value_left_out_is_told_by_its_length_and_hash() {
        let letter = letter(Some(b"abc"), &[], "");
        let found = headers(&letter, Form::WithoutValue);
        let get = |name: &str| found.iter().find(|(key, _)| key == name).and_then(|(_, value)| value.clone());
        assert_eq!(get("dlq-value-bytes").as_deref(), Some("3"));
        // FIPS 180-4, the example of one block.
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(get("dlq-value-sha256").as_deref(), Some(hash));
        assert_eq!(letter.record("t", 0, Form::WithoutValue).payload, None);
        assert!(!headers(&letter, Form::Whole).iter().any(|(key, _)| key.starts_with("dlq-value")));
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let long = "é".repeat(MESSAGE_BYTES_MAX);
        let found = headers(&letter(None, &[], &format!("x{long}")), Form::Whole);
        let (_, message) = found.iter().find(|(key, _)| key == "kafka_dlt-exception-message").expect("there");
        assert_eq!(message.as_ref().map(String::len), Some(MESSAGE_BYTES_MAX - 1));
    }
}
