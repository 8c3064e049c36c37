//! Members that come, go and die in the middle of the work, and a broker that comes late.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use messaging::{
    blocking::{BlockingState, PartitionState, Verb},
    consumer::ConsumerConfig,
    retry::{Exhausted, RetryConfig},
};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    order::{by_key, produced},
    stage::{Answer, Stage},
};

#[tokio::test(flavor = "multi_thread")]
async fn members_that_come_and_go_in_order_repeat_nothing_and_keep_the_order() -> Result<()> {
    let stage = Stage::new(2).await?;
    let config = || ConsumerConfig { drain_max: Duration::from_secs(20), ..stage.config(RetryConfig::empty()) };
    let first = stage.start(config())?;
    let mut values = produced(&stage, 10, 0..100).await?;
    let second = stage.start(config())?;
    values.extend(produced(&stage, 10, 100..300).await?);
    stage.world.until_done(200).await?;
    first.stop().await?;
    values.extend(produced(&stage, 10, 300..400).await?);
    let done = stage.world.until_done(400).await?;
    assert_eq!(by_key(&done), by_key(&values), "each once, each key in its order");
    second.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_dies_loses_nothing() -> Result<()> {
    let stage = Stage::new(2).await?;
    let config = || stage.config(RetryConfig::empty());
    let (first, second) = (stage.start(config())?, stage.start(config())?);
    let mut values = produced(&stage, 10, 0..200).await?;
    stage.world.until_done(50).await?;
    first.kill().await;
    values.extend(produced(&stage, 10, 200..300).await?);
    let third = stage.start(config())?;
    let all: BTreeSet<&String> = values.iter().collect();
    let seen = async || {
        let done = stage.world.done();
        (done.iter().collect::<BTreeSet<_>>().len() == all.len()).then_some(done)
    };
    let done = devstack::eventually("all are handled", crate::stage::DEADLINE, seen).await?;
    // What was repeated aside, each key is in order: the first handling of each.
    let mut once = BTreeSet::new();
    let firsts: Vec<String> = done.into_iter().filter(|value| once.insert(value.clone())).collect();
    assert_eq!(by_key(&firsts), by_key(&values));
    second.stop().await?;
    third.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_does_not_end_holds_up_no_rebalance() -> Result<()> {
    let stage = Stage::new(2).await?;
    let config = || ConsumerConfig { drain_max: Duration::from_millis(200), ..stage.config(RetryConfig::empty()) };
    ["0:stuck", "1:stuck"].iter().for_each(|value| stage.world.answer(value, Answer::Waits));
    stage.produce(&["0:stuck", "1:stuck"]).await?;
    let first = stage.start(config())?;
    stage.world.until_attempted("0:stuck", 1).await?;
    stage.world.until_attempted("1:stuck", 1).await?;
    let second = stage.start(config())?;
    // One of the two went to the second member, which begins it anew; the first one's attempt at it was dropped.
    let repeated = async || {
        let count = stage.world.attempts("0:stuck").len() + stage.world.attempts("1:stuck").len();
        (count == 3).then_some(())
    };
    devstack::eventually("the other member takes over", crate::stage::DEADLINE, repeated).await?;
    ["0:stuck", "1:stuck"].iter().for_each(|value| stage.world.open_gate(value));
    stage.produce(&["0:a", "1:b"]).await?;
    assert_eq!(stage.world.until_done(4).await?.len(), 4, "each was handled once");
    first.stop().await?;
    second.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_a_partition_moves_with_it() -> Result<()> {
    let stage = Stage::new(2).await?;
    let config = || stage.config(RetryConfig::empty().exhausted(Exhausted::Block));
    ["0:bad", "1:bad"].iter().for_each(|value| stage.world.answer(value, Answer::Fails("bad")));
    stage.produce(&["0:bad", "1:bad", "0:a", "1:b"]).await?;
    let first = stage.start(config())?;
    stage.until_blocked(0, 0).await?;
    stage.until_blocked(1, 0).await?;
    let second = stage.start(config())?;
    first.stop().await?;
    // Whoever has them by now: the partitions stand, without another attempt, and a command finds their owner.
    stage.command(Verb::Skip, 0, 0).await?;
    stage.command(Verb::Skip, 1, 0).await?;
    let done: BTreeSet<String> = stage.world.until_done(2).await?.into_iter().collect();
    assert_eq!(done, ["0:a".to_owned(), "1:b".to_owned()].into());
    assert_eq!(stage.until_dead(2).await?.len(), 2);
    assert_eq!((stage.world.attempts("0:bad").len(), stage.world.attempts("1:bad").len()), (1, 1));
    second.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_ignored_and_what_is_parked_move_with_their_partitions() -> Result<()> {
    let ignores = Stage::new(1).await?;
    let parks = ignores.beside(1).await?;
    let config = || {
        let mut config = ignores.config(RetryConfig::empty().exhausted(Exhausted::Block));
        config.topics.insert(parks.topic.clone(), RetryConfig::empty().exhausted(Exhausted::ParkKey));
        config
    };
    let world = &ignores.world;
    ["0:i1", "0:i2", "a:p1"].iter().for_each(|value| world.answer(value, Answer::Fails("bad")));
    ignores.produce(&["0:i1"]).await?;
    parks.produce(&["a:p1", "a:p2"]).await?;
    let first = ignores.start(config())?;
    ignores.until_blocked(0, 0).await?;
    ignores.command(Verb::Ignore, 0, 0).await?;
    ignores.until_dead(1).await?;
    let is_parked = |state: &Option<PartitionState>| state.as_ref().is_some_and(|state| state.parked.contains_key(&0));
    parks.until_state("the key is parked", 0, is_parked).await?;
    let second = ignores.start(config())?;
    first.stop().await?;

    ignores.produce(&["0:i2", "0:i3"]).await?;
    parks.produce(&["a:p3", "b:p4"]).await?;
    let done: BTreeSet<String> = world.until_done(2).await?.into_iter().collect();
    assert_eq!(done, ["0:i3".to_owned(), "b:p4".to_owned()].into(), "the parked key waits, nothing stands");
    let letters = ignores.until_dead(2).await?;
    let letters: Vec<_> = letters.iter().map(|(value, headers)| (&value[..], &headers["dlq-reason"][..])).collect();
    assert_eq!(letters, [("0:i1", "skipped"), ("0:i2", "ignored")]);
    assert_eq!(ignores.state(0).await?.map(|state| state.state), Some(BlockingState::IgnoringAll));
    world.answer("a:p1", Answer::Handled);
    parks.command(Verb::Unpark, 0, 0).await?;
    assert_eq!(world.until_done(5).await?[2..], ["a:p1", "a:p2", "a:p3"]);
    assert_eq!((world.attempts("0:i1").len(), world.attempts("a:p1").len()), (1, 2), "none was tried for the move");
    second.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_move_with_their_partitions_and_are_not_early() -> Result<()> {
    const DELAY: Duration = Duration::from_secs(3);
    for retries in [
        RetryConfig::finite_blocking_retry([DELAY]),
        RetryConfig::infinite_blocking_retry(DELAY),
        RetryConfig::non_blocking_retry([DELAY]),
        RetryConfig::blocking_followed_by_non_blocking_retry([DELAY], [DELAY]),
    ] {
        let stage = Stage::new(2).await?;
        let config = || stage.config(retries.clone());
        let values = ["0:x", "1:x"];
        values.iter().for_each(|value| stage.world.answer(value, Answer::Fails("away")));
        stage.produce(&values).await?;
        let first = stage.start(config())?;
        for value in values {
            stage.world.until_attempted(value, 1).await?;
        }
        // While both wait for their second attempt.
        let second = stage.start(config())?;
        first.stop().await?;
        values.iter().for_each(|value| stage.world.answer(value, Answer::Handled));
        let done: BTreeSet<String> = stage.world.until_done(2).await?.into_iter().collect();
        assert_eq!(done, values.map(str::to_owned).into());
        for value in values {
            let attempts = stage.world.attempts(value);
            let [before, after] = &attempts[..] else { panic!("{retries:?}: {attempts:?}") };
            let since = if after.topic == stage.topic { before.at_ms } else { after.timestamp_ms };
            let waited = after.at_ms - since;
            assert!(waited >= i64::try_from(DELAY.as_millis())?, "{retries:?}: {waited} ms");
        }
        second.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_and_a_record_that_is_being_left_out_move_with_their_partitions() -> Result<()> {
    let stage = Stage::new(2).await?;
    let config = || stage.config(RetryConfig::empty().exhausted(Exhausted::Block));
    // The dead letters take nothing for now, so that it stays on its way there.
    stage.create_with(&stage.dead_letter_topic(), "max.message.bytes", "1").await?;
    stage.world.answer("0:bad", Answer::Fails("bad"));
    stage.produce(&["0:bad", "0:b"]).await?;
    let first = stage.start(config())?;
    stage.until_blocked(0, 0).await?;
    stage.command(Verb::Skip, 0, 0).await?;
    let leaves_out =
        |state: &Option<PartitionState>| state.as_ref().is_some_and(|state| state.state == BlockingState::IgnoringOnce);
    stage.until_state("it is being left out", 0, leaves_out).await?;
    let pause = stage.command(Verb::Pause, 1, 0).await?;
    stage.until_audited(&pause, 1).await?;
    let second = stage.start(config())?;
    first.stop().await?;

    stage.produce(&["1:c"]).await?;
    stage.set(&stage.dead_letter_topic(), "max.message.bytes", "1000000").await?;
    let letters = stage.until_dead(1).await?;
    assert_eq!((letters[0].0.as_str(), letters[0].1["dlq-reason"].as_str()), ("0:bad", "skipped"));
    assert_eq!(stage.world.until_done(1).await?, ["0:b"]);
    stage.until_ordinary(0).await?;
    assert_eq!((stage.world.attempts("0:bad").len(), stage.world.attempts("1:c").len()), (1, 0));
    stage.command(Verb::Resume, 1, 0).await?;
    assert_eq!(stage.world.until_done(2).await?[1], "1:c");
    second.stop().await
}

/// What a bootstrap server does whose broker is not there yet: it takes connections and drops them, until it is told to lead on.
async fn bootstrap(listener: TcpListener, broker: String, leads_on: Arc<AtomicBool>) -> std::io::Result<()> {
    loop {
        let (mut client, _) = listener.accept().await?;
        if leads_on.load(Ordering::Relaxed) {
            let mut server = TcpStream::connect(&broker).await?;
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_are_away_at_the_start_are_waited_for() -> Result<()> {
    let stage = Stage::new(1).await?;
    let values = produced(&stage, 1, 0..3).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let leads_on = Arc::new(AtomicBool::new(false));
    let bootstrap = tokio::spawn(bootstrap(listener, stage.servers().to_owned(), Arc::clone(&leads_on)));
    let mut config = stage.config(RetryConfig::empty());
    config.settings.insert("bootstrap.servers".to_owned(), address);
    let mut member = stage.start(config)?;
    // Longer than the brokers may take for one answer.
    assert!(!member.ends_within(Duration::from_secs(7)).await, "it gave up");
    leads_on.store(true, Ordering::Relaxed);
    assert_eq!(stage.world.until_done(3).await?, values);
    bootstrap.abort();
    member.stop().await
}
