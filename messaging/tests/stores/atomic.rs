//! Commands to values: one after another, exactly once, across owners.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devstack::eventually;
use messaging::{
    AtomicKvStore, AtomicKvStoreConfig,
    atomic_kv_store::{Decision, StoredUpdate},
    transaction::Record,
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::{DEADLINE, broker, log::write, stage};

fn config(run: &str, member: &str) -> AtomicKvStoreConfig {
    let (commands, store) = (format!("{run}.commands"), format!("{run}.store"));
    AtomicKvStoreConfig {
        transaction_timeout: Duration::from_secs(10),
        ..AtomicKvStoreConfig::new(&commands, &store, run, member)
    }
}

async fn topics(broker: &stage::Broker, partitions: i32) -> Result<String> {
    let run = format!("atomic-{}", stage::tag());
    broker.create(&format!("{run}.commands"), partitions, &[]).await?;
    broker.create(&format!("{run}.store"), partitions, &[("cleanup.policy", "compact")]).await?;
    Ok(run)
}

/// A value is the list of its commands, so order, loss and repetition can be read from it.
fn append(command: &Record, value: Option<&Vec<u32>>) -> Decision<Vec<u32>> {
    let number = command.value.as_deref().and_then(|text| serde_json::from_slice(text).ok());
    match number {
        Some(number) => Decision::put(value.into_iter().flatten().copied().chain([number]).collect()),
        None => Decision::remove(),
    }
}

/// Owners come and go: each command of a key is applied to the value that the one before it left.
#[tokio::test]
async fn commands_of_a_key_are_applied_one_after_another_across_owners() -> Result<()> {
    let broker = broker()?;
    let run = topics(&broker, 4).await?;
    let (keys, rounds) = (20_u32, 5_u32);
    let queries = AtomicKvStore::<Vec<u32>>::start(&broker.settings(), config(&run, "queries"))?;
    let mut owner: Option<(CancellationToken, tokio::task::JoinHandle<_>)> = None;
    for round in 0..rounds {
        // The next owner joins while the last one works, then the last one leaves.
        let store = AtomicKvStore::<Vec<u32>>::start(&broker.settings(), config(&run, &format!("{round}")))?;
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(store.run(append, shutdown.clone()));
        let commands = (0..20).flat_map(|step| (0..keys).map(move |key| (key, round * 20 + step)));
        let commands = commands.map(|(key, number)| (format!("key-{key}"), Some(number.to_string())));
        broker.produce(&format!("{run}.commands"), commands)?;
        if let Some((leaves, running)) = owner.replace((shutdown, running)) {
            leaves.cancel();
            timeout(DEADLINE, running).await.context("an owner leaves")???;
        }
    }
    let expected: Vec<u32> = (0..rounds * 20).collect();
    let complete = async || {
        let values = queries.store().scan("");
        (values.len() == keys as usize && values.iter().all(|(_, value)| value.len() >= expected.len()))
            .then_some(values)
    };
    for (key, value) in eventually("every command is applied", DEADLINE, complete).await? {
        ensure!(*value == expected, "{key:?}: {value:?}");
    }
    let (leaves, running) = owner.context("an owner")?;
    leaves.cancel();
    timeout(DEADLINE, running).await???;
    Ok(())
}

/// The callback comes after the commit, again with the same id when it failed, and a successor goes on behind it.
#[tokio::test]
async fn updates_are_called_back_at_least_once_with_a_stable_id() -> Result<()> {
    let broker = broker()?;
    let run = topics(&broker, 1).await?;
    let store = AtomicKvStore::<Vec<u32>>::start(&broker.settings(), config(&run, "0"))?;
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(store.run(append, shutdown.clone()));
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let call_back = |fails: usize| {
        let (tell, mut failures) = (tell.clone(), fails);
        move |update: StoredUpdate<Vec<u32>>| {
            let fails = failures > 0;
            failures = failures.saturating_sub(1);
            let sent = tell.send((update.id, update.value));
            async move { if fails || sent.is_err() { Err("the browser is away") } else { Ok(()) } }
        }
    };
    let first_ends = shutdown.child_token();
    let first = tokio::spawn(store.follow_updates(call_back(2), first_ends.clone()));
    let commands = format!("{run}.commands");
    write(&broker, &commands, 0, &[("a", Some("1")), ("a", Some("2"))])?;
    let mut calls = Vec::new();
    while calls.len() < 4 {
        calls.push(timeout(DEADLINE, told.recv()).await?.context("a call")?);
    }
    let of = |value: Vec<u32>| calls.iter().filter(|(_, told)| told.as_ref() == Some(&value)).collect::<Vec<_>>();
    ensure!(of(vec![1]).len() == 3 && of(vec![1, 2]).len() == 1, "{calls:?}");
    ensure!(of(vec![1]).iter().all(|(id, _)| *id == calls[0].0) && calls[3].0 != calls[0].0, "{calls:?}");
    first_ends.cancel();
    timeout(DEADLINE, first).await???;
    write(&broker, &commands, 0, &[("a", None)])?;
    let second = tokio::spawn(store.follow_updates(call_back(0), shutdown.clone()));
    let (id, value) = timeout(DEADLINE, told.recv()).await?.context("a call")?;
    ensure!(value.is_none() && id != calls[3].0, "what was called back is not called again after a clean stop: {id}");
    let gone = async || store.store().get("a").is_none().then_some(());
    eventually("the removed value is gone from queries", DEADLINE, gone).await?;
    shutdown.cancel();
    timeout(DEADLINE, running).await???;
    timeout(DEADLINE, second).await???;
    Ok(())
}

/// `apply` is not called on a guess.
#[tokio::test]
async fn a_stored_value_that_cannot_be_read_ends_the_loop() -> Result<()> {
    let broker = broker()?;
    let run = topics(&broker, 1).await?;
    write(&broker, &format!("{run}.store"), 0, &[("a", Some("no JSON"))])?;
    write(&broker, &format!("{run}.commands"), 0, &[("a", Some("1"))])?;
    let store = AtomicKvStore::<Vec<u32>>::start(&broker.settings(), config(&run, "0"))?;
    let end = timeout(DEADLINE, store.run(append, CancellationToken::new())).await?;
    ensure!(end.as_ref().is_err_and(|error| error.to_string().contains("can't be decoded")), "{end:?}");
    ensure!(broker.consumed(&format!("{run}.commands"), &run)?.0 == 0);
    Ok(())
}
