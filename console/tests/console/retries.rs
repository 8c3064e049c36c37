//! Records that wait in retry topics, and when the next of them is due.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use messaging::retry::RetryConfig;
use rdkafka::{Message as _, message::Headers as _};
use serde_json::Value;

use crate::stage::{Mended, Stage};

/// Nobody waits for it: what waits in the topic waits for as long as the test runs.
const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_topic_tells_what_waits_and_when_the_next_is_due() -> Result<()> {
    let stage = Stage::new(1).await?;
    for value in ["bad 1", "good", "bad 2"] {
        stage.produce(0, "ann", value).await?;
    }
    let mended = Mended::default();
    let member = stage.consume_with(RetryConfig::non_blocking_retry([HOUR, HOUR * 2]), mended.clone())?;
    let console = stage.console(&["--only-groups", &stage.group]).await?;
    let topic = format!("{}-{}-retry-0", stage.topic, stage.group);
    let row =
        |all: &Value, number: u64| all["retry_topics"].as_array()?.iter().find(|row| row["number"] == number).cloned();
    let waits = |all: &Value| row(all, 0).filter(|row| row["waiting_records"] == 2 && row["next_due_at"].is_string());
    let waiting = console.until("two records wait", "/v1/overview", waits).await?;
    ensure!(waiting["topic"] == *topic && waiting["source_topic"] == *stage.topic, "{waiting}");
    ensure!(waiting["group"] == *stage.group, "{waiting}");

    // When the broker took it, and the delay behind that.
    let first = stage.committed_records_of(&topic).await?.into_iter().next().context("a record waits")?;
    let headers = first.headers().context("headers")?;
    let backoff = headers.iter().find(|header| header.key == "backOffTimeMs").context("a delay")?.value;
    let backoff: i64 = std::str::from_utf8(backoff.context("a number")?)?.parse()?;
    ensure!(Duration::from_millis(backoff.unsigned_abs()) >= HOUR, "{backoff}");
    let due = jiff::Timestamp::from_millisecond(first.timestamp().to_millis().context("a time")? + backoff)?;
    ensure!(waiting["next_due_at"] == due.to_string(), "{waiting}, not {due}");

    let all = console.get("/v1/overview").await?;
    let behind = row(&all, 1).context("the second topic")?;
    ensure!(behind["waiting_records"] == 0 && behind["next_due_at"].is_null(), "{behind}");
    let page = console.http.get(&console.url).send().await?.text().await?;
    let shown = format!("<td data-label=\"Waiting\">2</td><td data-label=\"Next due\"><time datetime=\"{due}\">");
    ensure!(page.contains(&shown), "{page}");
    ensure!(mended.handled() == ["good"], "what is behind it goes on: {:?}", mended.handled());
    member.stop().await?;

    // Nobody has committed anything of it, and nobody has it.
    let waits_on = |all: &Value| {
        let is_empty =
            all["groups"].as_array()?.iter().all(|group| group["members"].as_array().is_some_and(Vec::is_empty));
        row(all, 0).filter(|row| is_empty && row["waiting_records"] == 2 && row["next_due_at"] == due.to_string())
    };
    console.until("they wait on without a member", "/v1/overview", waits_on).await.map(drop)
}
