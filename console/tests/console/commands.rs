//! What an operator does to partitions and keys, by the API and on the command line; and what of records nobody may see.

use anyhow::{Context as _, Result, ensure};
use devstack::eventually;
use messaging::retry::{Exhausted, RetryConfig};
use serde_json::{Value, json};

use crate::stage::{Console, DEADLINE, Stage, text};

fn blocks() -> RetryConfig {
    RetryConfig::empty().exhausted(Exhausted::Block)
}

async fn until_blocked(console: &Console, group: &str, offset: i64) -> Result<Value> {
    let stands = |all: &Value| {
        let held = all.as_array()?.iter().find(|held| held["group"] == group)?;
        held["blocked"]
            .get(offset.to_string())
            .is_some_and(|stuck| stuck["waits_for"] == "operator")
            .then(|| held.clone())
    };
    console.until("the partition stands", "/v1/blocking", stands).await
}

async fn until_free(console: &Console, group: &str) -> Result<()> {
    let is_free = |all: &Value| all.as_array()?.iter().all(|held| held["group"] != group).then_some(());
    console.until("nothing holds the partition", "/v1/blocking", is_free).await
}

/// Sends a command and gives status and what came of it.
async fn command(console: &Console, stage: &Stage, verb: &str, offset: Option<i64>) -> Result<(u16, Value)> {
    let confirm = offset.map_or_else(|| "0".to_owned(), |offset| format!("0@{offset}"));
    let body = json!({"group": stage.group, "verb": verb, "topic": stage.topic, "partition": 0, "offset": offset,
        "reason": "a test", "confirm": confirm});
    console.post_json("/v1/commands", &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_tried_again_ignored_paused_and_resumed_by_name() -> Result<()> {
    let stage = Stage::new(1).await?;
    stage.produce(0, "ann", "bad 0").await?;
    let member = stage.consume(blocks(), "bad")?;
    let console = stage.console(&[]).await?;
    until_blocked(&console, &stage.group, 0).await?;
    let record = console.get(&format!("/v1/records/{}/0/0", stage.topic)).await?;
    ensure!(record["headers"] == json!([["trace-id", "t-17"]]), "what it came with: {record}");
    for (verb, offset, expected) in [
        ("skip", Some(1), 409),
        ("unpark", Some(0), 409),
        ("skip", None, 400),
        ("pause", Some(0), 400),
        ("lose", Some(0), 400),
    ] {
        let (status, problem) = command(&console, &stage, verb, offset).await?;
        ensure!(status == expected, "{verb} {offset:?}: {status} {problem}");
    }
    let nowhere = json!({"group": "nobody", "verb": "skip", "topic": stage.topic, "partition": 0, "offset": 0,
        "reason": "x", "confirm": "0@0"});
    ensure!(console.post_json("/v1/commands", &nowhere).await?.0 == 404);

    let followed = |(status, sent): (u16, Value)| ensure_followed(status, &sent);
    followed(command(&console, &stage, "unblock", Some(0)).await?)?;
    let attempts = |all: &Value| {
        let held = all.as_array()?.iter().find(|held| held["group"] == stage.group)?;
        (held["blocked"]["0"]["attempts"].as_u64()? >= 1 && held["state"] == "blocked").then_some(())
    };
    console.until("it stands again", "/v1/blocking", attempts).await?;
    until_blocked(&console, &stage.group, 0).await?;
    followed(command(&console, &stage, "ignore", Some(0)).await?)?;
    stage.produce(0, "ann", "bad 1").await?;
    let letters = |all: &Value| {
        let of = all.as_array()?.iter().find(|of| of["topic"] == stage.dead_letter_topic())?;
        (of["letters"] == 2).then_some(())
    };
    console.until("both are dead letters", "/v1/dead-letters", letters).await?;
    followed(command(&console, &stage, "unblock", Some(0)).await?)?;
    until_free(&console, &stage.group).await?;

    followed(command(&console, &stage, "pause", None).await?)?;
    let cause = |expected: &'static str| {
        let group = stage.group.clone();
        move |all: &Value| {
            let found = all.as_array()?.iter().find(|found| found["name"] == group)?;
            (found["cause"] == expected).then_some(())
        }
    };
    console.until("it is paused", "/v1/groups", cause("paused")).await?;
    followed(command(&console, &stage, "resume", None).await?)?;
    console.until("it goes on", "/v1/groups", cause("caught-up")).await?;
    member.stop().await?;
    stage.produce(0, "ann", "good").await?;
    console.until("nobody consumes", "/v1/groups", cause("no-member")).await?;
    Ok(())
}

fn ensure_followed(status: u16, sent: &Value) -> Result<()> {
    ensure!(status == 200 && sent["event"] == "followed", "{status} {sent}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_shows_parked_keys_and_lets_them_go_on() -> Result<()> {
    let stage = Stage::new(1).await?;
    stage.produce(0, "ann", "bad").await?;
    stage.produce(0, "ann", "good").await?;
    let member = stage.consume(RetryConfig::empty().exhausted(Exhausted::ParkKey), "bad")?;
    let parked = async || {
        let (rows, code) = stage.verb(&["parked"]).await.ok()?;
        (code == 0).then(|| rows.as_array()?.first().cloned()).flatten()
    };
    let row = eventually("a parked key", DEADLINE, parked).await?;
    ensure!(row["offset"] == 0 && row["stuck"]["key"] == "ann" && row["stuck"]["class"] == "refused", "{row}");
    let of = ["--group", &stage.group, "--topic", &stage.topic, "--partition", "0", "--reason", "mended"];
    let unpark = [&["parked", "unpark", "--offset", "1"][..], &of].concat();
    ensure!(stage.verb(&unpark).await?.1 == 2, "nothing is parked there");
    let skip = [&["parked", "skip", "--offset", "0"][..], &of].concat();
    let (sent, code) = stage.verb(&skip).await?;
    ensure!(code == 0 && sent["event"] == "followed", "{sent}");
    let is_caught_up = async || {
        let (rows, _) = stage.verb(&["groups"]).await.ok()?;
        (rows.as_array()?.first()?["cause"] == "caught-up").then_some(())
    };
    eventually("its key goes on", DEADLINE, is_caught_up).await?;
    let (rows, _) = stage.verb(&["dead-letters"]).await?;
    let ours = rows.as_array().context("rows")?.iter().find(|row| row["topic"] == stage.dead_letter_topic());
    ensure!(ours.is_some_and(|row| row["letters"] == 1 && row["reason"] == "skipped"), "{rows}");
    let pause = [&["blocking", "pause"][..], &of].concat();
    ensure!(stage.verb(&pause).await?.0["event"] == "followed");
    let (held, _) = stage.verb(&["blocking"]).await?;
    ensure!(
        held.as_array().is_some_and(|rows| rows.iter().any(|row| row["group"] == stage.group && row["paused"] == true))
    );
    member.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_rules_hide_is_nowhere_to_be_seen() -> Result<()> {
    let stage = Stage::new(1).await?;
    let rules = format!(
        "[[rule]]\ntopics = [\"{}\"]\nfields = [\"/card/number\"]\nkey = true\nerrors = true\nheaders = [\"own\"]\n",
        stage.topic
    );
    let rules = stage.file("redaction.toml", &rules)?;
    stage.produce(0, "s3cret-key", r#"{"card":{"number":"s3cret-card"},"bad":true}"#).await?;
    let member = stage.consume(blocks(), "bad")?;
    let console = stage.console(&["--redaction-file", &rules.display().to_string()]).await?;
    let held = until_blocked(&console, &stage.group, 0).await?;
    ensure!(held["blocked"]["0"]["key"] == "•••" && held["blocked"]["0"]["error"] == "•••", "{held}");
    let record = console.get(&format!("/v1/records/{}/0/0", stage.topic)).await?;
    ensure!(record["key"] == "•••" && record["value"]["json"]["card"]["number"] == "•••", "{record}");
    ensure!(record["value"]["json"]["bad"] == true, "{record}");
    ensure_followed_by_skip(&console, &stage).await?;
    let dead = stage.dead_letter_topic();
    let letters = format!("/v1/dead-letters/{dead}");
    let first = |all: &Value| all["letters"].as_array()?.first().cloned();
    let letter = console.until("the letter is shown", &letters, first).await?;
    ensure!(letter["value"]["json"]["card"]["number"] == "•••" && letter["key"] == "•••", "{letter}");
    for path in ["/", "/v1/overview", "/v1/audit", letters.as_str()] {
        let shown = console.http.get(format!("{}{path}", console.url)).send().await?.text().await?;
        ensure!(!shown.contains("s3cret"), "{path}: {shown}");
    }
    ensure!(text(&stage.committed_records().await?[0]).contains("s3cret-card"), "what is hidden is there");
    // It is no browser of topics.
    let other = Stage::new(1).await?;
    other.produce(0, "k", "v").await?;
    let answer = console.http.get(format!("{}/v1/records/{}/0/0", console.url, other.topic)).send().await?;
    ensure!(answer.status() == 404);
    member.stop().await
}

async fn ensure_followed_by_skip(console: &Console, stage: &Stage) -> Result<()> {
    let (status, sent) = command(console, stage, "skip", Some(0)).await?;
    ensure_followed(status, &sent)
}
