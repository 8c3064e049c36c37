use std::sync::Arc;

use rdkafka::message::{OwnedMessage, Timestamp};
use shared::ids::SiteId;

use super::*;
use crate::{batch::Tenure, decode::Kind};

/// A batch of two partitions whose offsets rise from 10, polled in turns, and what each record says: the later its offset, the
/// earlier its source committed.
fn prepared(records: i64) -> (Prepared, [Arc<Tenure>; 2]) {
    let tenures = [0, 1].map(|partition| Arc::new(Tenure::new(partition, 1, 0, None)));
    let mut batch = Batch::default();
    for offset in 10..10 + records {
        for partition in [1, 0] {
            let key = Some(format!("{partition}-{offset}").into_bytes());
            let message =
                OwnedMessage::new(None, key, "t".to_owned(), Timestamp::CreateTime(0), partition, offset, None);
            batch.push(&message, &[]);
        }
    }
    tenures.iter().for_each(|tenure| batch.advance(tenure, 10, 10 + records));
    let prepared = Prepared::new(batch, |batch, index| {
        let record = &batch.records[index];
        let site_id = SiteId::new(format!("{}-{}", record.partition, record.offset)).expect("an id");
        let committed_at_ms = Some(1000 - record.offset);
        Ok(Some(Event { site_id, kind: Kind::Tombstone, source_position: None, committed_at_ms }))
    });
    (prepared, tenures)
}

fn places<'r>(records: impl IntoIterator<Item = &'r Decoded>) -> Vec<(i32, i64)> {
    records.into_iter().map(|record| (record.partition, record.offset)).collect()
}

#[test]
fn records_are_attempted_as_they_were_polled_whatever_their_time() {
    let (prepared, _) = prepared(3);
    assert_eq!(places(prepared.attempted()), [(1, 10), (0, 10), (1, 11), (0, 11), (1, 12), (0, 12)]);
}

#[test]
fn what_the_view_has_already_is_left_out() {
    let (prepared, _) = prepared(3);
    let reached = |offsets: [i64; 2]| HashMap::from([(0, offsets[0]), (1, offsets[1])]);
    assert_eq!(places(prepared.attempted_from(&reached([10, 10]))).len(), 6);
    assert_eq!(places(prepared.attempted_from(&reached([11, 13]))), [(0, 11), (0, 12)]);
    assert!(prepared.attempted_from(&reached([13, 99])).is_empty());
}

#[test]
fn what_was_revoked_is_abandoned_and_the_rest_is_not() {
    let (mut prepared, tenures) = prepared(2);
    tenures[1].end();
    prepared.drop_ended();
    assert_eq!(prepared.parts().iter().map(|part| part.tenure.partition).collect::<Vec<_>>(), [0]);
    assert_eq!(places(prepared.attempted()), [(0, 10), (0, 11)]);
    tenures[0].end();
    prepared.drop_ended();
    assert!(prepared.is_empty() && prepared.attempted().is_empty());
}

#[test]
fn a_partition_stands_at_its_first_record_that_is_not_attempted() {
    let (mut prepared, tenures) = prepared(2);
    assert_eq!(prepared.next_offsets(), HashMap::from([(0, 12), (1, 12)]));
    assert_eq!(prepared.refused(), Refused::Narrowed);
    assert_eq!(places(prepared.attempted()), [(1, 10), (0, 10)]);
    assert_eq!(prepared.next_offsets(), HashMap::from([(0, 11), (1, 11)]));
    let stored = tenures.map(|tenure| NextPosition { tenure, next_offset: 11, as_of: None, blocked: None });
    assert_eq!(prepared.stored(&stored), 2);
    assert_eq!(prepared.parts().iter().map(|part| part.from_offset).collect::<Vec<_>>(), [11, 11]);
}
