//! What a record of a retry topic says about itself, in its headers.
//!
//! `submitTimestamp` (milliseconds since the Unix epoch, the clock of the consumer that sent it there), `backOffTimeMs`,
//! `GH_OriginalTopic` and `GH_RetryAttempt` are Greyhound's. `kafka_original-partition`, `kafka_original-offset` and
//! `kafka_original-timestamp` are Spring's; with them a dead letter names the place at which the record stood first. Numbers
//! are decimal text.

use std::{sync::Arc, time::Duration};

use rdkafka::message::{Header, Headers, OwnedHeaders};

use crate::record::{Place, Record, RecordHeader};

const SUBMITTED: &str = "submitTimestamp";
const BACKOFF: &str = "backOffTimeMs";
const TOPIC: &str = "GH_OriginalTopic";
const ATTEMPT: &str = "GH_RetryAttempt";
const PARTITION: &str = "kafka_original-partition";
const OFFSET: &str = "kafka_original-offset";
const TIMESTAMP: &str = "kafka_original-timestamp";
const OWN: [&str; 7] = [SUBMITTED, BACKOFF, TOPIC, ATTEMPT, PARTITION, OFFSET, TIMESTAMP];

/// A record's way through the retry topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trail {
    /// Where the record stood first.
    pub origin: Place,
    /// Its timestamp there.
    pub origin_timestamp_ms: Option<i64>,
    /// Retry topics that it has been in: 0 in the topic itself.
    pub retry_attempt: u32,
    /// From the broker's append time to the attempt; zero in the topic itself.
    pub backoff: Duration,
}

impl Trail {
    pub(crate) fn begin(origin: Place, origin_timestamp_ms: Option<i64>) -> Self {
        Self { origin, origin_timestamp_ms, retry_attempt: 0, backoff: Duration::ZERO }
    }

    /// Reads and takes away the headers that [`retry_headers`] adds. A record without them was put there by somebody else:
    /// it is due at once, and stood first where it stands.
    pub(crate) fn read(
        headers: Vec<RecordHeader>,
        source: &Arc<str>,
        place: &Place,
        timestamp_ms: Option<i64>,
    ) -> (Self, Vec<RecordHeader>) {
        let (own, rest): (Vec<_>, Vec<_>) =
            headers.into_iter().partition(|(name, _)| OWN.iter().any(|own| name == own.as_bytes()));
        let number = |name: &str| -> Option<i64> {
            let (_, value) = own.iter().rev().find(|(key, _)| key == name.as_bytes())?;
            std::str::from_utf8(value.as_ref()?).ok()?.parse().ok()
        };
        let origin = match (number(PARTITION), number(OFFSET)) {
            (Some(partition), Some(offset)) if i32::try_from(partition).is_ok() => {
                Place { topic: Arc::clone(source), partition: i32::try_from(partition).unwrap_or_default(), offset }
            }
            _ => place.clone(),
        };
        let unsigned = |name: &str| number(name).and_then(|number| u64::try_from(number).ok()).unwrap_or_default();
        let trail = Self {
            origin,
            origin_timestamp_ms: number(TIMESTAMP).filter(|ms| *ms >= 0).or(timestamp_ms),
            retry_attempt: u32::try_from(unsigned(ATTEMPT)).unwrap_or(u32::MAX),
            backoff: Duration::from_millis(unsigned(BACKOFF)),
        };
        (trail, rest)
    }
}

/// Time left until a record is due: broker's append time plus backoff, seen from `now_ms` of this machine's clock. Never
/// more than the backoff: the record was appended before it was read, whatever the clocks say. The broker's milliseconds are
/// cut off, so one is added.
pub(crate) fn delay_of(trail: &Trail, appended_ms: Option<i64>, now_ms: i64) -> Duration {
    let age = appended_ms.map_or(0, |appended| now_ms.saturating_sub(appended)).max(0);
    let backoff = if trail.backoff.is_zero() { Duration::ZERO } else { trail.backoff + Duration::from_millis(1) };
    backoff.saturating_sub(Duration::from_millis(age.unsigned_abs()))
}

