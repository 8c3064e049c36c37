//! The groups of a cluster, their members, and up to where they have committed: for those who look on, and join none.
//!
//! `rdkafka` tells neither groups of both protocols nor the offsets of a group that one is not in; these are librdkafka's own
//! calls (rdkafka.h, Admin API: ListConsumerGroups, DescribeConsumerGroups, ListConsumerGroupOffsets). All of them block.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, c_char},
    ptr, slice,
};

use rdkafka::{
    bindings::{
        rd_kafka_ConsumerGroupDescription_error, rd_kafka_ConsumerGroupDescription_group_id,
        rd_kafka_ConsumerGroupDescription_member, rd_kafka_ConsumerGroupDescription_member_count,
        rd_kafka_ConsumerGroupDescription_state, rd_kafka_ConsumerGroupDescription_t,
        rd_kafka_ConsumerGroupListing_group_id, rd_kafka_DescribeConsumerGroups,
        rd_kafka_DescribeConsumerGroups_result_groups, rd_kafka_ListConsumerGroupOffsets,
        rd_kafka_ListConsumerGroupOffsets_destroy, rd_kafka_ListConsumerGroupOffsets_new,
        rd_kafka_ListConsumerGroupOffsets_result_groups, rd_kafka_ListConsumerGroups,
        rd_kafka_ListConsumerGroups_result_valid, rd_kafka_MemberAssignment_partitions,
        rd_kafka_MemberDescription_assignment, rd_kafka_MemberDescription_client_id, rd_kafka_MemberDescription_host,
        rd_kafka_MemberDescription_t, rd_kafka_admin_op_t, rd_kafka_consumer_group_state_t, rd_kafka_error_code,
        rd_kafka_event_DescribeConsumerGroups_result, rd_kafka_event_ListConsumerGroupOffsets_result,
        rd_kafka_event_ListConsumerGroups_result, rd_kafka_event_error, rd_kafka_group_result_error,
        rd_kafka_group_result_partitions, rd_kafka_resp_err_t, rd_kafka_t, rd_kafka_topic_partition_list_t,
    },
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, KafkaResult},
    types::RDKafkaErrorCode,
};

use crate::native::{answer, no_error};

/// A group as its coordinator describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: GroupState,
    /// Who is in it.
    pub members: Vec<Member>,
}

/// What a group is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupState {
    /// Members come or go, or are being given their partitions.
    Rebalancing,
    /// Every member has its partitions.
    Stable,
    /// There are no members.
    Empty,
    /// The coordinator says something that this library does not know.
    Unknown,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// `client.id` as it was configured.
    pub client_id: String,
    /// Where it runs, as the broker sees it.
    pub host: String,
    /// Its partitions.
    pub partitions: Vec<(String, i32)>,
}

/// Names of all consumer groups that the brokers know. Those of a broker that does not answer are missing.
pub fn names(client: &BaseConsumer<impl ConsumerContext>) -> KafkaResult<Vec<String>> {
    list(client.client().native_ptr()).map_err(failed)
}

/// Describes groups; one that its coordinator does not describe is left out.
pub fn describe(client: &BaseConsumer<impl ConsumerContext>, groups: &[String]) -> KafkaResult<Vec<Group>> {
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<CString> = groups.iter().map(|name| CString::new(name.as_str())).collect::<Result<_, _>>()?;
    described(client.client().native_ptr(), &names).map_err(failed)
}

/// The next offsets that a group has committed, by topic and partition.
pub fn offsets(client: &BaseConsumer<impl ConsumerContext>, group: &str) -> KafkaResult<BTreeMap<(String, i32), i64>> {
    let name = CString::new(group)?;
    committed(client.client().native_ptr(), &name).map_err(failed)
}

fn failed(code: rd_kafka_resp_err_t) -> KafkaError {
    KafkaError::GroupListFetch(RDKafkaErrorCode::from(code))
}

fn list(client: *mut rd_kafka_t) -> Result<Vec<String>, rd_kafka_resp_err_t> {
    // SAFETY: `client` is borrowed for the call. What the answer's calls give is owned by the event, which outlives it.
    unsafe {
        let event = answer(client, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPS, |options, queue| {
            rd_kafka_ListConsumerGroups(client, options, queue);
        })?;
        no_error(rd_kafka_event_error(event.get()))?;
        let (result, mut count) = (rd_kafka_event_ListConsumerGroups_result(event.get()), 0);
        let found = rd_kafka_ListConsumerGroups_result_valid(not_null(result)?, &raw mut count);
        let name = |listing: &*const _| text(rd_kafka_ConsumerGroupListing_group_id(*listing));
        Ok(elements(found, count).iter().map(name).collect())
    }
}

fn described(client: *mut rd_kafka_t, names: &[CString]) -> Result<Vec<Group>, rd_kafka_resp_err_t> {
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: as in `list`; the names are copied by the request.
    unsafe {
        let event = answer(client, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS, |options, queue| {
            rd_kafka_DescribeConsumerGroups(client, pointers.as_mut_ptr(), pointers.len(), options, queue);
        })?;
        no_error(rd_kafka_event_error(event.get()))?;
        let (result, mut count) = (rd_kafka_event_DescribeConsumerGroups_result(event.get()), 0);
        let found = rd_kafka_DescribeConsumerGroups_result_groups(not_null(result)?, &raw mut count);
        Ok(elements(found, count).iter().filter_map(|description| group(*description)).collect())
    }
}

