//! What is not there yet is waited for; what is not there any more is never jumped over.

use acceptance::{Model, Proxy, Service, Source, System, assert_equal, scenario};
use anyhow::{Context, Result, ensure};
use devstack::{eventually, free_port};

use crate::{NOTICED_MAX, PARTITIONS, servers};

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_topic_is_waited_for() -> Result<()> {
    let system = System::new(&servers()?, PARTITIONS).await?;
    let body = async {
        system.create_database().await?;
        system.migrate().await?;
        let mut writer = system.writer(&[])?;
        let detail = writer.condition("database", true, NOTICED_MAX).await?;
        ensure!(!detail.is_empty(), "a condition says why");
        let named = async || {
            let condition = writer.conditions().await.ok()?.remove("kafka")?;
            (!condition.holds && condition.detail.contains(system.topic().name())).then_some(())
        };
        eventually("/readyz names the missing topic", NOTICED_MAX, named).await?;
        waits(&mut writer).await?;

        system.topic().create().await?;
        let records = Source::new(8, PARTITIONS, 100).records(500);
        system.topic().produce(&records)?;
        writer.ready().await?;
        assert_equal(&system, &Model::of(&records)).await
    };
    let outcome = body.await;
    system.end(outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_at_the_start_is_waited_for() -> Result<()> {
    let endpoints = servers()?;
    scenario(&endpoints, PARTITIONS, async |system| {
        let records = Source::new(16, PARTITIONS, 100).records(500);
        system.topic().produce(&records)?;
        let port = free_port()?;
        let mut writer = system.writer(&[("KAFKA_BOOTSTRAP_SERVERS", &format!("127.0.0.1:{port}"))])?;
        says(&writer, "kafka", "the brokers do not answer").await?;
        writer.condition("database", true, NOTICED_MAX).await?;
        waits(&mut writer).await?;

        // From here on the address leads to the broker.
        let _way = Proxy::on(port, endpoints.kafka.as_deref().context("a broker")?).await?;
        writer.ready().await?;
        assert_equal(system, &Model::of(&records)).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_database_and_a_missing_migration_are_waited_for() -> Result<()> {
    let system = System::new(&servers()?, PARTITIONS).await?;
    let body = async {
        system.topic().create().await?;
        let records = Source::new(9, PARTITIONS, 100).records(500);
        system.topic().produce(&records)?;
        let (mut writer, mut reader) = (system.writer(&[])?, system.reader(&[])?);
        says(&writer, "database", "does not exist").await?;
        waits(&mut writer).await?;
        waits(&mut reader).await?;

        system.create_database().await?;
        says(&writer, "database", "writer migrate").await?;
        waits(&mut writer).await?;
        waits(&mut reader).await?;

        system.migrate().await?;
        writer.ready().await?;
        assert_equal(&system, &Model::of(&records)).await?;
        reader.ready().await
    };
    let outcome = body.await;
    system.end(outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_begins_behind_the_position_stops_its_partition_where_it_is() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let mut source = Source::new(10, PARTITIONS, 200);
        let first = source.records(600);
        system.topic().produce(&first)?;
        let mut writer = system.writer(&[])?;
        writer.ready().await?;
        assert_equal(system, &Model::of(&first)).await?;
        let (status, _) = writer.stop().await?;
        ensure!(status.success(), "{status}");

        let reached = system.topic().ends()?;
        let second = source.records(600);
        system.topic().produce(&second)?;
        let ends = system.topic().ends()?;
        let (partition, stands_at) = (2, reached[&2]);
        ensure!(ends[&partition] > stands_at + 2, "the partition has got records");
        system.topic().delete_before(partition, stands_at + 2).await?;

        let mut writer = system.writer(&[("WRITER_KEY_CHANGE_WAIT", "10m")])?;
        let detail = writer.condition("partitions", false, NOTICED_MAX).await?;
        ensure!(detail.contains("partition 2") && detail.contains(&stands_at.to_string()), "{detail}");
        let state = async || {
            let line = system.writer_position().ok()?.remove(&partition)?;
            (line["state"] == "out-of-range").then_some(line)
        };
        let line = eventually("`writer position` says out-of-range", NOTICED_MAX, state).await?;
        ensure!(line["next_offset"] == stands_at, "{line}");
        others_move_on(system, partition, &reached).await?;
        ensure!(writer.is_running(), "the writer stays");
        let stands = system.positions(&system.primary().await?).await?[&partition].next_offset;
        ensure!(stands == stands_at, "the position of partition {partition} went from {stands_at} to {stands}");
        Ok(())
    })
    .await
}

/// Waits until each other partition is beyond what it had reached. (A key change may hold one up behind the lost records.)
async fn others_move_on(system: &System, stopped: i32, reached: &acceptance::Ends) -> Result<()> {
    let primary = system.primary().await?;
    let moved = async || {
        let positions = system.positions(&primary).await.ok()?;
        let others = positions.iter().filter(|(partition, _)| **partition != stopped);
        others.into_iter().all(|(partition, row)| row.next_offset > reached[partition]).then_some(())
    };
    eventually("the other partitions go on", NOTICED_MAX, moved).await
}

async fn says(service: &Service, name: &str, text: &str) -> Result<()> {
    let said = async || {
        let condition = service.conditions().await.ok()?.remove(name)?;
        (!condition.holds && condition.detail.contains(text)).then_some(())
    };
    let what = format!("{}: condition {name} says {text:?}", service.name());
    match eventually(&what, NOTICED_MAX, said).await {
        Ok(()) => Ok(()),
        Err(error) => Err(error.context(format!("{:?}", service.conditions().await))),
    }
}

async fn waits(service: &mut Service) -> Result<()> {
    ensure!(service.is_running(), "{} has ended instead of waiting: {}", service.name(), service.log()?);
    ensure!(!service.is_ready().await, "{} says it is ready", service.name());
    Ok(())
}
