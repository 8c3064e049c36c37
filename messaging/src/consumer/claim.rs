//! Where an assigned partition continues: the group's offset with its gaps, and what holds the partition.

use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{Consumer as _, StreamConsumer},
    error::KafkaResult,
};

use super::{
    config::Start,
    group::{Group, TopicPartition},
    offsets::Offsets,
};
use crate::{
    blocking::{PartitionState, Reader, partition_key},
    topics::ANSWER_MAX,
};

/// What was found for a partition.
pub(super) enum Claim {
    /// It continues here.
    At { start: i64, offsets: Offsets, state: PartitionState },
    /// What is to come next is not in the log: retention has removed it, or the log was cut. Going on elsewhere is an
    /// operator's decision (`kafka-consumer-groups --reset-offsets`).
    OutOfRange { committed: i64, low: i64, high: i64 },
}

/// What was found for each of several partitions.
pub(super) type Claims = Vec<(TopicPartition, Claim)>;

/// Looks all of them up; blocks while it does.
pub(super) fn claim(
    consumer: &StreamConsumer<Group>,
    reader: &Reader,
    wanted: &[TopicPartition],
    start: Start,
) -> KafkaResult<Claims> {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in wanted {
        list.add_partition(topic, *partition);
    }
    let committed = consumer.committed_offsets(list, ANSWER_MAX)?;
    let mut states = reader.states()?;
    let mut claims = Vec::with_capacity(wanted.len());
    for of in wanted {
        let (low, high) = consumer.fetch_watermarks(&of.0, of.1, ANSWER_MAX)?;
        let found = committed.find_partition(&of.0, of.1);
        let (next, metadata) = match found.as_ref().map(|found| (found.offset(), found.metadata())) {
            Some((Offset::Offset(offset), metadata)) => (offset, metadata),
            _ if start == Start::Earliest => (low, ""),
            _ => (high, ""),
        };
        if next < low || next > high {
            claims.push((of.clone(), Claim::OutOfRange { committed: next, low, high }));
            continue;
        }
        let offsets = Offsets::resume(next, metadata);
        let kept = states.remove(&partition_key(&of.0, of.1));
        let mut state = kept.unwrap_or_else(|| PartitionState::new(&of.0, of.1));
        state.forget_below(next, |offset| offsets.is_done(offset));
        claims.push((of.clone(), Claim::At { start: next, offsets, state }));
    }
    Ok(claims)
}
