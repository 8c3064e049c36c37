//! What waits in retry topics for its next attempt, and when the first of it is due.

use std::collections::BTreeMap;

use rdkafka::{Offset, error::KafkaResult};

use super::{Described, Survey, Surveyor, TopicPartition, edges};
use crate::{
    board::rfc3339,
    snapshot::{Group, RetryTopic},
};

impl Surveyor {
    /// Asks where those retry topics begin of which a group has committed nothing: it consumes them from there, and commits
    /// when the first record is done, which may be hours away.
    pub(super) fn ask_begins(&self, survey: &mut Survey) -> KafkaResult<()> {
        let Survey { topics, ends, described, .. } = survey;
        for described in described {
            let has_records = |of: &TopicPartition| ends.get(of).is_some_and(|(high, _)| *high > 0);
            let names = named(topics, &described.group.name);
            let all = names.flat_map(|(topic, ..)| (0..topics[topic]).map(move |of| (topic.to_owned(), of)));
            let is_wanted = |of: &TopicPartition| has_records(of) && !described.committed.contains_key(of);
            let wanted: Vec<TopicPartition> = all.filter(is_wanted).collect();
            described.begins = edges(&self.uncommitted, &wanted, Offset::Beginning)?;
        }
        Ok(())
    }
}

impl Survey {
    /// Retry topics of groups that are shown; `groups` are what [`Self::groups`] gave.
    pub(crate) fn retry_topics(&self, groups: &[Group]) -> Vec<RetryTopic> {
        let of_group = |(described, group): (&Described, &Group)| -> Vec<RetryTopic> {
            let row = |(topic, source, number): (&str, &str, usize)| {
                let lag = group.partitions.iter().filter(|partition| partition.topic == topic);
                let due = described.due.iter().filter(|((of, _), _)| of == topic).map(|(_, due)| *due).min();
                RetryTopic {
                    topic: topic.to_owned(),
                    source_topic: source.to_owned(),
                    group: group.name.clone(),
                    number,
                    waiting_records: lag.map(|partition| partition.lag_records).sum(),
                    next_due_at: due.map(rfc3339),
                }
            };
            named(&self.topics, &group.name).map(row).collect()
        };
        self.described.iter().zip(groups).flat_map(of_group).collect()
    }
}

/// Retry topics are told by their names: `<topic>-<group>-retry-<number>` of a topic that is there. Gives name, topic, number.
fn named<'t>(topics: &'t BTreeMap<String, i32>, group: &str) -> impl Iterator<Item = (&'t str, &'t str, usize)> {
    let middle = format!("-{group}-retry-");
    topics.keys().filter_map(move |topic| {
        let (source, number) = topic.split_once(&middle)?;
        topics.contains_key(source).then_some((topic.as_str(), source, number.parse().ok()?))
    })
}
