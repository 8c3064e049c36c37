//! Order, parallelism, and what is committed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::Result;
use messaging::{
    consumer::{ConsumerConfig, Order, Watermarks},
    retry::RetryConfig,
};
use rdkafka::Offset;

use crate::stage::{Answer, Stage};

/// Values by key, in the order given.
pub fn by_key<'a>(values: impl IntoIterator<Item = &'a String>) -> BTreeMap<&'a str, Vec<&'a str>> {
    let mut keys: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for value in values {
        let (key, _) = value.rsplit_once(':').expect("a key and a number");
        keys.entry(key).or_default().push(value);
    }
    keys
}

/// `count` values of `keys` keys, spread over two partitions: `<partition>:<key>:<number>`.
pub async fn produced(stage: &Stage, keys: usize, numbers: std::ops::Range<usize>) -> Result<Vec<String>> {
    let values: Vec<String> = numbers.map(|n| format!("{}:k{}:{n:05}", n % keys % 2, n % keys)).collect();
    for value in &values {
        let (key, _) = value.rsplit_once(':').expect("a key and a number");
        stage.produce_to(key[..1].parse()?, key, value).await?;
    }
    Ok(values)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_handled_side_by_side_and_each_in_order() -> Result<()> {
    let stage = Stage::new(2).await?;
    let watermarks = Watermarks { high_records: 10, low_records: 3, high_bytes: 1 << 20, low_bytes: 1 << 10 };
    let member = stage.start(ConsumerConfig { watermarks, ..stage.config(RetryConfig::empty()) })?;
    // The first of four keys waits until all four are in the handler: side by side, or never.
    for key in 0..4 {
        stage.world.answer(&format!("0:k{key}:x"), Answer::Waits);
        stage.produce_to(0, &format!("0:k{key}"), &format!("0:k{key}:x")).await?;
    }
    for key in 0..4 {
        stage.world.until_attempted(&format!("0:k{key}:x"), 1).await?;
    }
    (0..4).for_each(|key| stage.world.open_gate(&format!("0:k{key}:x")));
    let values = produced(&stage, 10, 0..200).await?;
    let done = stage.world.until_done(204).await?;
    let done: Vec<String> = done.into_iter().filter(|value| !value.ends_with('x')).collect();
    assert_eq!(by_key(&done), by_key(&values), "each once, each key in its order");
    assert!(stage.world.most_at_once() <= 8, "four keys of each of two partitions: {}", stage.world.most_at_once());
    member.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_in_order_is_handled_one_by_one() -> Result<()> {
    let stage = Stage::new(1).await?;
    let member = stage.start(ConsumerConfig { order: Order::ByPartition, ..stage.config(RetryConfig::empty()) })?;
    let values: Vec<String> = (0..100).map(|n| format!("0:{n:03}")).collect();
    for value in &values {
        stage.produce_to(0, &value[3..], value).await?;
    }
    assert_eq!(stage.world.until_done(100).await?, values);
    assert_eq!(stage.world.most_at_once(), 1);
    member.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_done_below_is_committed_and_a_successor_repeats_nothing_else() -> Result<()> {
    let stage = Stage::new(1).await?;
    let config = || ConsumerConfig { drain_max: Duration::ZERO, ..stage.config(RetryConfig::empty()) };
    stage.world.answer("b:1", Answer::Waits);
    stage.produce(&["a:0", "b:1", "c:2", "d:3", "b:4"]).await?;
    let member = stage.start(config())?;
    stage.world.until_done(3).await?;
    stage.until_committed(0, 1).await?;
    member.stop().await?;
    assert_eq!(stage.committed(0).await?, Offset::Offset(1));

    let member = stage.start(config())?;
    stage.world.until_attempted("b:1", 2).await?;
    stage.world.open_gate("b:1");
    stage.until_committed(0, 5).await?;
    let done = stage.world.done();
    assert_eq!(done[3..], ["b:1", "b:4"]);
    let first: BTreeSet<&str> = done[..3].iter().map(String::as_str).collect();
    assert_eq!(first, ["a:0", "c:2", "d:3"].into(), "keys have no order among them");
    assert!(["a:0", "c:2", "d:3"].iter().all(|value| stage.world.attempts(value).len() == 1), "none is repeated");
    member.stop().await
}
