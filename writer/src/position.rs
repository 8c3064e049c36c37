//! `writer position`: where the view stands, partition by partition.

use std::collections::{BTreeMap, HashMap};

use anyhow::Context as _;
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer, DefaultConsumerContext},
};
use serde::Serialize;
use shared::process::Refused;

use crate::{
    config::Config,
    ends::{self, Ends},
    error::StoreError,
    store::{self, BlockedState, PositionRow},
    topic_id::{self, TopicId},
};

/// How long the brokers may take to tell the topic's partitions.
const METADATA_MAX: std::time::Duration = std::time::Duration::from_secs(10);

/// One line of the answer; with `--json` an array of these.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    topic: String,
    partition: i32,
    generation: i32,
    /// Offset of the next record to apply; null while nobody has taken the partition yet.
    next_offset: Option<i64>,
    /// Offset behind the newest readable record; null while the broker does not tell.
    high_watermark: Option<i64>,
    /// Records between the two.
    lag: Option<i64>,
    epoch: Option<i64>,
    /// Changes up to this moment are contained.
    as_of: Option<String>,
    state: String,
    /// Why it stands, or what it waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
}

/// Prints the positions as a table, or with `--json` as an array.
///
/// Errors: the database or the brokers cannot be reached, or the database is not migrated.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    let mut connection = config.database.clone().disable_statement_logging().connect().await.context("the database")?;
    let active = store::active_generation(&mut connection).await?;
    let generation = config.generation.or(active).ok_or(StoreError::NotMigrated("active generation"))?;
    let options = store::connect_options(&config.database, &format!("view_g{generation}"));
    let mut connection = options.connect().await.context("the database")?;
    let rows = PositionRow::all(&mut connection, &config.topic).await?;
    let topic = Topic::ask(config).await?;
    let mut partitions: Vec<i32> = topic.ends.keys().copied().chain(rows.iter().map(|row| row.partition)).collect();
    partitions.sort_unstable();
    partitions.dedup();
    let line = |partition| {
        let row = rows.iter().find(|row| row.partition == partition);
        Line::new(&config.topic, partition, generation, row, &topic)
    };
    print(&partitions.into_iter().map(line).collect::<Vec<_>>(), config.json)
}

/// The topic as the brokers tell it now.
pub(crate) struct Topic {
    /// By partition; none where the broker does not tell.
    pub(crate) ends: BTreeMap<i32, Option<Ends>>,
    /// Which topic the name stands for.
    pub(crate) topic_id: Option<TopicId>,
}

impl Topic {
    /// Asks. A topic that does not exist has no partitions.
    pub(crate) async fn ask(config: &Config) -> anyhow::Result<Self> {
        let (settings, topic) = (config.kafka.clone(), config.topic.clone());
        tokio::task::spawn_blocking(move || Self::ask_blocking(settings, &topic)).await?
    }

    fn ask_blocking(settings: HashMap<String, String>, topic: &str) -> anyhow::Result<Self> {
        let mut client = ClientConfig::new();
        client.extend(settings);
        client.set("isolation.level", "read_committed").set("allow.auto.create.topics", "false");
        let consumer: BaseConsumer<DefaultConsumerContext> = client.create().context("the Kafka client")?;
        let metadata = consumer.fetch_metadata(Some(topic), METADATA_MAX).context("the brokers do not answer")?;
        let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id());
        let ends: BTreeMap<_, _> =
            partitions.map(|partition| (partition, ends::fetch(&consumer, topic, partition).ok())).collect();
        let topic_id = match ends.is_empty() {
            true => None,
            false => topic_id::fetch(&consumer, topic).context("the brokers do not tell the topic's id")?,
        };
        Ok(Self { ends, topic_id })
    }

    /// What a partition holds. Errors: it does not exist, or its broker does not answer.
    pub(crate) fn partition(&self, topic: &str, partition: i32) -> anyhow::Result<Ends> {
        if self.ends.is_empty() {
            return Err(Refused(format!("the topic {topic} does not exist; check WRITER_TOPIC")).into());
        }
        let known = self.ends.get(&partition);
        let last = self.ends.keys().next_back().copied().unwrap_or_default();
        let unknown = || Refused(format!("--partition {partition}: the topic {topic} has the partitions 0 to {last}"));
        known.ok_or_else(unknown)?.with_context(|| format!("the broker of partition {partition} does not answer"))
    }
}

