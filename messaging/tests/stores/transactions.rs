//! The loop of a transaction: aborts, zombies, rebalances.

use std::collections::HashMap;

use anyhow::{Context, Result, ensure};
use devstack::eventually;
use messaging::transaction::{self, HandlerError, Output, Record, TransactionConfig, TransactionError};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    DEADLINE, broker,
    log::write,
    stage::{self, Broker},
};

type Running = JoinHandle<Result<(), TransactionError>>;

/// Copies a topic to another, as a member of a group.
fn copy(broker: &Broker, run: &str, member: &str, shutdown: &CancellationToken) -> Running {
    let output = format!("{run}.out");
    let handler = move |records: &[Record]| {
        let output = |record: &Record| {
            let (key, value) = (record.key.clone().unwrap_or_default(), record.value.clone().unwrap_or_default());
            Output::new(&output, key, value)
        };
        Ok(records.iter().map(output).collect())
    };
    start(broker, run, member, handler, shutdown)
}

fn start(
    broker: &Broker,
    run: &str,
    member: &str,
    handler: impl FnMut(&[Record]) -> Result<Vec<Output>, HandlerError> + Send + 'static,
    shutdown: &CancellationToken,
) -> Running {
    let (settings, shutdown) = (broker.settings(), shutdown.clone());
    let config = TransactionConfig::new(&[&format!("{run}.in")], &format!("{run}-copy"), member);
    tokio::spawn(async move { transaction::run(&settings, config, handler, shutdown).await })
}

async fn topics(broker: &Broker, partitions: i32) -> Result<String> {
    let run = format!("transactions-{}", stage::tag());
    broker.create(&format!("{run}.in"), partitions, &[]).await?;
    broker.create(&format!("{run}.out"), partitions, &[]).await?;
    Ok(run)
}

/// How often each key is in the output.
fn copies(broker: &Broker, run: &str) -> Result<HashMap<String, u32>> {
    let mut copies = HashMap::new();
    for record in broker.read(&format!("{run}.out"))? {
        *copies.entry(record.key).or_default() += 1;
    }
    Ok(copies)
}

async fn copied(broker: &Broker, run: &str, keys: usize) -> Result<()> {
    let all = async || copies(broker, run).ok().filter(|copies| copies.len() >= keys).map(drop);
    eventually("everything is copied", DEADLINE, all).await
}

async fn ended(running: Running) -> Result<Result<(), TransactionError>> {
    Ok(timeout(DEADLINE, running).await.context("the loop ends")??)
}

/// An output that is not there yet is the environment's fault: the batch is tried again until it is, and stands once.
#[tokio::test]
async fn an_aborted_batch_is_tried_again_and_stands_once() -> Result<()> {
    let broker = broker()?;
    let run = format!("transactions-{}", stage::tag());
    broker.create(&format!("{run}.in"), 1, &[]).await?;
    let numbers = (0..50).map(|number| (format!("key-{number}"), Some("value".to_owned())));
    broker.produce(&format!("{run}.in"), numbers)?;
    let (attempts, mut attempted) = tokio::sync::watch::channel(0);
    let (output, shutdown) = (format!("{run}.out"), CancellationToken::new());
    let handler = move |records: &[Record]| {
        attempts.send_modify(|attempts| *attempts += 1);
        let copy = |record: &Record| Output::new(&output, record.key.clone().unwrap_or_default(), "copy");
        Ok(records.iter().map(copy).collect())
    };
    let running = start(&broker, &run, "0", handler, &shutdown);
    timeout(DEADLINE, attempted.wait_for(|attempts| *attempts >= 2)).await.context("a second attempt")??;
    broker.create(&format!("{run}.out"), 1, &[]).await?;
    copied(&broker, &run, 50).await?;
    shutdown.cancel();
    ended(running).await??;
    ensure!(copies(&broker, &run)?.values().all(|times| *times == 1));
    let (consumed, all) = broker.consumed(&format!("{run}.in"), &format!("{run}-copy"))?;
    ensure!(consumed == all, "{consumed} of {all}");
    Ok(())
}

