//! Retry policies.

use std::time::Duration;

use anyhow::Result;
use messaging::{
    brake::BrakeLimits,
    consumer::{ConsumerConfig, Order},
    retry::{RetryConfig, RetryPolicy, retry_topic},
};
use rdkafka::{Message as _, message::Headers as _};

use crate::stage::{Answer, Attempt, Stage, text};

const MS: Duration = Duration::from_millis(1);

fn gaps_ms(attempts: &[Attempt]) -> Vec<i64> {
    attempts.windows(2).map(|pair| pair[1].at_ms - pair[0].at_ms).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn finite_blocking_retries_keep_the_order_and_end_as_a_dead_letter() -> Result<()> {
    let stage = Stage::new(1).await?;
    stage.world.answer("a:0", Answer::Fails("away"));
    stage.produce(&["a:0", "b:1", "a:2"]).await?;
    let config = stage.config(RetryConfig::finite_blocking_retry([100 * MS, 300 * MS]));
    let member = stage.start(ConsumerConfig { order: Order::ByPartition, ..config })?;
    assert_eq!(stage.world.until_done(2).await?, ["b:1", "a:2"]);
    let attempts = stage.world.attempts("a:0");
    let gaps = gaps_ms(&attempts);
    assert!(gaps.len() == 2 && gaps[0] >= 100 && gaps[1] >= 300, "never early: {gaps:?}");
    let first_of_next = stage.world.attempts("b:1")[0].at_ms;
    assert!(attempts.iter().all(|attempt| attempt.at_ms <= first_of_next), "nothing is begun behind it");

    let letters = stage.until_dead(1).await?;
    let header = |name: &str| letters[0].1.get(name).map(String::as_str);
    assert_eq!((letters.len(), letters[0].0.as_str()), (1, "a:0"));
    for (name, expected) in [
        ("kafka_dlt-original-topic", stage.topic.as_str()),
        ("kafka_dlt-original-partition", "0"),
        ("kafka_dlt-original-offset", "0"),
        ("kafka_dlt-consumer-group", &stage.group),
        ("kafka_dlt-exception-message", "not now"),
        ("dlq-reason", "away"),
        ("dlq-redrive-count", "0"),
    ] {
        assert_eq!(header(name), Some(expected), "{name}");
    }
    stage.until_committed(0, 3).await?;
    stage.until_ordinary(0).await?;
    member.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn finite_blocking_retries_are_counted_and_never_early_over_a_restart() -> Result<()> {
    let stage = Stage::new(1).await?;
    stage.world.answer("a:0", Answer::Fails("away"));
    stage.produce(&["a:0", "a:1"]).await?;
    let config = || stage.config(RetryConfig::finite_blocking_retry([50 * MS, 5000 * MS, 50 * MS, 50 * MS]));
    let member = stage.start(config())?;
    stage.world.until_attempted("a:0", 2).await?;
    member.stop().await?;
    let before = stage.state(0).await?.expect("held").blocked[&0].attempts as usize;
    assert_eq!(before, stage.world.attempts("a:0").len(), "what was attempted is kept");

    let member = stage.start(config())?;
    assert_eq!(stage.until_dead(1).await?[0].0, "a:0");
    let attempts = stage.world.attempts("a:0");
    assert_eq!(attempts.len(), 5, "the first attempt and four retries, in both lives together");
    assert!(gaps_ms(&attempts)[1] >= 5000, "a new owner is not early either: {:?}", gaps_ms(&attempts));
    assert_eq!(stage.world.until_done(1).await?, ["a:1"]);
    member.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn exponential_and_infinite_retries_end_when_the_world_is_well_also_over_a_restart() -> Result<()> {
    for retries in [
        RetryConfig::exponential_backoff_blocking_retry(50 * MS, 2.0, 400 * MS, None),
        RetryConfig::infinite_blocking_retry(50 * MS).jitter_percent(20),
    ] {
        let is_infinite = matches!(&retries.policy, RetryPolicy::Blocking(backoffs) if *backoffs
            == messaging::retry::BlockingBackoffs::Infinite(50 * MS));
        let stage = Stage::new(1).await?;
        stage.world.answer("a:0", Answer::Fails("away"));
        stage.produce(&["a:0", "a:1"]).await?;
        let member = stage.start(stage.config(retries.clone()))?;
        let attempts = stage.world.until_attempted("a:0", 4).await?;
        for (gap, least) in gaps_ms(&attempts).iter().zip(if is_infinite { [50; 3] } else { [50, 100, 200] }) {
            assert!(*gap >= least, "never early: {:?}", gaps_ms(&attempts));
        }
        let state = stage.until_state("it is seen", 0, Option::is_some).await?.expect("held");
        assert_eq!(state.blocked[&0].class, "away");
        member.stop().await?;

        let member = stage.start(stage.config(retries))?;
        stage.world.until_attempted("a:0", stage.world.attempts("a:0").len() + 2).await?;
        assert_eq!(stage.world.done(), [""; 0], "the later record of the key waits");
        stage.world.answer("a:0", Answer::Handled);
        assert_eq!(stage.world.until_done(2).await?, ["a:0", "a:1"]);
        stage.until_ordinary(0).await?;
        member.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn non_blocking_retries_go_by_retry_topics_and_are_never_early_also_over_a_restart() -> Result<()> {
    let stage = Stage::new(2).await?;
    let config = || stage.config(RetryConfig::non_blocking_retry([400 * MS, 1500 * MS]));
    stage.world.answer("1:x", Answer::Fails("away"));
    stage.produce(&["1:x", "1:y", "0:z"]).await?;
    let member = stage.start(config())?;
    stage.world.until_done(2).await?;
    assert_eq!(stage.world.attempts("1:x").len(), 1, "its partition goes on");
    stage.world.until_attempted("1:x", 2).await?;
    // While it waits in the second retry topic.
    member.stop().await?;
    let member = stage.start(config())?;
    let attempts = stage.world.until_attempted("1:x", 3).await?;
    for (number, delay_ms) in [(0, 400), (1, 1500)] {
        let attempt = &attempts[number + 1];
        assert_eq!(attempt.topic, retry_topic(&stage.topic, &stage.group, number));
        assert_eq!((attempt.partition, attempt.retry_attempt), (1, u32::try_from(number)? + 1));
        let waited = attempt.at_ms - attempt.timestamp_ms;
        assert!(waited >= delay_ms, "due is the broker's append time and the delay: {waited} of {delay_ms}");
    }
    let letters = stage.until_dead(1).await?;
    let header = |name: &str| letters[0].1.get(name).map(String::as_str);
    assert_eq!((header("kafka_dlt-original-partition"), header("kafka_dlt-original-offset")), (Some("1"), Some("0")));
    assert_eq!((header("kafka_dlt-original-topic"), header("GH_RetryAttempt")), (Some(stage.topic.as_str()), None));
    for number in 0..2 {
        let all = stage.read(&retry_topic(&stage.topic, &stage.group, number)).await?;
        assert_eq!((all.len(), all[0].key(), all[0].payload()), (1, Some(&b"1"[..]), Some(&b"1:x"[..])));
        let headers = all[0].headers().expect("headers");
        let header = |name: &str| text(headers.iter().find(|header| header.key == name).and_then(|found| found.value));
        assert_eq!(header("GH_OriginalTopic"), stage.topic);
        assert_eq!(header("GH_RetryAttempt"), (number + 1).to_string());
        assert_eq!(header("backOffTimeMs"), ["400", "1500"][number]);
        assert!(header("submitTimestamp").parse::<i64>()? > 0);
    }
    member.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_topics_are_made_like_their_source_and_outlast_the_longest_delay() -> Result<()> {
    let stage = Stage::new(3).await?;
    stage.set(&stage.topic, "max.message.bytes", "2000000").await?;
    let longest = Duration::from_secs(90 * 86_400);
    stage.produce(&["2:a"]).await?;
    let member = stage.start(stage.config(RetryConfig::non_blocking_retry([MS, longest])))?;
    stage.world.until_done(1).await?;
    let source = stage.replicas(&stage.topic).await?;
    assert_eq!(source.len(), 3);
    for number in 0..2 {
        let topic = retry_topic(&stage.topic, &stage.group, number);
        assert_eq!(stage.replicas(&topic).await?, source, "partitions and their replicas");
        for (name, value) in [
            ("message.timestamp.type", "LogAppendTime"),
            ("cleanup.policy", "delete"),
            ("max.message.bytes", "2000000"),
        ] {
            assert_eq!(stage.setting(&topic, name).await?, value, "{name}");
        }
        let retention_ms: u128 = stage.setting(&topic, "retention.ms").await?.parse()?;
        assert!(retention_ms > longest.as_millis(), "{retention_ms}");
    }
    member.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn blocking_retries_come_before_retry_topics_where_both_are_asked_for() -> Result<()> {
    let stage = Stage::new(1).await?;
    stage.world.answer("a:0", Answer::Fails("away"));
    stage.produce(&["a:0", "b:1"]).await?;
    let config = || stage.config(RetryConfig::blocking_followed_by_non_blocking_retry([50 * MS], [1500 * MS]));
    let member = stage.start(config())?;
    stage.world.until_attempted("a:0", 2).await?;
    // On its way to the retry topic, or there.
    member.stop().await?;
    let member = stage.start(config())?;
    let attempts = stage.world.until_attempted("a:0", 3).await?;
    let topics: Vec<_> = attempts.iter().map(|attempt| attempt.topic.clone()).collect();
    assert_eq!(topics, [stage.topic.clone(), stage.topic.clone(), retry_topic(&stage.topic, &stage.group, 0)]);
    assert_eq!(stage.until_dead(1).await?[0].0, "a:0");
    member.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_policies_by_class_and_some_are_never_retried() -> Result<()> {
    let stage = Stage::new(1).await?;
    stage.world.answer("a:0", Answer::Fails("odd"));
    stage.world.answer("b:1", Answer::Fails("bad"));
    stage.world.answer("c:2", Answer::NeverRetried("worse"));
    stage.world.answer("d:3", Answer::Panics);
    stage.produce(&["a:0", "b:1"]).await?;
    let retries = RetryConfig::finite_blocking_retry([10 * MS])
        .for_class("odd", RetryPolicy::NoRetry)
        .for_class("panic", RetryPolicy::NoRetry)
        .never_retry("bad");
    let member = stage.start(stage.config(retries.clone()))?;
    stage.until_dead(2).await?;
    member.stop().await?;
    stage.produce(&["c:2", "d:3", "e:4"]).await?;
    let member = stage.start(stage.config(retries))?;
    let mut letters = stage.until_dead(4).await?;
    letters.sort();
    let reasons: Vec<_> = letters.iter().map(|(value, headers)| (&value[..], &headers["dlq-reason"][..])).collect();
    assert_eq!(reasons, [("a:0", "odd"), ("b:1", "bad"), ("c:2", "worse"), ("d:3", "panic")]);
    for value in ["a:0", "b:1", "c:2", "d:3"] {
        assert_eq!(stage.world.attempts(value).len(), 1, "{value}");
    }
    assert_eq!(stage.world.until_done(1).await?, ["e:4"]);
    member.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_brake_stops_a_partition_instead_of_emptying_it_into_the_dead_letters() -> Result<()> {
    let stage = Stage::new(1).await?;
    let values: Vec<String> = (0..6).map(|n| format!("0:{n}")).collect();
    values.iter().for_each(|value| stage.world.answer(value, Answer::Fails("deploy")));
    stage.produce(&values.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let brake = BrakeLimits { percent_max: 100, window_records: 100, run_records: 3 };
    let config = || ConsumerConfig { brake, ..stage.config(RetryConfig::empty()) };
    let member = stage.start(config())?;
    let state = stage.until_blocked(0, 2).await?;
    assert_eq!(state.blocked[&2].class, "braked");
    assert_eq!(stage.dead_letters().await?.len(), 2);
    member.stop().await?;
    let member = stage.start(config())?;
    // The deployment is rolled back.
    values.iter().for_each(|value| stage.world.answer(value, Answer::Handled));
    stage.command(messaging::blocking::Verb::Unblock, 0, 2).await?;
    assert_eq!(stage.world.until_done(4).await?, values[2..]);
    assert_eq!(stage.world.attempts(&values[2]).len(), 2, "a restart has not released it");
    assert_eq!(stage.dead_letters().await?.len(), 2);
    member.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_topic_that_was_there_before_must_fit() -> Result<()> {
    let stage = Stage::new(1).await?;
    let retry = retry_topic(&stage.topic, &stage.group, 0);
    stage.create_with(&retry, "message.timestamp.type", "CreateTime").await?;
    stage.produce(&["a:0"]).await?;
    let config = stage.config(RetryConfig::non_blocking_retry([100 * MS]));
    let error = format!("{:#}", stage.start(config.clone())?.ended().await.expect_err("refused"));
    assert!(error.contains(&retry) && error.contains("message.timestamp.type=CreateTime"), "{error}");
    stage.set(&retry, "message.timestamp.type", "LogAppendTime").await?;
    let member = stage.start(config)?;
    assert_eq!(stage.world.until_done(1).await?, ["a:0"]);
    member.stop().await
}