impl Line {
    /// What row and topic say of a partition.
    pub(crate) fn new(
        topic_name: &str,
        partition: i32,
        generation: i32,
        row: Option<&PositionRow>,
        topic: &Topic,
    ) -> Self {
        let ends = topic.ends.get(&partition).copied().flatten();
        let lag = row.zip(ends).map(|(row, ends)| (ends.high - row.next_offset).max(0));
        Self {
            topic: topic_name.to_owned(),
            partition,
            generation,
            next_offset: row.map(|row| row.next_offset),
            high_watermark: ends.map(|ends| ends.high),
            lag,
            epoch: row.map(|row| row.epoch),
            as_of: row.and_then(|row| row.as_of.clone()),
            state: state(row, ends, topic.topic_id.as_ref()),
            reason: row.and_then(|row| row.reason.clone()),
            since: row.and_then(|row| row.since.clone()),
        }
    }
}

/// What the writer says of a partition that stands goes before what is seen from here.
fn state(row: Option<&PositionRow>, ends: Option<Ends>, topic_id: Option<&TopicId>) -> String {
    let stands = row.and_then(|row| row.blocked_state.as_deref());
    let changed = row.is_some_and(|row| topic_id::differ(row.topic_id.as_deref(), topic_id));
    let outside = row.zip(ends).is_some_and(|(row, ends)| !ends.hold(row.next_offset));
    let at_end = row.zip(ends).is_some_and(|(row, ends)| ends.high == row.next_offset);
    let state = match stands {
        Some(state) => state,
        None if changed => BlockedState::TopicChanged.as_str(),
        None if outside => BlockedState::OutOfRange.as_str(),
        None if at_end => "caught-up",
        None => "running",
    };
    state.to_owned()
}

/// Prints one row: as the table of `position` does, or with `--json` as one object.
#[expect(clippy::print_stdout, reason = "a verb answers on standard output")]
pub(crate) fn print_row(line: &Line, json: bool) -> anyhow::Result<()> {
    match json {
        true => println!("{}", serde_json::to_string(line)?),
        false => print(std::slice::from_ref(line), false)?,
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a verb answers on standard output")]
fn print(lines: &[Line], json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(lines)?);
        return Ok(());
    }
    println!(
        "{:>9} {:>12} {:>14} {:>10} {:>6} {:<13} as of",
        "partition", "next offset", "high watermark", "lag", "epoch", "state"
    );
    let number = |value: Option<i64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    for line in lines {
        println!(
            "{:>9} {:>12} {:>14} {:>10} {:>6} {:<13} {}",
            line.partition,
            number(line.next_offset),
            number(line.high_watermark),
            number(line.lag),
            number(line.epoch),
            line.state,
            line.as_of.as_deref().unwrap_or("-"),
        );
        if let Some(reason) = &line.reason {
            println!("{:>9} since {}: {reason}", "", line.since.as_deref().unwrap_or("-"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_named() {
        let (here, there) = (TopicId::of_bits(1, 1).expect("an id"), TopicId::of_bits(1, 2).expect("an id"));
        let of = |next_offset, blocked: Option<&str>, id: &TopicId| PositionRow {
            partition: 0,
            next_offset,
            epoch: 1,
            source_epoch: 0,
            as_of: None,
            owner: String::new(),
            topic_id: Some(id.as_str().to_owned()),
            blocked_offset: None,
            blocked_state: blocked.map(str::to_owned),
            reason: blocked.map(|_| "invalid-json".to_owned()),
            since: None,
        };
        let row = |next_offset, blocked| of(next_offset, blocked, &here);
        let ends = Some(Ends { low: 10, high: 20 });
        for (row, ends, expected) in [
            (Some(row(15, None)), ends, "running"),
            (Some(row(20, None)), ends, "caught-up"),
            (Some(row(15, Some("blocked"))), ends, "blocked"),
            (Some(row(20, Some("braked"))), ends, "braked"),
            (Some(row(9, None)), ends, "out-of-range"),
            (Some(row(21, None)), ends, "out-of-range"),
            (Some(row(0, Some("topic-changed"))), ends, "topic-changed"),
            (Some(of(15, None, &there)), ends, "topic-changed"),
            (None, ends, "running"),
            (Some(row(15, None)), None, "running"),
        ] {
            let topic = Topic { ends: BTreeMap::from([(0, ends)]), topic_id: Some(here.clone()) };
            assert_eq!(Line::new("t", 0, 1, row.as_ref(), &topic).state, expected);
        }
        // The end was asked for before the position moved on, or lies behind it for good: lag is never negative.
        let topic = Topic { ends: BTreeMap::from([(0, ends)]), topic_id: Some(here.clone()) };
        let lag = |next_offset| Line::new("t", 0, 1, Some(&row(next_offset, None)), &topic).lag;
        assert_eq!([lag(15), lag(20), lag(21)], [Some(5), Some(0), Some(0)]);
    }
}
