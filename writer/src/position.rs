//! `writer position`: where the view stands, partition by partition.

use anyhow::Context as _;
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer, DefaultConsumerContext},
};
use serde::Serialize;

use crate::{
    config::Config,
    ends,
    error::StoreError,
    store::{self, BlockedState, PositionRow},
};

/// How long the brokers may take to tell the topic's partitions.
const METADATA_MAX: std::time::Duration = std::time::Duration::from_secs(10);

/// One line of the answer; with `--json` an array of these.
#[derive(Debug, Serialize)]
struct Line {
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
    /// Why it is blocked.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
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
    let (settings, topic) = (config.clone(), config.topic.clone());
    let ends = tokio::task::spawn_blocking(move || all_ends(&settings)).await??;
    let mut partitions: Vec<i32> = ends.keys().copied().chain(rows.iter().map(|row| row.partition)).collect();
    partitions.sort_unstable();
    partitions.dedup();
    let lines: Vec<Line> = partitions
        .into_iter()
        .map(|partition| {
            let row = rows.iter().find(|row| row.partition == partition);
            line(&topic, partition, generation, row, ends.get(&partition).copied().flatten())
        })
        .collect();
    print(&lines, config.json)
}

fn all_ends(config: &Config) -> anyhow::Result<std::collections::HashMap<i32, Option<ends::Ends>>> {
    let mut client = ClientConfig::new();
    client.extend(config.kafka.clone());
    client.set("isolation.level", "read_committed").set("allow.auto.create.topics", "false");
    let consumer: BaseConsumer<DefaultConsumerContext> = client.create().context("the Kafka client")?;
    let metadata = consumer.fetch_metadata(Some(&config.topic), METADATA_MAX).context("the brokers do not answer")?;
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id());
    Ok(partitions.map(|partition| (partition, ends::fetch(&consumer, &config.topic, partition).ok())).collect())
}

fn line(topic: &str, partition: i32, generation: i32, row: Option<&PositionRow>, ends: Option<ends::Ends>) -> Line {
    let lag = row.zip(ends).map(|(row, ends)| (ends.high - row.next_offset).max(0));
    Line {
        topic: topic.to_owned(),
        partition,
        generation,
        next_offset: row.map(|row| row.next_offset),
        high_watermark: ends.map(|ends| ends.high),
        lag,
        epoch: row.map(|row| row.epoch),
        as_of: row.and_then(|row| row.as_of.clone()),
        state: state(row, ends, lag),
        reason: row.and_then(|row| row.blocked_reason.clone()),
    }
}

/// What the writer says of a partition that stands goes before what is seen from here.
fn state(row: Option<&PositionRow>, ends: Option<ends::Ends>, lag: Option<i64>) -> String {
    let blocked = row.and_then(|row| row.blocked_state.as_deref());
    let outside = row.zip(ends).is_some_and(|(row, ends)| !(ends.low..=ends.high).contains(&row.next_offset));
    let state = match blocked {
        Some(state) => state,
        None if outside => BlockedState::OutOfRange.as_str(),
        None if lag == Some(0) => "caught-up",
        None => "running",
    };
    state.to_owned()
}

#[expect(clippy::print_stdout, reason = "a verb answers on standard output")]
fn print(lines: &[Line], json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(lines)?);
        return Ok(());
    }
    println!(
        "{:>9} {:>12} {:>14} {:>10} {:>6} {:<12} as of",
        "partition", "next offset", "high watermark", "lag", "epoch", "state"
    );
    let number = |value: Option<i64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    for line in lines {
        println!(
            "{:>9} {:>12} {:>14} {:>10} {:>6} {:<12} {}{}",
            line.partition,
            number(line.next_offset),
            number(line.high_watermark),
            number(line.lag),
            number(line.epoch),
            line.state,
            line.as_of.as_deref().unwrap_or("-"),
            line.reason.as_ref().map(|reason| format!("  {reason}")).unwrap_or_default(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ends::Ends;

    #[test]
    fn states_are_named() {
        let row = |next_offset, blocked: Option<&str>| PositionRow {
            partition: 0,
            next_offset,
            epoch: 1,
            as_of: None,
            owner: String::new(),
            blocked_offset: None,
            blocked_state: blocked.map(str::to_owned),
            blocked_reason: blocked.map(|_| "invalid-json".to_owned()),
        };
        let ends = Some(Ends { low: 10, high: 20 });
        for (row, ends, expected) in [
            (Some(row(15, None)), ends, "running"),
            (Some(row(20, None)), ends, "caught-up"),
            (Some(row(15, Some("blocked"))), ends, "blocked"),
            (Some(row(20, Some("braked"))), ends, "braked"),
            (Some(row(9, None)), ends, "out-of-range"),
            (Some(row(21, None)), ends, "out-of-range"),
            (Some(row(0, Some("topic-changed"))), ends, "topic-changed"),
            (None, ends, "running"),
            (Some(row(15, None)), None, "running"),
        ] {
            assert_eq!(line("t", 0, 1, row.as_ref(), ends).state, expected);
        }
    }
}
