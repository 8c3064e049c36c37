//! For how long the next record of a group has waited, or why nobody can know.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
    producer::{BaseRecord, DefaultProducerContext, FutureProducer, FutureRecord, Producer as _, ThreadedProducer},
};
use serde_json::Value;

use crate::stage::{Console, DEADLINE, Stage};

const HOUR_MS: i64 = 3_600_000;

async fn produce_at(stage: &Stage, timestamp_ms: i64) -> Result<()> {
    let producer: FutureProducer = stage.client().create()?;
    let record = FutureRecord::<str, str>::to(&stage.topic).partition(0).payload("v").timestamp(timestamp_ms);
    producer.send(record, DEADLINE).await.map(drop).map_err(|(error, _)| error.into())
}

/// One record in a transaction that is left open.
fn open_transaction(stage: &Stage, partition: i32) -> Result<ThreadedProducer<DefaultProducerContext>> {
    let mut config = stage.client();
    config.set("transactional.id", format!("{}-{partition}", stage.group));
    let producer: ThreadedProducer<DefaultProducerContext> = config.create()?;
    producer.init_transactions(DEADLINE)?;
    producer.begin_transaction()?;
    let record = BaseRecord::<str, str>::to(&stage.topic).partition(partition).payload("v");
    producer.send(record).map_err(|(error, _)| error)?;
    producer.flush(DEADLINE)?;
    Ok(producer)
}

/// Commits offsets in the name of a group that has no member.
fn commit(stage: &Stage, offsets: [i64; 3]) -> Result<()> {
    let consumer: BaseConsumer = stage.client().set("group.id", &stage.group).create()?;
    let mut list = TopicPartitionList::new();
    for (partition, offset) in (0..).zip(offsets) {
        list.add_partition_offset(&stage.topic, partition, Offset::Offset(offset))?;
    }
    Ok(consumer.commit(&list, CommitMode::Sync)?)
}

/// Waits until what is said of a partition is so.
async fn until(
    console: &Console,
    stage: &Stage,
    partition: usize,
    what: &str,
    holds: fn(&Value) -> bool,
) -> Result<()> {
    let found = |all: &Value| {
        let group = all.as_array()?.iter().find(|group| group["name"] == stage.group)?;
        holds(&group["partitions"][partition]).then_some(())
    };
    console.until(what, "/v1/groups", found).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_is_told_in_seconds_or_why_it_is_not() -> Result<()> {
    let stage = Stage::new(3).await?;
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    for timestamp in [now - HOUR_MS, now] {
        produce_at(&stage, timestamp).await?;
    }
    let (aborted, open) = tokio::task::block_in_place(|| {
        commit(&stage, [0, 0, 0])?;
        anyhow::Ok((open_transaction(&stage, 1)?, open_transaction(&stage, 2)?))
    })?;
    tokio::task::block_in_place(|| aborted.abort_transaction(DEADLINE))?;
    let console = stage.console(&["--only-groups", &stage.group]).await?;
    let hour = |of: &Value| of["lag_seconds"].as_f64().is_some_and(|seconds| (3600.0..5400.0).contains(&seconds));
    until(&console, &stage, 0, "the record waits for an hour", hour).await?;
    let nothing = |of: &Value| of["lag_records"] == 2 && of["lag_seconds"] == 0.0;
    until(&console, &stage, 1, "what was aborted does not wait", nothing).await?;
    let held_back = |of: &Value| {
        of["lag_seconds"].is_null() && of["lag_records"] == 1 && of["lag_seconds_unknown"] == "open-transaction"
    };
    until(&console, &stage, 2, "nobody knows what is open", held_back).await?;
    let (rows, _) = stage.verb(&["groups"]).await?;
    ensure!(rows[0]["lag_seconds"].as_f64() >= Some(3600.0), "the longest wait speaks for the group: {rows}");

    tokio::task::block_in_place(|| commit(&stage, [1, 0, 0]))?;
    let soon =
        |of: &Value| of["lag_seconds"].as_f64().is_some_and(|seconds| seconds < 3600.0) && of["lag_records"] == 1;
    until(&console, &stage, 0, "the next record is a younger one", soon).await?;
    tokio::task::block_in_place(|| open.commit_transaction(DEADLINE))?;
    let visible = |of: &Value| of["lag_seconds"].is_number() && of["next_record_at"].is_string();
    until(&console, &stage, 2, "what is committed waits", visible).await
}