/// When a record of a retry topic is due, in Unix milliseconds, for who only looks at it; `None` where its headers do not say.
pub fn due_at(headers: &impl Headers, appended_ms: i64) -> Option<i64> {
    let backoff = headers.iter().filter(|header| header.key == BACKOFF).last()?.value?;
    appended_ms.checked_add(std::str::from_utf8(backoff).ok()?.parse().ok()?)
}

/// Headers with which a record goes to a retry topic: its own, then those of this module.
pub(crate) fn retry_headers(record: &Record, delay: Duration, now_ms: i64) -> OwnedHeaders {
    let own = record.headers.iter().fold(OwnedHeaders::new(), |headers, (name, value)| {
        headers.insert(Header { key: &String::from_utf8_lossy(name), value: value.as_deref() })
    });
    let trail = &record.trail;
    // Never early: a part of a millisecond counts as a whole one.
    let backoff_ms = delay.as_nanos().div_ceil(1_000_000);
    [
        (SUBMITTED, now_ms.to_string()),
        (BACKOFF, backoff_ms.to_string()),
        (TOPIC, trail.origin.topic.to_string()),
        (ATTEMPT, (trail.retry_attempt + 1).to_string()),
        (PARTITION, trail.origin.partition.to_string()),
        (OFFSET, trail.origin.offset.to_string()),
        (TIMESTAMP, trail.origin_timestamp_ms.unwrap_or(-1).to_string()),
    ]
    .iter()
    .fold(own, |headers, (key, value)| headers.insert(Header { key, value: Some(value.as_bytes()) }))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn record() -> Record {
        let place = Place { topic: "t".into(), partition: 3, offset: 7 };
        Record {
            place: place.clone(),
            timestamp_ms: Some(5),
            key: None,
            value: None,
            headers: vec![(Bytes::from("own"), None), (Bytes::from("own"), Some(Bytes::from("1")))],
            trail: Trail::begin(place, Some(5)),
        }
    }

    fn read(headers: &OwnedHeaders) -> (Trail, Vec<RecordHeader>) {
        let copied = |header: Header<'_, &[u8]>| {
            (Bytes::copy_from_slice(header.key.as_bytes()), header.value.map(Bytes::copy_from_slice))
        };
        let headers = headers.as_borrowed().iter().map(copied).collect();
        Trail::read(headers, &"t".into(), &Place { topic: "t-g-retry-0".into(), partition: 0, offset: 0 }, Some(9))
    }

    #[test]
    fn the_way_back_is_read_from_the_headers_and_does_not_grow() {
        let first = record();
        let (trail, rest) = read(&retry_headers(&first, Duration::from_micros(1500), 100));
        assert_eq!((&trail.origin, trail.origin_timestamp_ms, trail.retry_attempt), (&first.place, Some(5), 1));
        assert_eq!((trail.backoff, &rest), (Duration::from_millis(2), &first.headers), "rounded up; its own are kept");
        let sent = retry_headers(&first, Duration::from_secs(3), 100);
        assert_eq!(
            (due_at(sent.as_borrowed(), 1000), due_at(OwnedHeaders::new().as_borrowed(), 1000)),
            (Some(4000), None)
        );
        let second = Record { trail, headers: rest, ..first };
        let (trail, rest) = read(&retry_headers(&second, Duration::from_secs(1), 100));
        assert_eq!((trail.retry_attempt, trail.origin, rest.len()), (2, second.place, 2));
    }

    #[test]
    fn a_record_of_somebody_else_is_due_at_once() {
        let (trail, _) = read(&OwnedHeaders::new());
        assert_eq!((trail.backoff, trail.retry_attempt, trail.origin.offset), (Duration::ZERO, 0, 0));
    }

    #[test]
    fn due_is_the_append_time_and_the_backoff_and_clocks_cannot_lengthen_it() {
        let trail = Trail { backoff: Duration::from_millis(1000), ..record().trail };
        for (appended, now, expected) in [
            (Some(5000), 5000, 1001),
            (Some(5000), 5400, 601),
            (Some(5000), 9000, 0),
            (Some(9000), 5000, 1001),
            (None, 5, 1001),
        ] {
            assert_eq!(delay_of(&trail, appended, now), Duration::from_millis(expected), "{appended:?} {now}");
        }
    }
}
