//! A key that waits while others go on.

use anyhow::Result;
use messaging::{
    blocking::Verb,
    consumer::ConsumerConfig,
    retry::{Exhausted, RetryConfig},
};
use rdkafka::Offset;

use crate::stage::{Answer, Stage};

fn parks() -> RetryConfig {
    RetryConfig::empty().exhausted(Exhausted::ParkKey)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_key_is_replayed_in_order_also_after_a_restart() -> Result<()> {
    let stage = Stage::new(1).await?;
    stage.world.answer("a:1", Answer::Fails("bad"));
    stage.produce(&["a:0", "a:1", "b:2", "a:3", "c:4", "a:5"]).await?;
    let member = stage.start(stage.config(parks()))?;
    let done = stage.world.until_done(3).await?;
    assert!(done.iter().all(|value| ["a:0", "b:2", "c:4"].contains(&value.as_str())), "{done:?}");
    let parked = |state: &Option<_>| {
        state.as_ref().is_some_and(|state: &messaging::blocking::PartitionState| state.parked.contains_key(&1))
    };
    stage.until_state("the key is parked", 0, parked).await?;
    member.stop().await?;
    assert_eq!(stage.committed(0).await?, Offset::Offset(1), "what is parked is not done");

    let member = stage.start(stage.config(parks()))?;
    stage.produce(&["b:6", "a:7"]).await?;
    assert_eq!(stage.world.until_done(4).await?[3], "b:6");
    assert_eq!(stage.world.attempts("a:1").len(), 1, "it is parked after a restart without another attempt");
    stage.world.answer("a:1", Answer::Handled);
    stage.command(Verb::Unpark, 0, 1).await?;
    assert_eq!(stage.world.until_done(8).await?[4..], ["a:1", "a:3", "a:5", "a:7"]);
    stage.until_committed(0, 8).await?;
    stage.until_ordinary(0).await?;
    member.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_may_be_parked_stops_the_partition_until_the_first_is_dealt_with() -> Result<()> {
    let stage = Stage::new(1).await?;
    stage.world.answer("a:0", Answer::Fails("bad"));
    stage.produce(&["a:0", "a:1", "a:2"]).await?;
    let member = stage.start(ConsumerConfig { parked_max: 2, ..stage.config(parks()) })?;
    stage.until_blocked(0, 0).await?;
    stage.produce(&["b:3"]).await?;
    stage.command(Verb::Skip, 0, 0).await?;
    let mut done = stage.world.until_done(3).await?;
    done.retain(|value| value != "b:3");
    assert_eq!(done, ["a:1", "a:2"]);
    assert_eq!(stage.until_dead(1).await?[0].0, "a:0");
    member.stop().await
}