/// # Safety
/// `description` is part of an answer that outlives the call.
unsafe fn group(description: *const rd_kafka_ConsumerGroupDescription_t) -> Option<Group> {
    // SAFETY: what these calls give is owned by the description.
    unsafe {
        no_error(rd_kafka_error_code(rd_kafka_ConsumerGroupDescription_error(description))).ok()?;
        let count = rd_kafka_ConsumerGroupDescription_member_count(description);
        Some(Group {
            name: text(rd_kafka_ConsumerGroupDescription_group_id(description)),
            state: state(rd_kafka_ConsumerGroupDescription_state(description)),
            members: (0..count).map(|of| member(rd_kafka_ConsumerGroupDescription_member(description, of))).collect(),
        })
    }
}

fn state(state: rd_kafka_consumer_group_state_t) -> GroupState {
    use rd_kafka_consumer_group_state_t::*;
    match state {
        RD_KAFKA_CONSUMER_GROUP_STATE_PREPARING_REBALANCE | RD_KAFKA_CONSUMER_GROUP_STATE_COMPLETING_REBALANCE => {
            GroupState::Rebalancing
        }
        RD_KAFKA_CONSUMER_GROUP_STATE_STABLE => GroupState::Stable,
        RD_KAFKA_CONSUMER_GROUP_STATE_EMPTY | RD_KAFKA_CONSUMER_GROUP_STATE_DEAD => GroupState::Empty,
        _ => GroupState::Unknown,
    }
}

/// # Safety
/// `member` is part of an answer that outlives the call.
unsafe fn member(member: *const rd_kafka_MemberDescription_t) -> Member {
    // SAFETY: what these calls give is owned by the member; an assignment may be missing.
    unsafe {
        let assignment = rd_kafka_MemberDescription_assignment(member);
        let list = if assignment.is_null() { ptr::null() } else { rd_kafka_MemberAssignment_partitions(assignment) };
        Member {
            client_id: text(rd_kafka_MemberDescription_client_id(member)),
            host: text(rd_kafka_MemberDescription_host(member)),
            partitions: partitions(list).map(|(topic, partition, _)| (topic, partition)).collect(),
        }
    }
}

fn committed(client: *mut rd_kafka_t, group: &CString) -> Result<BTreeMap<(String, i32), i64>, rd_kafka_resp_err_t> {
    // SAFETY: as in `list`; the name is copied by the request's constructor. Without a list of partitions all are meant.
    unsafe {
        let asked = rd_kafka_ListConsumerGroupOffsets_new(group.as_ptr(), ptr::null());
        let asked = crate::native::Owned::new(asked, rd_kafka_ListConsumerGroupOffsets_destroy)?;
        let event =
            answer(client, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS, |options, queue| {
                rd_kafka_ListConsumerGroupOffsets(client, &mut asked.get(), 1, options, queue);
            })?;
        no_error(rd_kafka_event_error(event.get()))?;
        let (result, mut count) = (rd_kafka_event_ListConsumerGroupOffsets_result(event.get()), 0);
        let found = rd_kafka_ListConsumerGroupOffsets_result_groups(not_null(result)?, &raw mut count);
        let Some(found) = elements(found, count).first() else { return Ok(BTreeMap::new()) };
        no_error(rd_kafka_error_code(rd_kafka_group_result_error(*found)))?;
        let told = partitions(rd_kafka_group_result_partitions(*found));
        // A negative offset stands for none.
        Ok(told.filter(|(.., offset)| *offset >= 0).map(|(topic, of, offset)| ((topic, of), offset)).collect())
    }
}

fn not_null<T>(pointer: *const T) -> Result<*const T, rd_kafka_resp_err_t> {
    if pointer.is_null() { Err(rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__BAD_MSG) } else { Ok(pointer) }
}

/// # Safety
/// `first` is null, or points to `count` elements that outlive what is returned.
unsafe fn elements<'a, T>(first: *mut T, count: usize) -> &'a [T] {
    // SAFETY: the caller's promise.
    if first.is_null() { &[] } else { unsafe { slice::from_raw_parts(first, count) } }
}

/// # Safety
/// `list` is null or a list that outlives what is returned.
unsafe fn partitions<'a>(
    list: *const rd_kafka_topic_partition_list_t,
) -> impl Iterator<Item = (String, i32, i64)> + 'a {
    // SAFETY: a list has `cnt` elements from `elems` on, and the name of a topic ends with NUL.
    let all = unsafe {
        if list.is_null() { &[] } else { elements((*list).elems, usize::try_from((*list).cnt).unwrap_or_default()) }
    };
    // SAFETY: as above.
    all.iter().map(|element| unsafe { (text(element.topic), element.partition, element.offset) })
}

/// # Safety
/// `text` is null or ends with NUL.
unsafe fn text(text: *const c_char) -> String {
    // SAFETY: the caller's promise.
    if text.is_null() { String::new() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned() }
}
