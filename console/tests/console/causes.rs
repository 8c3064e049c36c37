//! Why a group is behind, each cause brought about for as long as the test looks at it. Others: `commands`, `transactions`.

use std::time::Duration;

use anyhow::{Result, ensure};
use messaging::{
    consumer::{HandleError, RecordHandler},
    record::Record,
    retry::RetryConfig,
};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
};
use serde_json::Value;
use tokio::sync::Semaphore;

use crate::stage::{Console, DEADLINE, Mended, Stage};

const POLL: Duration = Duration::from_millis(50);

async fn until_cause(console: &Console, stage: &Stage, cause: &str, lag_records: i64) -> Result<()> {
    let holds = |all: &Value| {
        let group = all.as_array()?.iter().find(|group| group["name"] == stage.group)?;
        let partition = &group["partitions"][0];
        let is_it = group["cause"] == cause && partition["cause"] == cause && group["lag_records"] == lag_records;
        is_it.then_some(())
    };
    console.until(&format!("the group is {cause}"), "/v1/groups", holds).await
}

/// Works on a record until it is let go on.
struct AtWork(&'static Semaphore);

impl RecordHandler for AtWork {
    async fn handle(&self, _: &Record) -> Result<(), HandleError> {
        self.0.acquire().await.expect("nobody closes it").forget();
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_works_is_slow_and_one_that_tries_again_says_so() -> Result<()> {
    static TURNS: Semaphore = Semaphore::const_new(0);
    let (slow, retrying) = (Stage::new(1).await?, Stage::new(1).await?);
    for stage in [&slow, &retrying] {
        for value in ["good", "bad", "good"] {
            stage.produce(0, "ann", value).await?;
        }
    }
    let member = slow.consume_with(RetryConfig::empty(), AtWork(&TURNS))?;
    let mended = Mended::default();
    // It stands in its retry for longer than the test.
    let retries = RetryConfig::infinite_blocking_retry(Duration::from_secs(3600));
    let other = retrying.consume_with(retries, mended.clone())?;
    let console = slow.console(&["--only-groups", &format!("{},{}", slow.group, retrying.group)]).await?;
    TURNS.add_permits(1);
    until_cause(&console, &slow, "slow", 2).await?;
    until_cause(&console, &retrying, "retrying", 2).await?;
    ensure!(mended.handled() == ["good"], "{:?}", mended.handled());
    let held = console.get("/v1/blocking").await?;
    let waits_for = &held[0]["blocked"]["1"]["waits_for"];
    ensure!(waits_for == "retry" && held[0]["group"] == *retrying.group, "{held}");

    TURNS.add_permits(2);
    mended.mend(true);
    until_cause(&console, &slow, "caught-up", 0).await?;
    // A person need not wait for the hour.
    let unblock = serde_json::json!({"group": retrying.group, "verb": "unblock", "topic": retrying.topic, "partition": 0,
        "offset": 1, "reason": "mended", "confirm": "0@1"});
    let (status, sent) = console.post_json("/v1/commands", &unblock).await?;
    ensure!(status == 200 && sent["event"] == "followed", "{status} {sent}");
    until_cause(&console, &retrying, "caught-up", 0).await?;
    member.stop().await?;
    other.stop().await
}

/// A member of a group under the classic protocol, which takes part in it only when it is polled.
fn member(stage: &Stage) -> Result<BaseConsumer> {
    let mut config = stage.client();
    config.set("group.id", &stage.group).set("enable.auto.commit", "false");
    let member: BaseConsumer = config.create()?;
    member.subscribe(&[&stage.topic])?;
    Ok(member)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_waits_for_a_member_is_rebalancing() -> Result<()> {
    let stage = Stage::new(1).await?;
    stage.produce(0, "ann", "first").await?;
    let console = stage.console(&["--only-groups", &stage.group]).await?;
    let first = member(&stage)?;
    devstack::eventually("the first has the partition", DEADLINE, async || {
        tokio::task::block_in_place(|| drop(first.poll(POLL)));
        first.assignment().is_ok_and(|all| all.count() == 1).then_some(())
    })
    .await?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&stage.topic, 0, Offset::Offset(0))?;
    tokio::task::block_in_place(|| first.commit(&list, CommitMode::Sync))?;
    until_cause(&console, &stage, "slow", 1).await?;

    // The coordinator waits for the first, which is not polled and so does not give its partition back.
    let second = member(&stage)?;
    until_cause(&console, &stage, "rebalancing", 1).await?;
    let both = async || {
        tokio::task::block_in_place(|| [&first, &second].map(|member| drop(member.poll(POLL))));
        let groups = console.get("/v1/groups").await.ok()?;
        (groups[0]["state"] == "stable" && groups[0]["cause"] == "slow").then(|| groups[0]["members"].clone())
    };
    let members = devstack::eventually("both are in the group", DEADLINE, both).await?;
    ensure!(members.as_array().is_some_and(|all| all.len() == 2), "{members}");
    tokio::task::block_in_place(|| drop((first, second)));
    Ok(())
}
