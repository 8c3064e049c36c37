//! `as_of` with the real connector: it moves while Debezium does, and stands still while Debezium stands.

use std::time::{Duration, SystemTime};

use acceptance::{System, scenario};
use anyhow::{Context, Result, ensure};
use devstack::{Devstack, Options, Part, connect, eventually, target_dir, unused_state_dir};
use nix::sys::signal::Signal;
use tokio_postgres::Client;

const PARTITIONS: usize = 4;
const NOTICED_MAX: Duration = Duration::from_secs(60);
/// The connector's interval, and then some for what was on its way when it was stopped.
const STILL: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn as_of_stands_while_debezium_stands() -> Result<()> {
    let tests = target_dir()?.join("devstack-tests").join("heartbeats");
    let stack = Devstack::start(Options::new([Part::Connect, Part::Postgres], unused_state_dir(&tests)?)?).await?;
    scenario(stack.endpoints(), 1, async |system| {
        let env = [("WRITER_TOPIC", connect::TOPIC), ("WRITER_HEARTBEAT_TOPIC", "__debezium-heartbeat.metasite")];
        let mut writer = system.writer(&env)?;
        writer.ready().await?;
        let primary = system.primary().await?;
        let mut seen = moved(&primary, SystemTime::UNIX_EPOCH).await?;
        for round in 0..2 {
            seen = moved(&primary, seen).await.with_context(|| format!("while Debezium runs, round {round}"))?;
            ensure!(seen <= SystemTime::now(), "as_of is no promise");

            let debezium = stack.connect().context("Connect")?;
            debezium.signal(Signal::SIGSTOP);
            // What was on its way arrives; nothing after the stop does.
            let stopped_at = SystemTime::now();
            let age = async || {
                let age = writer.metric("writer_heartbeat_age_seconds", &[]).await.ok()??;
                (age > STILL.as_secs_f64()).then_some(())
            };
            eventually("the newest heartbeat is old", NOTICED_MAX, age).await?;
            let stands = as_of(&primary).await?.context("every partition has one")?;
            ensure!(stands <= stopped_at, "as_of is no later than the stop");
            ensure!(lag(system).await? == 0, "the writer is caught up, and still does not claim to be fresh");
            debezium.signal(Signal::SIGCONT);
            seen = moved(&primary, stopped_at).await.context("once Debezium goes on")?;
        }
        Ok(())
    })
    .await
}

/// The oldest `as_of` of all partitions.
async fn as_of(primary: &Client) -> Result<Option<SystemTime>> {
    let rows = primary.query("select as_of from view_g1.position", &[]).await?;
    let all: Vec<Option<SystemTime>> = rows.iter().map(|row| row.get(0)).collect();
    Ok(if all.len() == PARTITIONS { all.into_iter().min().flatten() } else { None })
}

async fn moved(primary: &Client, beyond: SystemTime) -> Result<SystemTime> {
    let later = async || as_of(primary).await.ok().flatten().filter(|as_of| *as_of > beyond);
    eventually("as_of of every partition moves", NOTICED_MAX, later).await
}

async fn lag(system: &System) -> Result<i64> {
    let output = system.writer_position_of(connect::TOPIC)?;
    Ok(output.values().map(|line| line["lag"].as_i64().unwrap_or(i64::MAX)).sum())
}
