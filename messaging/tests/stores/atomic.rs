//! Commands to values: one after another, exactly once, across owners.

use std::{
    result::Result as Outcome,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SendError, Sender, channel},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use devstack::eventually;
use messaging::{
    AtomicKvStore, AtomicKvStoreConfig,
    atomic_kv_store::{Decision, StoredUpdate},
    transaction::{self, Output, Record, TransactionConfig, TransactionError},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
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

/// Two processes under one name: the elder is a zombie, ends with an error, and stores nothing of what it decided.
#[tokio::test]
async fn a_zombie_is_fenced_and_stores_nothing() -> Result<()> {
    let broker = broker()?;
    let run = topics(&broker, 1).await?;
    let (commands, shutdown) = (format!("{run}.commands"), CancellationToken::new());
    let queries = AtomicKvStore::<Vec<u32>>::start(&broker.settings(), config(&run, "queries"))?;
    let is_stored = async |expected: &[u32]| {
        let stored = async || queries.store().get("a").filter(|value| **value == expected).map(drop);
        eventually("the command is applied", DEADLINE, stored).await
    };
    // The elder is frozen in the middle of its work, as by a pause of its machine; its handler waits for the test.
    let ((freezes, frozen), (thaw, thawed)) = (channel(), channel::<()>());
    let freeze = move |command: &Record, value: Option<&Vec<u32>>| match command.value.as_deref() {
        Some(b"2") => {
            // Whoever waits for these has given up when they fail.
            let _ = freezes.send(());
            let _ = thawed.recv();
            Decision::put(vec![666])
        }
        _ => append(command, value),
    };
    let elder = AtomicKvStore::<Vec<u32>>::start(&broker.settings(), config(&run, "0"))?;
    let elder = tokio::spawn(elder.run(freeze, shutdown.clone()));
    write(&broker, &commands, 0, &[("a", Some("1"))])?;
    is_stored(&[1]).await?;
    write(&broker, &commands, 0, &[("a", Some("2"))])?;
    tokio::task::spawn_blocking(move || frozen.recv_timeout(DEADLINE)).await??;
    let younger = AtomicKvStore::<Vec<u32>>::start(&broker.settings(), config(&run, "0"))?;
    let younger = tokio::spawn(younger.run(append, shutdown.clone()));
    // A member joins after it has taken its id. The elder's client keeps its own session meanwhile.
    let has_id = async || crate::transactions::has_members(&broker, &run, 2);
    eventually("the younger has joined, and so has taken the id", DEADLINE, has_id).await?;
    thaw.send(())?;
    let end = timeout(DEADLINE, elder).await.context("the elder ends")??;
    ensure!(matches!(end, Err(TransactionError::Fenced { .. })), "{end:?}");
    is_stored(&[1, 2]).await?;
    let stored: Vec<_> = broker.read(&format!("{run}.store"))?.into_iter().filter_map(|record| record.value).collect();
    ensure!(stored == ["[1]", "[1,2]"], "{stored:?}");
    shutdown.cancel();
    timeout(DEADLINE, younger).await???;
    Ok(())
}

/// A list whose first one to be read, in the whole process, waits until it may go on.
struct Slow(Vec<u32>);

static GATE: Mutex<Option<(Sender<()>, Receiver<()>)>> = Mutex::new(None);

impl Serialize for Slow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Outcome<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Slow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Outcome<Self, D::Error> {
        if let Some((reached, goes_on)) = GATE.lock().map_err(D::Error::custom)?.take() {
            reached.send(()).and_then(|()| goes_on.recv().map_err(|_| SendError(()))).map_err(D::Error::custom)?;
        }
        Vec::deserialize(deserializer).map(Self)
    }
}

/// A new owner has its partition before its store has what lies there, and does not work until it has.
#[tokio::test]
async fn an_owner_applies_nothing_before_the_state_of_its_partition_is_loaded() -> Result<()> {
    let broker = broker()?;
    let run = topics(&broker, 1).await?;
    let commands = format!("{run}.commands");
    write(&broker, &format!("{run}.store"), 0, &[("a", Some("[1,2,3]"))])?;
    write(&broker, &commands, 0, &[("a", Some("4"))])?;
    let (reached, first) = channel();
    let (go_on, goes_on) = channel();
    *GATE.lock().map_err(|error| anyhow!("{error}"))? = Some((reached, goes_on));
    let store = AtomicKvStore::<Slow>::start(&broker.settings(), config(&run, "0"))?;
    let (shutdown, applied) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&applied);
    let apply = move |command: &Record, value: Option<&Slow>| {
        counted.fetch_add(1, Ordering::Relaxed);
        let number = command.value.as_deref().and_then(|text| serde_json::from_slice(text).ok());
        Decision::put(Slow(value.into_iter().flat_map(|value| value.0.clone()).chain(number).collect()))
    };
    let running = tokio::spawn(store.run(apply, shutdown.clone()));
    tokio::task::spawn_blocking(move || first.recv_timeout(DEADLINE)).await??;
    let is_member = async || crate::transactions::has_members(&broker, &run, 1);
    eventually("it has joined the group", DEADLINE, is_member).await?;
    // A loop that loads nothing begins later and is done with the same command: so would the owner be if it did not wait.
    broker.create(&format!("{run}.copies"), 1, &[]).await?;
    let copies = format!("{run}.copies");
    let copy = move |records: &[Record]| Ok(records.iter().map(|_| Output::new(&copies, "a", "copy")).collect());
    let (settings, yardstick) = (broker.settings(), TransactionConfig::new(&[&commands], &format!("{run}-other"), "0"));
    let ends = shutdown.clone();
    let other = tokio::spawn(async move { transaction::run(&settings, yardstick, copy, ends).await });
    let is_copied = async || broker.read(&format!("{run}.copies")).ok().filter(|copies| !copies.is_empty());
    eventually("the other loop is done", DEADLINE, is_copied).await?;
    ensure!(applied.load(Ordering::Relaxed) == 0 && broker.consumed(&commands, &run)?.0 == 0, "it works on a guess");
    go_on.send(())?;
    let is_right = async || store.store().get("a").filter(|value| value.0.len() > 3);
    let value = eventually("the command is applied", DEADLINE, is_right).await?;
    ensure!(value.0 == [1, 2, 3, 4], "{:?}", value.0);
    shutdown.cancel();
    timeout(DEADLINE, running).await???;
    timeout(DEADLINE, other).await???;
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
