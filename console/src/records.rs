//! Single records, looked up on demand and shown redacted. Blocks.

use std::time::{Duration, Instant};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use messaging::settings::Settings;
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    board::rfc3339,
    fingerprint::Fingerprint,
    letter::{Raw, kind, origin},
    redaction::{Redaction, Shown},
    survey::{ANSWER_MAX, onlooker},
};

/// Time for one look-up.
const LOOK_MAX: Duration = Duration::from_secs(10);
/// Records that are looked at for one page of letters; the next page goes on behind them.
const SCANNED_MAX: usize = 100_000;
/// Bytes of a value that are shown.
const SHOWN_BYTES_MAX: usize = 64 << 10;
const POLL: Duration = Duration::from_millis(100);

/// A record as it is shown.
#[derive(Debug, Serialize)]
pub(crate) struct Record {
    topic: String,
    partition: i32,
    offset: i64,
    /// RFC 3339.
    timestamp: Option<String>,
    key: Option<String>,
    headers: Vec<(String, Option<String>)>,
    value_bytes: Option<usize>,
    value: ShownValue,
    /// Its kind, when it is a dead letter.
    fingerprint: Option<Fingerprint>,
}

/// A value, by what it turned out to be.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ShownValue {
    /// A tombstone, or a letter whose value the broker refused.
    None,
    /// The rules hide it.
    Hidden,
    Json(Value),
    Text(String),
    Base64(String),
    /// Longer than is shown: its beginning, what is no text replaced.
    Beginning(String),
}

/// Where a page of letters goes on: partition and offset.
pub(crate) type Cursor = (i32, i64);

/// The record at an offset; `None` when there is none (any more), or a reader of committed records may not see it.
pub(crate) fn one(
    settings: &Settings,
    redaction: &Redaction,
    topic: &str,
    partition: i32,
    offset: i64,
) -> KafkaResult<Option<Record>> {
    Ok(raw(settings, topic, partition, offset)?.map(|raw| show(redaction, topic, raw)))
}

/// The same as it is, for those who do not show it.
pub(crate) fn raw(settings: &Settings, topic: &str, partition: i32, offset: i64) -> KafkaResult<Option<Raw>> {
    let consumer = onlooker(settings, &[])?;
    let (low, high) = consumer.fetch_watermarks(topic, partition, ANSWER_MAX)?;
    if !(low..high).contains(&offset) {
        return Ok(None);
    }
    let mut found = None;
    read(&consumer, topic, partition, offset..high, |raw| {
        found = (raw.offset == offset).then_some(raw);
        false
    })?;
    Ok(found)
}

/// Letters of a kind, or of all, from a cursor on; and where the next page begins.
pub(crate) fn letters(
    settings: &Settings,
    redaction: &Redaction,
    topic: &str,
    fingerprint: Option<&Fingerprint>,
    after: Option<Cursor>,
    limit: usize,
) -> KafkaResult<(Vec<Record>, Option<Cursor>)> {
    let consumer = onlooker(settings, &[])?;
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER_MAX)?;
    let found = metadata.topics().first().filter(|found| found.error().is_none());
    let found = found.ok_or(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition))?;
    let (from, mut offset) = after.unwrap_or_default();
    let (mut shown, mut scanned) = (Vec::new(), 0);
    for partition in found.partitions().iter().map(|of| of.id()).filter(|of| *of >= from) {
        let (low, high) = consumer.fetch_watermarks(topic, partition, ANSWER_MAX)?;
        let start = if partition == from { offset.max(low) } else { low };
        offset = start;
        read(&consumer, topic, partition, start..high, |raw| {
            scanned += 1;
            offset = raw.offset + 1;
            let kind = origin(topic, &raw.headers).map(|origin| kind(&origin).0);
            if fingerprint.is_none() || kind.as_ref() == fingerprint {
                shown.push(Record { fingerprint: kind, ..show(redaction, topic, raw) });
            }
            shown.len() < limit && scanned < SCANNED_MAX
        })?;
        if shown.len() >= limit || scanned >= SCANNED_MAX {
            return Ok((shown, Some((partition, offset))));
        }
    }
    Ok((shown, None))
}

/// Reads a range of offsets in order, as long as `each` wants more.
fn read(
    consumer: &BaseConsumer,
    topic: &str,
    partition: i32,
    range: std::ops::Range<i64>,
    mut each: impl FnMut(Raw) -> bool,
) -> KafkaResult<()> {
    if range.is_empty() {
        return Ok(());
    }
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(range.start))?;
    consumer.assign(&list)?;
    let deadline = Instant::now() + LOOK_MAX;
    while Instant::now() < deadline {
        match consumer.poll(POLL) {
            Some(Ok(message)) if message.offset() < range.end => {
                let is_last = message.offset() + 1 >= range.end;
                if !each(Raw::of(&message)) || is_last {
                    return Ok(());
                }
            }
            Some(Ok(_)) | Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
            Some(Err(error @ KafkaError::MessageConsumption(RDKafkaErrorCode::TopicAuthorizationFailed))) => {
                return Err(error);
            }
            Some(Err(_)) | None => {}
        }
    }
    Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut))
}

fn show(redaction: &Redaction, topic: &str, raw: Raw) -> Record {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let header = |(name, value): &(bytes::Bytes, Option<bytes::Bytes>)| {
        let name = text(name);
        let value = value.as_ref().map(|value| redaction.header(topic, &name, text(value)));
        (name, value)
    };
    let origin = origin(topic, &raw.headers);
    Record {
        topic: topic.to_owned(),
        partition: raw.partition,
        offset: raw.offset,
        timestamp: raw.timestamp_ms.map(rfc3339),
        key: raw.key.as_ref().map(|key| redaction.key(topic, text(key))),
        headers: raw.headers.iter().map(header).collect(),
        value_bytes: raw.value.as_ref().map(bytes::Bytes::len),
        value: shown_value(redaction, topic, raw.value.as_deref()),
        fingerprint: origin.map(|origin| kind(&origin).0),
    }
}

/// A value as it may be shown.
pub(crate) fn shown_value(redaction: &Redaction, topic: &str, value: Option<&[u8]>) -> ShownValue {
    let Some(value) = value else { return ShownValue::None };
    match redaction.value(topic, value) {
        Shown::Hidden => ShownValue::Hidden,
        Shown::Json(json) if value.len() <= SHOWN_BYTES_MAX => ShownValue::Json(json),
        Shown::Json(json) => ShownValue::Beginning(beginning(json.to_string().as_bytes())),
        Shown::Bytes(bytes) if bytes.len() > SHOWN_BYTES_MAX => ShownValue::Beginning(beginning(&bytes)),
        Shown::Bytes(bytes) => match String::from_utf8(bytes) {
            Ok(text) => ShownValue::Text(text),
            Err(error) => ShownValue::Base64(BASE64_STANDARD.encode(error.as_bytes())),
        },
    }
}

fn beginning(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN_BYTES_MAX)]).into_owned()
}
