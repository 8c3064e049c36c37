//! Where an assigned partition continues: the group's offset with its gaps, and what holds the partition.

use std::{collections::BTreeMap, sync::Arc};

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
    topic_id,
    topics::ANSWER_MAX,
};

/// What was found for a partition.
pub(super) enum Claim {
    /// It continues here, in this state. What was kept of it before is of another topic of that name where this one was made anew.
    At { start: i64, offsets: Offsets, state: PartitionState, kept: Option<Box<PartitionState>>, is_anew: bool },
    /// What is to come next is not in the log: retention has removed it, or the log was cut. Going on elsewhere is an
    /// operator's decision (`kafka-consumer-groups --reset-offsets`). The state is the one that was kept.
    OutOfRange { committed: i64, low: i64, high: i64, state: PartitionState },
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
    let mut topic_ids = BTreeMap::new();
    for (topic, _) in wanted {
        if !topic_ids.contains_key(topic) {
            topic_ids.insert(Arc::clone(topic), topic_id::fetch(consumer, topic)?);
        }
    }
    let mut claims = Vec::with_capacity(wanted.len());
    for of in wanted {
        let (low, high) = consumer.fetch_watermarks(&of.0, of.1, ANSWER_MAX)?;
        let found = committed.find_partition(&of.0, of.1);
        let (next, metadata) = match found.as_ref().map(|found| (found.offset(), found.metadata())) {
            Some((Offset::Offset(offset), metadata)) => (offset, metadata),
            _ if start == Start::Earliest => (low, ""),
            _ => (high, ""),
        };
        let topic_id = topic_ids[&of.0].as_ref();
        let kept = states.remove(&partition_key(&of.0, of.1));
        let is_anew = kept.as_ref().is_some_and(|kept| topic_id::differ(kept.topic_id.as_deref(), topic_id));
        let mut state = kept.clone().filter(|_| !is_anew).unwrap_or_else(|| PartitionState::new(&of.0, of.1));
        state.topic_id = topic_id.map(|id| id.as_str().to_owned());
        if next < low || next > high {
            claims.push((of.clone(), Claim::OutOfRange { committed: next, low, high, state }));
            continue;
        }
        state.out_of_range = None;
        let offsets = Offsets::resume(next, metadata);
        state.forget_below(next, |offset| offsets.is_done(offset));
        claims.push((of.clone(), Claim::At { start: next, offsets, state, kept: kept.map(Box::new), is_anew }));
    }
    Ok(claims)
}
