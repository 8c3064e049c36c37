//! What is taken from the log: transactions by their fate, no more than the watermarks say, and of several topics each by its
//! own policy.

use std::time::Duration;

use anyhow::Result;
use devstack::eventually;
use futures_util::future::try_join_all;
use messaging::{
    blocking::Verb,
    consumer::{ConsumerConfig, Order, Watermarks},
    retry::{Exhausted, RetryConfig, retry_topic},
};

use rdkafka::Offset;

use crate::{
    log::OpenTransaction,
    stage::{Answer, DEADLINE, Stage},
};

const MS: Duration = Duration::from_millis(1);
/// Records that are there to be taken.
const THERE: usize = 1200;
/// Messages that are taken before anything else is looked at, and so may come on top of a watermark.
const TURN: usize = 257;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_transaction_wrote_is_handled_when_it_has_committed_and_never_when_it_has_aborted() -> Result<()> {
    let stage = Stage::new(1).await?;
    stage.produce(&["0:a"]).await?;
    OpenTransaction::begin(&stage, &["0:aborted", "0:aborted-too"])?.abort()?;
    let open = OpenTransaction::begin(&stage, &["0:open"])?;
    stage.produce(&["0:b"]).await?;
    let member = stage.start(stage.config(RetryConfig::empty()))?;
    // How far it goes by itself: the record, what was aborted, and perhaps the marker behind that.
    let passed = async || {
        let Ok(Offset::Offset(committed)) = stage.committed(0).await else { return None };
        Some(committed).filter(|committed| *committed >= 1)
    };
    let committed = eventually("the first is committed", DEADLINE, passed).await?;
    assert!(committed <= 4, "what is open is not passed: {committed}");
    assert_eq!(stage.world.done(), ["0:a"]);
    open.commit()?;
    assert_eq!(stage.world.until_done(3).await?, ["0:a", "0:open", "0:b"]);
    // Its marker is the last of the log. Then one that leaves nothing but offsets.
    stage.until_committed(0, 7).await?;
    OpenTransaction::begin(&stage, &["0:aborted"])?.abort()?;
    stage.until_committed(0, 9).await?;
    for value in ["0:aborted", "0:aborted-too"] {
        assert_eq!(stage.world.attempts(value).len(), 0, "{value} never was");
    }
    assert_eq!(stage.world.attempts("0:open").len(), 1);
    member.stop().await
}

/// How many records were in hand at most while nothing of the first partition was done and the second went on.
async fn most_in_hand(watermarks: Watermarks) -> Result<usize> {
    let stage = Stage::new(2).await?;
    // Each record has a key of its own, so whatever is in hand is in the handler.
    let values: Vec<String> = (0..THERE).map(|number| format!("0:{number:04}")).collect();
    values.iter().for_each(|value| stage.world.answer(value, Answer::Waits));
    try_join_all(values.iter().map(|value| stage.produce_to(0, value, value))).await?;
    let order = Order::ByKey { parallel_max: 2 * THERE };
    let member = stage.start(ConsumerConfig { order, watermarks, ..stage.config(RetryConfig::empty()) })?;
    let is_fetched = async || (stage.world.most_at_once() >= 10).then_some(());
    eventually("the first partition is fetched", DEADLINE, is_fetched).await?;
    // These were fetched behind it, one after another: what could be taken of the first partition has been taken.
    for number in 1..=5 {
        stage.produce(&[&format!("1:{number}")]).await?;
        stage.world.until_done(number).await?;
    }
    let most = stage.world.most_at_once();
    values.iter().for_each(|value| stage.world.answer(value, Answer::Handled));
    stage.world.open_gate(&values[0]);
    stage.world.until_done(THERE + 5).await?;
    stage.until_committed(0, i64::try_from(THERE)?).await?;
    member.stop().await?;
    assert_eq!(stage.world.done().len(), THERE + 5, "each once, also what was fetched again");
    Ok(most)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_taken_in_hand_than_the_watermarks_say() -> Result<()> {
    let unbounded = Watermarks { high_records: 10_000, low_records: 1, high_bytes: 1 << 30, low_bytes: 1 };
    // A record is 12 bytes: key and value.
    let by_records = Watermarks { high_records: 10, low_records: 5, ..unbounded };
    let by_bytes = Watermarks { high_bytes: 120, low_bytes: 60, ..unbounded };
    let (records, bytes, all) =
        tokio::try_join!(most_in_hand(by_records), most_in_hand(by_bytes), most_in_hand(unbounded))?;
    for most in [records, bytes] {
        assert!((10..=10 + TURN).contains(&most), "ten, and what one turn takes: {most}");
    }
    assert!(all >= THERE, "without watermarks all of it is taken: {all}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_topic_of_a_consumer_has_its_own_policy() -> Result<()> {
    let renewals = Stage::new(1).await?;
    let hints = renewals.beside(1).await?;
    let world = &renewals.world;
    ["0:renewal", "0:hint"].iter().for_each(|value| world.answer(value, Answer::Fails("away")));
    renewals.produce(&["0:renewal", "0:later-renewal"]).await?;
    hints.produce(&["0:hint", "0:later-hint"]).await?;
    let mut config = renewals.config(RetryConfig::finite_blocking_retry([50 * MS]).exhausted(Exhausted::Block));
    config.topics.insert(hints.topic.clone(), RetryConfig::non_blocking_retry([200 * MS]));
    let member = renewals.start(config)?;
    assert_eq!(renewals.until_blocked(0, 0).await?.blocked[&0].attempts, 2);
    assert_eq!(hints.until_dead(1).await?[0].0, "0:hint");
    assert_eq!(world.until_done(1).await?, ["0:later-hint"]);
    let topics = |value: &str| world.attempts(value).into_iter().map(|attempt| attempt.topic).collect::<Vec<_>>();
    assert_eq!(topics("0:renewal"), [renewals.topic.clone(), renewals.topic.clone()]);
    assert_eq!(topics("0:hint"), [hints.topic.clone(), retry_topic(&hints.topic, &hints.group, 0)]);
    assert_eq!(hints.state(0).await?, None, "nothing of the other topic's policy");
    world.answer("0:renewal", Answer::Handled);
    renewals.command(Verb::Unblock, 0, 0).await?;
    assert_eq!(world.until_done(3).await?[1..], ["0:renewal", "0:later-renewal"]);
    member.stop().await
}
