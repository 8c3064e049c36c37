//! Partitions that stand, and the commands that end it.

use anyhow::Result;
use messaging::{
    blocking::{BlockingState, Command, PartitionState, Verb},
    retry::{Exhausted, RetryConfig},
};
use rdkafka::Offset;

use crate::stage::{Answer, Stage};

fn blocks() -> RetryConfig {
    RetryConfig::empty().exhausted(Exhausted::Block)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_skip_hits_the_record_that_it_names_once_also_after_a_restart() -> Result<()> {
    let stage = Stage::new(2).await?;
    stage.world.answer("0:poison", Answer::Fails("bad"));
    stage.produce(&["0:a", "0:poison", "0:b", "1:c"]).await?;
    let member = stage.start(stage.config(blocks()))?;
    let state = stage.until_blocked(0, 1).await?;
    assert_eq!((state.state, state.blocked[&1].key.as_deref()), (BlockingState::Blocked, Some("0")));
    stage.world.until_done(2).await?;
    member.stop().await?;

    let member = stage.start(stage.config(blocks()))?;
    let wrong = stage.command(Verb::Skip, 0, 2).await?;
    assert_eq!(stage.until_audited(&wrong, 1).await?[0].event, "refused");
    assert_eq!(stage.until_blocked(0, 1).await?.blocked.len(), 1);
    assert_eq!(stage.world.attempts("0:poison").len(), 1, "it stands after a restart without another attempt");
    let nameless = Command { by: String::new(), ..Command::new(Verb::Skip, &stage.topic, 0, 1, "", "why") };
    stage.send(&nameless).await?;
    assert_eq!(stage.until_audited(&nameless, 1).await?[0].detail, "it does not say who and why");

    let skip = stage.command(Verb::Skip, 0, 1).await?;
    stage.send(&skip).await?;
    stage.world.until_done(3).await?;
    let letters = stage.until_dead(1).await?;
    let header = |name: &str| letters[0].1[name].clone();
    assert_eq!((letters[0].0.as_str(), header("dlq-reason").as_str()), ("0:poison", "skipped"), "nothing is lost");
    assert_eq!(header("kafka_dlt-exception-message"), "a tester: because");
    let audits = stage.until_audited(&skip, 2).await?;
    assert_eq!([&audits[0].event[..], &audits[1].event[..]], ["followed", "refused"], "twice does nothing more");
    stage.until_ordinary(0).await?;
    stage.until_committed(0, 3).await?;
    assert_eq!(stage.dead_letters().await?.len(), 1);
    assert_eq!(stage.world.attempts("0:poison").len(), 1);
    let events: Vec<_> = stage.audits().await?.into_iter().map(|audit| audit.event).collect();
    assert!(
        events.iter().any(|event| event == "blocked") && events.iter().any(|event| event == "left-out"),
        "{events:?}"
    );
    member.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unblocked_record_is_tried_again_and_stands_again_when_it_fails() -> Result<()> {
    let stage = Stage::new(1).await?;
    stage.world.answer("0:a", Answer::Fails("away"));
    stage.produce(&["0:a", "0:b"]).await?;
    let member = stage.start(stage.config(blocks()))?;
    stage.until_blocked(0, 0).await?;
    let unblock = stage.command(Verb::Unblock, 0, 0).await?;
    stage.send(&unblock).await?;
    stage.until_audited(&unblock, 2).await?;
    stage.until_blocked(0, 0).await?;
    assert_eq!(stage.world.attempts("0:a").len(), 2, "sent twice, tried once");
    stage.world.answer("0:a", Answer::Handled);
    stage.command(Verb::Unblock, 0, 0).await?;
    assert_eq!(stage.world.until_done(2).await?, ["0:a", "0:b"]);
    member.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ignoring_from_a_record_on_survives_a_restart_and_ends_by_its_name() -> Result<()> {
    let stage = Stage::new(1).await?;
    ["0:a", "0:b", "0:d"].iter().for_each(|value| stage.world.answer(value, Answer::Fails("bad")));
    stage.produce(&["0:a"]).await?;
    let member = stage.start(stage.config(blocks()))?;
    stage.until_blocked(0, 0).await?;
    stage.command(Verb::Ignore, 0, 0).await?;
    stage.until_dead(1).await?;
    member.stop().await?;

    let member = stage.start(stage.config(blocks()))?;
    stage.produce(&["0:b", "0:c"]).await?;
    assert_eq!(stage.world.until_done(1).await?, ["0:c"]);
    let reasons: Vec<_> =
        stage.until_dead(2).await?.into_iter().map(|(_, headers)| headers["dlq-reason"].clone()).collect();
    assert_eq!(reasons, ["skipped", "ignored"]);
    let state = stage.state(0).await?.expect("kept");
    assert_eq!(state.state, BlockingState::IgnoringAll);
    stage.command(Verb::Unblock, 0, 0).await?;
    stage.until_ordinary(0).await?;
    stage.produce(&["0:d"]).await?;
    stage.until_blocked(0, 3).await?;
    member.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_being_left_out_still_is_after_a_restart() -> Result<()> {
    let stage = Stage::new(2).await?;
    // The dead letters take nothing for now, so that it stays on its way there.
    stage.create_with(&stage.dead_letter_topic(), "max.message.bytes", "1").await?;
    stage.world.answer("0:a", Answer::Fails("bad"));
    stage.produce(&["0:a", "0:b"]).await?;
    let member = stage.start(stage.config(blocks()))?;
    stage.until_blocked(0, 0).await?;
    stage.command(Verb::Skip, 0, 0).await?;
    let leaves_out =
        |state: &Option<PartitionState>| state.as_ref().is_some_and(|state| state.state == BlockingState::IgnoringOnce);
    stage.until_state("it is being left out", 0, leaves_out).await?;
    member.stop().await?;

    let member = stage.start(stage.config(blocks()))?;
    stage.produce(&["1:c"]).await?;
    assert_eq!(stage.world.until_done(1).await?, ["1:c"], "a later record of its key waits for the letter");
    let kept = stage.state(0).await?.expect("kept");
    assert_eq!((kept.state, &kept.ignoring_once[&0][..]), (BlockingState::IgnoringOnce, "a tester: because"));
    let committed = stage.committed(0).await?;
    assert!(matches!(committed, Offset::Invalid | Offset::Offset(0)), "it is not done: {committed:?}");
    stage.set(&stage.dead_letter_topic(), "max.message.bytes", "1000000").await?;
    let letters = stage.until_dead(1).await?;
    assert_eq!((letters[0].0.as_str(), letters[0].1["dlq-reason"].as_str()), ("0:a", "skipped"));
    assert_eq!(stage.world.until_done(2).await?, ["1:c", "0:b"]);
    stage.until_ordinary(0).await?;
    stage.until_committed(0, 2).await?;
    assert_eq!((stage.dead_letters().await?.len(), stage.world.attempts("0:a").len()), (1, 1));
    member.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_come_while_nobody_consumes_are_followed_by_the_next_owner() -> Result<()> {
    let stage = Stage::new(1).await?;
    stage.world.answer("0:a", Answer::Fails("bad"));
    stage.produce(&["0:a", "0:b"]).await?;
    let member = stage.start(stage.config(blocks()))?;
    stage.until_blocked(0, 0).await?;
    member.stop().await?;
    stage.command(Verb::Skip, 0, 0).await?;
    let member = stage.start(stage.config(blocks()))?;
    assert_eq!(stage.world.until_done(1).await?, ["0:b"]);
    assert_eq!(stage.until_dead(1).await?[0].0, "0:a");
    member.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_partition_begins_nothing_until_it_is_resumed_also_after_a_restart() -> Result<()> {
    let stage = Stage::new(2).await?;
    let member = stage.start(stage.config(blocks()))?;
    stage.produce(&["0:a", "1:a"]).await?;
    stage.world.until_done(2).await?;
    let pause = stage.command(Verb::Pause, 0, 0).await?;
    stage.until_audited(&pause, 1).await?;
    member.stop().await?;

    let member = stage.start(stage.config(blocks()))?;
    stage.produce(&["0:b", "1:b"]).await?;
    assert_eq!(stage.world.until_done(3).await?[2], "1:b");
    stage.until_committed(1, 2).await?;
    assert_eq!(stage.world.attempts("0:b").len(), 0);
    let resume = stage.command(Verb::Resume, 0, 0).await?;
    assert_eq!(stage.world.until_done(4).await?[3], "0:b");
    stage.until_audited(&resume, 1).await?;
    member.stop().await?;

    let member = stage.start(stage.config(blocks()))?;
    stage.produce(&["0:c"]).await?;
    assert_eq!(stage.world.until_done(5).await?[4], "0:c");
    member.stop().await?;
    for command in [pause, resume] {
        let audits = stage.until_audited(&command, 1).await?;
        let events: Vec<_> = audits.iter().map(|audited| audited.event.as_str()).collect();
        assert_eq!(events, ["followed"], "nobody follows it a second time: {command:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_held_a_topic_holds_nothing_of_another_that_has_its_name() -> Result<()> {
    let stage = Stage::new(1).await?;
    stage.world.answer("0:a", Answer::Fails("bad"));
    stage.produce(&["0:a"]).await?;
    let member = stage.start(stage.config(blocks()))?;
    assert!(stage.until_blocked(0, 0).await?.topic_id.is_some());
    member.stop().await?;
    let skip = stage.command(Verb::Skip, 0, 0).await?;

    stage.make_anew(1).await?;
    stage.produce(&["0:b"]).await?;
    let member = stage.start(stage.config(blocks()))?;
    assert_eq!(stage.world.until_done(1).await?, ["0:b"]);
    stage.until_ordinary(0).await?;
    stage.until_committed(0, 1).await?;
    member.stop().await?;
    let audits = stage.audits().await?;
    let events: Vec<_> = audits.iter().map(|audited| (audited.event.as_str(), audited.offset)).collect();
    assert_eq!(events, [("blocked", 0), ("topic-changed", 0)], "and {skip:?} is not followed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_outside_the_log_is_seen_until_somebody_resets_it() -> Result<()> {
    let stage = Stage::new(1).await?;
    stage.produce(&["0:a", "0:b"]).await?;
    let member = stage.start(stage.config(blocks()))?;
    stage.world.until_done(2).await?;
    stage.until_committed(0, 2).await?;
    member.stop().await?;
    stage.produce(&["0:c", "0:d", "0:e"]).await?;
    stage.delete_before(0, 4).await?;

    let member = stage.start(stage.config(blocks()))?;
    let is_outside = |state: &Option<PartitionState>| state.as_ref().is_some_and(|state| state.out_of_range.is_some());
    let state = stage.until_state("it is outside", 0, is_outside).await?.expect("held");
    let outside = state.out_of_range.as_ref().expect("outside");
    assert_eq!((outside.committed, outside.low, outside.high), (2, 4, 5));
    assert!(state.waits_for_operator());
    // A group that has members takes no reset.
    member.stop().await?;
    stage.reset(0, 4).await?;
    let member = stage.start(stage.config(blocks()))?;
    assert_eq!(stage.world.until_done(3).await?[2], "0:e");
    stage.until_ordinary(0).await?;
    member.stop().await?;
    let events: Vec<_> = stage.audits().await?.into_iter().map(|audited| audited.event).collect();
    assert_eq!(events, ["out-of-range"], "it is said once");
    Ok(())
}
