//! For how long the next record of a group has waited: its timestamp, read from the log. Blocks, for a bounded time.
//!
//! One record of each partition that is behind, at or after the group's offset, as a reader of committed records sees it. What was
//! told of an offset is kept until the group moves on, so a group that stands is read once. What the brokers do not give in
//! time is asked for on, while the others are told, and given up for a while in the end.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use messaging::{retry::due_at, settings::Settings};
use rdkafka::{
    Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaResult,
    message::BorrowedMessage,
};

use crate::{lag::Next, survey::onlooker};

/// Time of one survey that is spent on this.
const LOOK_MAX: Duration = Duration::from_millis(250);
/// Time of the first one: nothing is shown yet, and a verb shows nothing else.
const FIRST_LOOK_MAX: Duration = Duration::from_secs(3);
/// Partitions that are read at once; more are read one after another.
const IN_HAND_MAX: usize = 100;
/// A record that did not come for so long is not waited for: what is left there was removed, or its broker is away.
const READ_MAX: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// Names and meaning: librdkafka, CONFIGURATION.md. One record is wanted, so hardly anything is fetched beyond it; a first
/// batch comes whole, however large (KIP-74).
const OWN: [(&str, &str); 2] = [("fetch.message.max.bytes", "65536"), ("queued.min.messages", "1")];

type TopicPartition = (String, i32);
/// A partition, and the offset from which on a record is wanted.
pub(crate) type Place = (TopicPartition, i64);

/// Who reads, and what was told so far.
pub(crate) struct Ages {
    consumer: BaseConsumer,
    told: BTreeMap<Place, Told>,
    in_hand: BTreeMap<TopicPartition, InHand>,
    /// For the next look.
    look_max: Duration,
}

struct Told {
    next: Next,
    due: Option<i64>,
    /// What was visible then ended here.
    end: i64,
}

struct InHand {
    offset: i64,
    end: i64,
    begun: Instant,
}

impl Ages {
    pub(crate) fn new(settings: &Settings) -> KafkaResult<Self> {
        let consumer = onlooker(settings, &OWN)?;
        Ok(Self { consumer, told: BTreeMap::new(), in_hand: BTreeMap::new(), look_max: FIRST_LOOK_MAX })
    }

    /// Reads what is not known yet; `wanted` are places with the end of what is visible there, above the place.
    pub(crate) fn look(&mut self, wanted: &BTreeMap<Place, i64>) -> KafkaResult<()> {
        let holds = |told: &Told, end: &i64| matches!(told.next, Next::At(_)) || told.end == *end;
        self.told.retain(|place, told| wanted.get(place).is_some_and(|end| holds(told, end)));
        let is_left = |(of, read): &(&TopicPartition, &InHand)| !wanted.contains_key(&((*of).clone(), read.offset));
        let left: Vec<TopicPartition> = self.in_hand.iter().filter(is_left).map(|(of, _)| of.clone()).collect();
        left.iter().try_for_each(|of| self.end(of).map(drop))?;
        let deadline = Instant::now() + std::mem::replace(&mut self.look_max, LOOK_MAX);
        loop {
            self.begin(wanted)?;
            if self.in_hand.is_empty() || Instant::now() >= deadline {
                return Ok(());
            }
            let came = match self.consumer.poll(POLL) {
                Some(Ok(message)) => {
                    let next = message.timestamp().to_millis().map_or(Next::WithoutTimestamp, Next::At);
                    Some(((message.topic().to_owned(), message.partition()), next, due(&message)))
                }
                // An end, which does not say of which topic; or what the client recovers from by itself.
                Some(Err(_)) | None => None,
            };
            match came {
                Some((of, next, due)) => self.tell(&of, next, due)?,
                None => self.see_ends()?,
            }
        }
    }

    /// What is at a place; `None` when nobody has looked yet.
    pub(crate) fn told(&self, place: &Place) -> Option<Next> {
        self.told.get(place).map(|told| told.next)
    }

    /// When the record at a place is due, Unix milliseconds, where it waits for an attempt.
    pub(crate) fn due(&self, place: &Place) -> Option<i64> {
        self.told.get(place)?.due
    }

    /// Begins to read as much as may be, one place of a partition at a time.
    fn begin(&mut self, wanted: &BTreeMap<Place, i64>) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for ((of, offset), end) in wanted {
            if self.in_hand.len() >= IN_HAND_MAX {
                break;
            }
            if self.told.contains_key(&(of.clone(), *offset)) || self.in_hand.contains_key(of) {
                continue;
            }
            list.add_partition_offset(&of.0, of.1, Offset::Offset(*offset))?;
            self.in_hand.insert(of.clone(), InHand { offset: *offset, end: *end, begun: Instant::now() });
        }
        if list.count() == 0 { Ok(()) } else { self.consumer.incremental_assign(&list) }
    }

    /// Positions pass transaction markers, so one at the end without a record says that there is none.
    fn see_ends(&mut self) -> KafkaResult<()> {
        let positions = self.consumer.position()?;
        for element in positions.elements() {
            let of = (element.topic().to_owned(), element.partition());
            let Some(read) = self.in_hand.get(&of) else { continue };
            match element.offset() {
                Offset::Offset(position) if position >= read.end => self.tell(&of, Next::Nothing, None)?,
                _ if read.begun.elapsed() >= READ_MAX => self.tell(&of, Next::Unread, None)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn tell(&mut self, of: &TopicPartition, next: Next, due: Option<i64>) -> KafkaResult<()> {
        if let Some(read) = self.end(of)? {
            self.told.insert((of.clone(), read.offset), Told { next, due, end: read.end });
        }
        Ok(())
    }

    /// Reads a partition no longer.
    fn end(&mut self, of: &TopicPartition) -> KafkaResult<Option<InHand>> {
        let Some(read) = self.in_hand.remove(of) else { return Ok(None) };
        let mut list = TopicPartitionList::new();
        list.add_partition(&of.0, of.1);
        self.consumer.incremental_unassign(&list)?;
        Ok(Some(read))
    }
}

fn due(message: &BorrowedMessage<'_>) -> Option<i64> {
    due_at(message.headers()?, message.timestamp().to_millis()?)
}
