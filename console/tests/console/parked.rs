//! Parked keys: shown, let go on by the API and on the command line, and handled in order. By the page: `browser`.

use anyhow::{Result, ensure};
use devstack::eventually;
use messaging::retry::{Exhausted, RetryConfig};
use serde_json::{Value, json};

use crate::stage::{Console, DEADLINE, Mended, Stage};

/// Waits until just these are parked: offset and key.
async fn until_parked(console: &Console, stage: &Stage, expected: &[(i64, &str)]) -> Result<Value> {
    let holds = |all: &Value| {
        let rows: Vec<&Value> = all.as_array()?.iter().filter(|row| row["group"] == stage.group).collect();
        let place = |row: &&Value| Some((row["offset"].as_i64()?, row["stuck"]["key"].as_str()?.to_owned()));
        let places: Vec<(i64, String)> = rows.iter().filter_map(place).collect();
        let is_all = places.iter().map(|(offset, key)| (*offset, key.as_str())).eq(expected.iter().copied());
        is_all.then(|| json!(rows))
    };
    console.until("the keys that are parked", "/v1/parked", holds).await
}

async fn until_handled(mended: &Mended, expected: &[&str]) -> Result<()> {
    let all = async || (mended.handled() == expected).then_some(());
    let found = eventually("all is handled, in order", DEADLINE, all).await;
    found.map_err(|error| error.context(format!("{:?}", mended.handled())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_key_goes_on_in_order_by_the_api_and_on_the_command_line() -> Result<()> {
    let stage = Stage::new(1).await?;
    for (key, value) in
        [("ann", "bad a1"), ("bob", "bad b1"), ("ann", "a2"), ("cleo", "c1"), ("ann", "a3"), ("bob", "b2")]
    {
        stage.produce(0, key, value).await?;
    }
    let mended = Mended::default();
    let parks = RetryConfig::empty().exhausted(Exhausted::ParkKey);
    let member = stage.consume_with(parks, mended.clone())?;
    let console = stage.console(&["--only-groups", &stage.group]).await?;
    let rows = until_parked(&console, &stage, &[(0, "ann"), (1, "bob")]).await?;
    let stuck = &rows[0]["stuck"];
    ensure!(stuck["class"] == "provider-away" && stuck["error"] == "nobody takes bad a1", "{rows}");
    ensure!(rows[0]["topic"] == *stage.topic && rows[0]["partition"] == 0 && stuck["attempts"] == 1, "{rows}");
    until_handled(&mended, &["c1"]).await?;
    let page = console.http.get(&console.url).send().await?.text().await?;
    let section = page.split_once("id=\"parked\"").and_then(|(_, rest)| rest.split_once("</section>"));
    let section = section.map(|(section, _)| section).unwrap_or_default();
    for shown in ["<code>ann</code>", "<code>bob</code>", "nobody takes bad b1", "Unpark", "Skip once"] {
        ensure!(section.contains(shown), "{shown}: {section}");
    }

    // Nothing is mended: it is tried, and parked as before.
    let unpark = json!({"group": stage.group, "verb": "unpark", "topic": stage.topic, "partition": 0, "offset": 0,
        "reason": "mended", "confirm": "0@0"});
    let (status, sent) = console.post_json("/v1/commands", &unpark).await?;
    ensure!(status == 200 && sent["event"] == "followed", "{status} {sent}");
    let tried = async || (mended.refused() == 3).then_some(());
    eventually("it was tried again", DEADLINE, tried).await?;
    until_parked(&console, &stage, &[(0, "ann"), (1, "bob")]).await?;
    ensure!(mended.handled() == ["c1"], "what is behind it waits: {:?}", mended.handled());

    mended.mend(true);
    let (status, sent) = console.post_json("/v1/commands", &unpark).await?;
    ensure!(status == 200 && sent["event"] == "followed", "{status} {sent}");
    until_handled(&mended, &["c1", "bad a1", "a2", "a3"]).await?;
    until_parked(&console, &stage, &[(1, "bob")]).await?;
    let of = ["--group", &stage.group, "--topic", &stage.topic, "--partition", "0", "--reason", "mended"];
    let unpark = [&["parked", "unpark", "--offset", "1"][..], &of].concat();
    let (sent, code) = stage.verb(&unpark).await?;
    ensure!(code == 0 && sent["event"] == "followed", "{sent}");
    until_handled(&mended, &["c1", "bad a1", "a2", "a3", "bad b1", "b2"]).await?;
    until_parked(&console, &stage, &[]).await?;
    let caught_up = |all: &Value| {
        all.as_array()?.iter().any(|group| group["cause"] == "caught-up" && group["lag_records"] == 0).then_some(())
    };
    console.until("the group is caught up", "/v1/groups", caught_up).await?;
    member.stop().await
}
