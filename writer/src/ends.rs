//! How far the log reaches: sampled from the broker, for lag and for the moment up to which the view contains everything.
//!
//! The clock is read first, then the ends of the partitions; a position that has reached such an end contains every change
//! that Kafka had acknowledged at that moment. So `as_of` is a lower bound, whatever the clocks of the source say. Where
//! Debezium's heartbeats are followed, the moment is that of the newest heartbeat instead, which was read before the ends.
//!
//! The end is the high watermark: what the log holds, whether or not a `read_committed` consumer can read it yet. Behind an open
//! transaction such a consumer sees nothing, though others' records there are acknowledged; while it is open, `as_of` stands.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::KafkaResult,
    topic_partition_list::TopicPartitionListElem,
};

use crate::{
    heartbeat::Heartbeats,
    topic_id::{self, TopicId},
};

/// How often the ends are sampled: on an idle system `as_of` moves with each sample, at least once a second.
pub const SAMPLE_INTERVAL: Duration = Duration::from_millis(800);
/// How long a broker may take to tell the ends of one partition.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Samples that a lane keeps until they are reached; further ones are dropped, which makes `as_of` older, never wrong.
const SAMPLES_MAX: usize = 64;

/// Offsets between which a partition has records, as a `read_committed` consumer sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Offset of the oldest record kept.
    pub low: i64,
    /// Offset behind the newest record that can be read.
    pub high: i64,
}

impl Ends {
    /// Whether a position lies in the log: at a record that is kept, or behind the newest.
    pub fn hold(self, next_offset: i64) -> bool {
        (self.low..=self.high).contains(&next_offset)
    }
}

/// The ends of some partitions at one moment.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Read before the ends were; `None` while heartbeats are awaited, so that it lets nobody say anything.
    pub at: Option<Timestamp>,
    /// By partition; the high end is the high watermark.
    pub ends: HashMap<i32, Ends>,
    /// The topic that the ends are of, asked for after them.
    pub topic_id: Option<TopicId>,
}

/// Asks the broker for one partition's ends; blocks for up to five seconds.
pub fn fetch(consumer: &BaseConsumer<impl ConsumerContext>, topic: &str, partition: i32) -> KafkaResult<Ends> {
    let (low, high) = consumer.fetch_watermarks(topic, partition, ANSWER_MAX)?;
    Ok(Ends { low, high })
}

/// Asks for several partitions' ends, at no moment; those that the broker does not tell are left out, and all of them when
/// nobody tells which topic they are of.
pub fn fetch_all(consumer: &BaseConsumer<impl ConsumerContext>, topic: &str, partitions: &[i32]) -> Sample {
    let ends = partitions.iter().filter_map(|&p| fetch(consumer, topic, p).map(|ends| (p, ends)).ok()).collect();
    with_topic_id(consumer, topic, None, ends)
}

/// Samples the ends of these partitions with two requests per broker; those that are not told are left out, as by
/// [`fetch_all`]. `observer` must read uncommitted (see `kafka.rs`).
pub fn sample(
    observer: &BaseConsumer,
    heartbeats: Option<&mut Heartbeats>,
    topic: &str,
    partitions: &[i32],
) -> KafkaResult<Sample> {
    let now = Timestamp::now();
    let at = match heartbeats {
        None => Some(now),
        Some(heartbeats) => heartbeats.read(observer)?.map(|heartbeat| heartbeat.min(now)),
    };
    if partitions.is_empty() {
        return Ok(Sample { at, ..Sample::default() });
    }
    let highs = list_offsets(observer, topic, partitions, Offset::End)?;
    let lows = list_offsets(observer, topic, partitions, Offset::Beginning)?;
    let ends = |(partition, high): (i32, i64)| Some((partition, Ends { low: *lows.get(&partition)?, high }));
    Ok(with_topic_id(observer, topic, at, highs.into_iter().filter_map(ends).collect()))
}

