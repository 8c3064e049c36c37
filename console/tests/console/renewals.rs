//! The worked example, its operator at the console.

use anyhow::{Result, ensure};
use devstack::Part;
use messaging::{blocking::Command, settings::Settings};
use serde_json::{Value, json};

use crate::stage::Console;

#[path = "../../../messaging/examples/renewals.rs"]
#[expect(dead_code, reason = "its `main` is for the command line")]
pub mod example;

#[tokio::test(flavor = "multi_thread")]
async fn a_blocked_renewal_is_seen_and_skipped_and_the_consumer_goes_on() -> Result<()> {
    let endpoints = tokio::task::spawn_blocking(|| devstack::shared(&[Part::Kafka])).await??;
    let servers = endpoints.kafka.expect("a broker");
    let console = Console::start(&servers, &[]).await?;
    let tag = uuid::Uuid::now_v7().simple().to_string();
    let operate = async |_: &Settings, group: &str, command: Command| {
        let place = (command.topic.as_str(), command.partition, command.offset);
        let stuck = |blocking: &Value| {
            let held = blocking.as_array()?.iter().find(|held| held["group"] == group && held["topic"] == place.0)?;
            (held["partition"] == place.1)
                .then(|| held["blocked"][place.2.to_string()].clone())
                .filter(Value::is_object)
        };
        let stuck = console.until("the renewal is seen", "/v1/blocking", stuck).await?;
        ensure!(stuck["key"] == "bob" && stuck["class"] == "unreadable" && stuck["waits_for"] == "operator", "{stuck}");
        let cause = |groups: &Value| {
            let found = groups.as_array()?.iter().find(|found| found["name"] == group)?;
            (found["cause"] == "blocked" && found["lag_records"].as_i64()? > 0).then_some(())
        };
        console.until("why the group is behind", "/v1/groups", cause).await?;
        let record = console.get(&format!("/v1/records/{}/{}/{}", place.0, place.1, place.2)).await?;
        ensure!(record["key"] == "bob" && record["value"]["json"]["month"] == "two and a half", "{record}");
        let body = json!({"group": group, "verb": "skip", "topic": place.0, "partition": place.1, "offset": place.2,
            "reason": "the request is bad", "confirm": format!("{}@{}", place.1, place.2)});
        let (status, sent) = console.post_json("/v1/commands", &body).await?;
        ensure!(status == 200 && sent["event"] == "followed", "{status} {sent}");
        Ok(())
    };
    let outcome = example::run(&servers, &tag, operate, |_| {}).await?;
    ensure!(outcome.charged.len() == 12, "the others are charged: {outcome:?}");
    let topic = format!("renewals.requested-{tag}-renewals-{tag}-dlq");
    // The topic is there before the letter is.
    let letters = |all: &Value| all.as_array()?.iter().find(|of| of["topic"] == topic)?["letters"].as_u64();
    let letter = |all: &Value| letters(all).filter(|letters| *letters > 0);
    let letters = console.until("it is a dead letter", "/v1/dead-letters", letter).await?;
    ensure!(letters == 1, "{letters}");
    let audited = |all: &Value| {
        let skipped = |row: &&Value| row["event"] == "followed" && row["command"]["reason"] == "the request is bad";
        all.as_array()?.iter().find(skipped).map(|row| row["command"]["by"].clone())
    };
    let by = console.until("it is audited", "/v1/audit", audited).await?;
    ensure!(by == "somebody on this machine", "{by}");
    Ok(())
}