/// Two processes under one name: the elder is a zombie, ends with an error and commits nothing more.
#[tokio::test]
async fn a_zombie_is_fenced() -> Result<()> {
    let broker = broker()?;
    let run = topics(&broker, 1).await?;
    let (shutdown, input) = (CancellationToken::new(), format!("{run}.in"));
    write(&broker, &input, 0, &[("before", Some("1"))])?;
    // The elder is frozen in the middle of its work, as by a pause of its machine; its handler waits for the test.
    let (freezes, frozen) = std::sync::mpsc::channel();
    let (thaw, thawed) = std::sync::mpsc::channel::<()>();
    let output = format!("{run}.out");
    let handler = move |records: &[Record]| {
        let copy = |record: &Record| Output::new(&output, record.key.clone().unwrap_or_default(), "zombie");
        if records.iter().any(|record| record.key.as_deref() == Some(b"frozen")) {
            freezes.send(())?;
            thawed.recv()?;
        }
        Ok(records.iter().map(copy).collect())
    };
    let elder = start(&broker, &run, "0", handler, &shutdown);
    copied(&broker, &run, 1).await?;
    write(&broker, &input, 0, &[("frozen", Some("1"))])?;
    tokio::task::spawn_blocking(move || frozen.recv_timeout(DEADLINE)).await??;
    let younger = copy(&broker, &run, "0", &shutdown);
    // A member joins after it has taken its id. The elder's client keeps its own session meanwhile.
    let has_id = async || has_members(&broker, &format!("{run}-copy"), 2);
    eventually("the younger has joined, and so has taken the id", DEADLINE, has_id).await?;
    thaw.send(())?;
    let end = ended(elder).await?;
    ensure!(matches!(end, Err(TransactionError::Fenced { .. })), "{end:?}");
    copied(&broker, &run, 2).await?;
    let records = broker.read(&format!("{run}.out"))?;
    let of_zombie = |key: &str| records.iter().filter(|r| r.key == key && r.value.as_deref() == Some("zombie")).count();
    ensure!((of_zombie("before"), of_zombie("frozen")) == (1, 0), "{records:?}");
    ensure!(records.len() == 2, "{records:?}");
    shutdown.cancel();
    ended(younger).await??;
    Ok(())
}

/// Whether the group has so many members, joining ones included.
pub fn has_members(broker: &Broker, group: &str, members: usize) -> Option<()> {
    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    let consumer: BaseConsumer = broker.client().create().ok()?;
    let groups = consumer.fetch_group_list(Some(group), DEADLINE).ok()?;
    (groups.groups().first()?.members().len() >= members).then_some(())
}

/// Members come and go while records flow: none is lost, none stands twice.
#[tokio::test]
async fn rebalances_lose_nothing_and_double_nothing() -> Result<()> {
    let broker = broker()?;
    let run = topics(&broker, 6).await?;
    let keys = 3000;
    let numbers = |from: u32, to: u32| (from..to).map(|number| (format!("key-{number}"), Some(number.to_string())));
    let all = CancellationToken::new();
    let stays = copy(&broker, &run, "stays", &all);
    let mut guests = Vec::new();
    for round in 0..3 {
        let shutdown = all.child_token();
        guests.push((copy(&broker, &run, &format!("guest-{round}"), &shutdown), shutdown));
        broker.produce(&format!("{run}.in"), numbers(round * keys / 3, (round + 1) * keys / 3))?;
        copied(&broker, &run, ((round + 1) * keys / 3) as usize - 100).await?;
        if round > 0 {
            let (guest, leaves) = guests.remove(0);
            leaves.cancel();
            ended(guest).await??;
        }
    }
    copied(&broker, &run, keys as usize).await?;
    let copies = copies(&broker, &run)?;
    ensure!(copies.len() == keys as usize && copies.values().all(|times| *times == 1));
    all.cancel();
    ended(stays).await??;
    Ok(())
}

/// An offset outside the log is an operator's decision.
#[tokio::test]
async fn an_offset_outside_the_log_ends_the_loop() -> Result<()> {
    let broker = broker()?;
    let run = topics(&broker, 1).await?;
    let input = format!("{run}.in");
    write(&broker, &input, 0, &[("a", Some("1"))])?;
    let shutdown = CancellationToken::new();
    let first = copy(&broker, &run, "0", &shutdown);
    copied(&broker, &run, 1).await?;
    shutdown.cancel();
    ended(first).await??;
    write(&broker, &input, 0, &[("b", Some("1")), ("c", Some("1"))])?;
    crate::log::delete_before(&broker, &input, 0, 3).await?;
    let end = ended(copy(&broker, &run, "0", &CancellationToken::new())).await?;
    ensure!(matches!(end, Err(TransactionError::OutOfRange { .. })), "{end:?}");
    Ok(())
}
