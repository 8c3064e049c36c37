//! What the brokers tell when they are asked: groups and their offsets, the ends of logs, transactions that are open. Blocks.

mod retries;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use messaging::{
    groups::{self, GroupState},
    settings::{Settings, client},
};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::KafkaResult,
};

use crate::{
    age::{Ages, Place},
    board::{Board, rfc3339},
    lag::{Cause, Facts, MOVES_WITHIN, Next, Waiting, cause},
    snapshot::{Group, OpenTransaction, PartitionLag},
};

/// How long the brokers may take for one answer.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Groups that are looked at.
const GROUPS_MAX: usize = 200;
/// Partitions whose ends are asked for.
const PARTITIONS_MAX: usize = 10_000;

type TopicPartition = (String, i32);

/// A client that joins no group: `own` settings win over the operator's.
pub(crate) fn onlooker(settings: &Settings, own: &[(&str, &str)]) -> KafkaResult<BaseConsumer> {
    let always = [
        ("group.id", "siteview-console"),
        ("client.id", "siteview-console"),
        ("enable.auto.commit", "false"),
        ("enable.partition.eof", "true"),
        ("auto.offset.reset", "earliest"),
        ("isolation.level", "read_committed"),
        ("allow.auto.create.topics", "false"),
        // Bounds the memory of what waits in the client (default 64 MiB).
        ("queued.max.messages.kbytes", "8192"),
        ("fetch.wait.max.ms", "100"),
    ];
    client(&of_no_member(settings), &[&always[..], own].concat()).create()
}