/// Kafka's ListOffsets takes a moment; -1 stands for the newest one and -2 for the oldest (KIP-79).
fn list_offsets(
    observer: &BaseConsumer,
    topic: &str,
    partitions: &[i32],
    moment: Offset,
) -> KafkaResult<HashMap<i32, i64>> {
    let mut asked = TopicPartitionList::new();
    for partition in partitions {
        asked.add_partition_offset(topic, *partition, moment)?;
    }
    let told = observer.offsets_for_times(asked, ANSWER_MAX)?;
    let offset = |element: &TopicPartitionListElem<'_>| match element.offset() {
        Offset::Offset(offset) if element.error().is_ok() => Some((element.partition(), offset)),
        _ => None,
    };
    Ok(told.elements().iter().filter_map(offset).collect())
}

fn with_topic_id(
    consumer: &BaseConsumer<impl ConsumerContext>,
    topic: &str,
    at: Option<Timestamp>,
    ends: HashMap<i32, Ends>,
) -> Sample {
    if ends.is_empty() {
        return Sample { at, ..Sample::default() };
    }
    match topic_id::fetch(consumer, topic) {
        Ok(topic_id) => Sample { at, ends, topic_id },
        Err(error) => {
            tracing::debug!(topic, error = %error, "the brokers do not tell the topic's id; a sample is left out");
            Sample { at, ..Sample::default() }
        }
    }
}

/// The end of every partition of the topic, or `None` when the brokers do not tell all of them. Blocks.
pub fn all(consumer: &BaseConsumer<impl ConsumerContext>, topic: &str) -> Option<BTreeMap<i32, i64>> {
    let metadata = consumer.fetch_metadata(Some(topic), ANSWER_MAX).ok()?;
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    let end = |partition: i32| fetch(consumer, topic, partition).ok().map(|ends| (partition, ends.high));
    partitions.map(|partition| end(partition.id())).collect()
}

/// The samples that a lane has not reached yet, oldest first, and those just reached.
#[derive(Debug, Default)]
pub struct Samples(VecDeque<Arc<Sample>>);

impl Samples {
    /// Adds the newest sample.
    pub fn push(&mut self, sample: Arc<Sample>) {
        if self.0.len() == SAMPLES_MAX {
            self.0.pop_back();
        }
        self.0.push_back(sample);
    }

    /// The moment up to which a partition contains all changes once its position is `next_offset`.
    pub fn as_of(&self, partition: i32, next_offset: i64) -> Option<Timestamp> {
        let reached = |sample: &&Arc<Sample>| sample.ends.get(&partition).is_some_and(|ends| ends.high <= next_offset);
        self.0.iter().rev().find(reached).and_then(|sample| sample.at)
    }

    /// Forgets samples that every one of these positions has reached, but for the newest of them.
    pub fn forget_reached(&mut self, positions: &HashMap<i32, i64>) {
        let reached = |sample: &Sample| {
            let has = |(p, ends): (&i32, &Ends)| positions.get(p).is_none_or(|next_offset| ends.high <= *next_offset);
            sample.ends.iter().all(has)
        };
        while self.0.get(1).is_some_and(|second| reached(second)) {
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(second: i64, high: i64) -> Arc<Sample> {
        let at = Some(Timestamp::from_second(second).expect("a moment"));
        Arc::new(Sample { at, ends: HashMap::from([(0, Ends { low: 0, high })]), topic_id: None })
    }

    #[test]
    fn as_of_is_the_newest_moment_whose_end_is_reached() {
        let mut samples = Samples::default();
        for (second, high) in [(1, 10), (2, 20), (3, 20)] {
            samples.push(sample(second, high));
        }
        let as_of = |offset| samples.as_of(0, offset).map(|at| at.as_second());
        assert_eq!([as_of(9), as_of(10), as_of(19), as_of(20), as_of(99)], [None, Some(1), Some(1), Some(3), Some(3)]);
        assert_eq!(samples.as_of(1, 99), None, "a partition that was not sampled claims nothing");
    }

    #[test]
    fn reached_samples_are_forgotten_but_for_the_newest() {
        let mut samples = Samples::default();
        for second in 0..1000 {
            samples.push(sample(second, second * 10));
        }
        assert_eq!(samples.0.len(), SAMPLES_MAX);
        samples.forget_reached(&HashMap::from([(0, 55)]));
        assert_eq!(samples.as_of(0, 55).map(|at| at.as_second()), Some(5));
        assert_eq!(samples.0.len(), SAMPLES_MAX - 5);
    }
}
