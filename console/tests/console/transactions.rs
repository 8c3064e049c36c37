//! Records behind an open transaction, and groups that wait for them.

use anyhow::{Result, ensure};
use messaging::retry::RetryConfig;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use serde_json::Value;

use crate::stage::{DEADLINE, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_is_seen_and_named_as_the_cause() -> Result<()> {
    let stage = Stage::new(1).await?;
    stage.produce(0, "k", "first").await?;
    let member = stage.consume(RetryConfig::empty(), "never")?;
    let console = stage.console(&[]).await?;
    let cause = |expected: &'static str| {
        let group = stage.group.clone();
        move |all: &Value| {
            let found = all["groups"].as_array()?.iter().find(|found| found["name"] == group)?;
            (found["cause"] == expected).then(|| found.clone())
        }
    };
    console.until("the group is caught up", "/v1/overview", cause("caught-up")).await?;
    let mut config = stage.client();
    config.set("transactional.id", &stage.group);
    let producer: ThreadedProducer<DefaultProducerContext> = config.create()?;
    let topic = stage.topic.clone();
    let producer = tokio::task::spawn_blocking(move || -> Result<_> {
        producer.init_transactions(DEADLINE)?;
        producer.begin_transaction()?;
        producer.send(BaseRecord::<str, str>::to(&topic).payload("second")).map_err(|(error, _)| error)?;
        producer.flush(DEADLINE)?;
        Ok(producer)
    })
    .await??;
    let group = console.until("why it is behind", "/v1/overview", cause("open-transaction")).await?;
    ensure!(group["lag_records"] == 1, "{group}");
    let open = |all: &Value| {
        let found = all["open_transactions"].as_array()?.iter().find(|found| found["topic"] == stage.topic)?;
        (found["last_stable_offset"] == 1 && found["high_watermark"] == 2).then_some(())
    };
    console.until("the partition is held back", "/v1/overview", open).await?;
    tokio::task::spawn_blocking(move || producer.commit_transaction(DEADLINE)).await??;
    console.until("the group goes on", "/v1/overview", cause("caught-up")).await?;
    let ended = |all: &Value| {
        all["open_transactions"].as_array()?.iter().all(|found| found["topic"] != stage.topic).then_some(())
    };
    console.until("nothing is held back", "/v1/overview", ended).await?;
    member.stop().await
}