/// The operator's settings for a client that is in no group: those of members would be refused or mean nothing.
pub(crate) fn of_no_member(settings: &Settings) -> Settings {
    let of_members = |key: &str| key.starts_with("group.") || key.starts_with("partition.assignment");
    settings.iter().filter(|(key, _)| !of_members(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Who asks, and what it remembers from one time to the next.
pub(crate) struct Surveyor {
    /// Its ends are high watermarks.
    uncommitted: BaseConsumer,
    ages: Ages,
    /// Only these groups, when there are any.
    only: BTreeSet<String>,
    /// Since when an offset has been what it is, Unix milliseconds.
    unmoved: BTreeMap<(String, TopicPartition), (i64, i64)>,
    held_back: BTreeMap<TopicPartition, (i64, i64)>,
}

/// What was told.
#[derive(Default)]
pub(crate) struct Survey {
    /// Number of partitions of each topic.
    pub(crate) topics: BTreeMap<String, i32>,
    pub(crate) described: Vec<Described>,
    /// High watermarks and last stable offsets.
    ends: BTreeMap<TopicPartition, (i64, i64)>,
    pub(crate) open_transactions: Vec<OpenTransaction>,
    pub(crate) beyond_limits: Vec<String>,
}

pub(crate) struct Described {
    group: groups::Group,
    committed: BTreeMap<TopicPartition, i64>,
    unmoved: BTreeMap<TopicPartition, i64>,
    /// Where the group will begin in those of its retry topics of which it has committed nothing yet.
    begins: BTreeMap<TopicPartition, i64>,
    /// What stands at the offsets that are behind, where it was looked at.
    next: BTreeMap<TopicPartition, Next>,
    /// When that is due, Unix milliseconds, where it waits for an attempt.
    due: BTreeMap<TopicPartition, i64>,
}

impl Described {
    /// Where the group goes on in each partition.
    fn places(&self) -> impl Iterator<Item = Place> {
        let all = self.committed.iter().chain(&self.begins);
        all.map(|(of, offset)| (of.clone(), *offset))
    }
}

impl Surveyor {
    pub(crate) fn new(settings: &Settings, only: BTreeSet<String>) -> KafkaResult<Self> {
        let uncommitted = onlooker(settings, &[("isolation.level", "read_uncommitted")])?;
        let ages = Ages::new(settings)?;
        Ok(Self { uncommitted, ages, only, unmoved: BTreeMap::new(), held_back: BTreeMap::new() })
    }

    /// Asks for everything; `committed` is a client whose ends are last stable offsets.
    pub(crate) fn survey(&mut self, committed: &BaseConsumer, now_ms: i64) -> KafkaResult<Survey> {
        let mut survey = Survey { topics: self.topics()?, ..Survey::default() };
        self.ask_ends(committed, &mut survey)?;
        self.open_transactions(&mut survey, now_ms);
        let mut names = groups::names(&self.uncommitted)?;
        names.retain(|name| self.only.is_empty() || self.only.contains(name));
        names.sort();
        if names.len() > GROUPS_MAX {
            survey
                .beyond_limits
                .push(format!("groups: {} beyond the {GROUPS_MAX} that are shown", names.len() - GROUPS_MAX));
            names.truncate(GROUPS_MAX);
        }
        let mut seen = BTreeMap::new();
        for group in groups::describe(&self.uncommitted, &names)? {
            let offsets = groups::offsets(&self.uncommitted, &group.name)?;
            let mut unmoved = BTreeMap::new();
            for (of, offset) in &offsets {
                let key = (group.name.clone(), of.clone());
                let since = self.unmoved.get(&key).filter(|(before, _)| before == offset).map_or(now_ms, |(_, at)| *at);
                unmoved.insert(of.clone(), since);
                seen.insert(key, (*offset, since));
            }
            let (begins, next, due) = Default::default();
            survey.described.push(Described { group, committed: offsets, unmoved, begins, next, due });
        }
        self.unmoved = seen;
        self.ask_begins(&mut survey)?;
        self.look_at_next(&mut survey)?;
        Ok(survey)
    }

    /// Looks at the next record of each group and partition that has one.
    fn look_at_next(&mut self, survey: &mut Survey) -> KafkaResult<()> {
        let places = |of: &Described| {
            let with_end = |place: Place| {
                let (_, stable) = survey.ends.get(&place.0).filter(|(_, stable)| *stable > place.1)?;
                Some((place, *stable))
            };
            of.places().filter_map(with_end).collect::<Vec<(Place, i64)>>()
        };
        self.ages.look(&survey.described.iter().flat_map(places).collect())?;
        for described in &mut survey.described {
            let next = |place: Place| Some((self.ages.told(&place)?, place.0)).map(|(next, of)| (of, next));
            let due = |place: Place| Some((self.ages.due(&place)?, place.0)).map(|(due, of)| (of, due));
            described.next = described.places().filter_map(next).collect();
            described.due = described.places().filter_map(due).collect();
        }
        Ok(())
    }

    /// Topics but for Kafka's own.
    fn topics(&self) -> KafkaResult<BTreeMap<String, i32>> {
        let metadata = self.uncommitted.fetch_metadata(None, ANSWER_MAX)?;
        let count = |of: usize| i32::try_from(of).unwrap_or(i32::MAX);
        let own = metadata.topics().iter().filter(|topic| !topic.name().starts_with("__") && topic.error().is_none());
        Ok(own.map(|topic| (topic.name().to_owned(), count(topic.partitions().len()))).collect())
    }

    fn ask_ends(&self, committed: &BaseConsumer, survey: &mut Survey) -> KafkaResult<()> {
        let all = survey.topics.iter().flat_map(|(topic, count)| (0..*count).map(move |of| (topic.clone(), of)));
        let mut all: Vec<TopicPartition> = all.collect();
        if all.len() > PARTITIONS_MAX {
            let beyond = all.len() - PARTITIONS_MAX;
            survey
                .beyond_limits
                .push(format!("partitions: {beyond} beyond the {PARTITIONS_MAX} whose ends are asked for"));
            all.truncate(PARTITIONS_MAX);
        }
        // In this order a last stable offset is never above its high watermark.
        let stable = ends(committed, &all)?;
        let high = ends(&self.uncommitted, &all)?;
        let both = high.into_iter().filter_map(|(of, high)| Some((of.clone(), (high, *stable.get(&of)?))));
        survey.ends = both.collect();
        Ok(())
    }

    fn open_transactions(&mut self, survey: &mut Survey, now_ms: i64) {
        let mut seen = BTreeMap::new();
        for (of, (high, stable)) in survey.ends.iter().filter(|(_, (high, stable))| stable < high) {
            let since = self.held_back.get(of).filter(|(before, _)| before == stable).map_or(now_ms, |(_, at)| *at);
            seen.insert(of.clone(), (*stable, since));
            survey.open_transactions.push(OpenTransaction {
                topic: of.0.clone(),
                partition: of.1,
                last_stable_offset: *stable,
                high_watermark: *high,
                since: rfc3339(since),
            });
        }
        self.held_back = seen;
    }
}

impl Survey {
    pub(crate) fn groups(&self, board: &Board, now_ms: i64) -> Vec<Group> {
        self.described.iter().map(|described| self.group(described, board, now_ms)).collect()
    }

    fn group(&self, described: &Described, board: &Board, now_ms: i64) -> Group {
        let group = &described.group;
        let assigned: BTreeSet<&TopicPartition> = group.members.iter().flat_map(|member| &member.partitions).collect();
        let known = described.committed.keys().chain(described.begins.keys());
        let all: BTreeSet<&TopicPartition> = known.chain(assigned.iter().copied()).collect();
        let lag_of = |of: &TopicPartition| self.partition(described, of, assigned.contains(of), board, now_ms);
        let partitions: Vec<PartitionLag> = all.into_iter().filter_map(lag_of).collect();
        Group {
            name: group.name.clone(),
            state: words(group.state),
            takes_commands: self.topics.contains_key(&messaging::blocking::commands_topic(&group.name)),
            members: group.members.iter().map(|member| format!("{} {}", member.client_id, member.host)).collect(),
            lag_records: partitions.iter().map(|partition| partition.lag_records).sum(),
            lag_seconds: partitions.iter().filter_map(|partition| partition.lag_seconds).reduce(f64::max),
            next_record_at: partitions.iter().filter_map(|partition| partition.next_record_at.clone()).min(),
            cause: partitions.iter().map(|partition| partition.cause).max().unwrap_or(Cause::CaughtUp),
            partitions,
        }
    }

    fn partition(
        &self,
        described: &Described,
        of: &TopicPartition,
        has_member: bool,
        board: &Board,
        now_ms: i64,
    ) -> Option<PartitionLag> {
        let (high, stable) = *self.ends.get(of)?;
        let committed = described.committed.get(of).copied();
        let goes_on = committed.or_else(|| described.begins.get(of).copied());
        let lag = |end: i64| goes_on.map_or(0, |offset| (end - offset).max(0));
        let unmoved = described.unmoved.get(of).copied();
        let cause = cause(Facts {
            lag_records: lag(high),
            stable_lag_records: lag(stable),
            state: described.group.state,
            has_member,
            moves: unmoved.is_some_and(|since| now_ms - since < MOVES_WITHIN.as_millis() as i64),
            held: board.held(&described.group.name, &of.0, of.1),
        });
        let waiting = Waiting::of(goes_on, lag(high), lag(stable), described.next.get(of).copied());
        Some(PartitionLag {
            topic: of.0.clone(),
            partition: of.1,
            committed,
            high_watermark: high,
            last_stable_offset: stable,
            lag_records: lag(high),
            lag_seconds: waiting.seconds(now_ms),
            lag_seconds_unknown: waiting.unknown(),
            next_record_at: waiting.since().map(rfc3339),
            cause,
            unmoved_since: unmoved.filter(|_| cause != Cause::CaughtUp).map(rfc3339),
        })
    }
}

fn words(state: GroupState) -> &'static str {
    match state {
        GroupState::Rebalancing => "rebalancing",
        GroupState::Stable => "stable",
        GroupState::Empty => "empty",
        GroupState::Unknown => "unknown",
    }
}

/// Ends as this client sees them, by its isolation level; a partition that is not told is left out.
pub(crate) fn ends(client: &BaseConsumer, all: &[TopicPartition]) -> KafkaResult<BTreeMap<TopicPartition, i64>> {
    edges(client, all, Offset::End)
}

/// The same, or where logs begin.
fn edges(client: &BaseConsumer, all: &[TopicPartition], edge: Offset) -> KafkaResult<BTreeMap<TopicPartition, i64>> {
    let mut asked = TopicPartitionList::with_capacity(all.len());
    for (topic, partition) in all {
        // Kafka's ListOffsets takes a moment; -1 stands for the end, -2 for the beginning (KIP-79). One request per broker.
        asked.add_partition_offset(topic, *partition, edge)?;
    }
    if all.is_empty() {
        return Ok(BTreeMap::new());
    }
    let told = client.offsets_for_times(asked, ANSWER_MAX)?;
    let offset = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset() {
        Offset::Offset(offset) if element.error().is_ok() => {
            Some(((element.topic().to_owned(), element.partition()), offset))
        }
        _ => None,
    };
    Ok(told.elements().iter().filter_map(offset).collect())
}
