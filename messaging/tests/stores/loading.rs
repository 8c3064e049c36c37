//! Rule 15: when a compacted topic is loaded. Each test says which line of the rule it would hang or lie without.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, mpsc},
};

use anyhow::{Result, ensure};
use devstack::eventually;
use messaging::{
    KvStore, KvStoreConfig,
    kv_store::{DecodeError, State},
};
use tokio::time::timeout;

use crate::{
    DEADLINE, broker,
    log::{OpenTransaction, bounds, delete, delete_before, write},
    stage::{self, Broker},
};

const COMPACTED: (&str, &str) = ("cleanup.policy", "compact");

pub fn text(bytes: &[u8]) -> Result<String, DecodeError> {
    Ok(String::from_utf8(bytes.to_vec())?)
}

pub fn follow(broker: &Broker, topic: &str) -> Result<KvStore<String>> {
    Ok(KvStore::start(&broker.settings(), KvStoreConfig::new(topic, "stores"), text)?)
}

/// All of a store, for comparison.
pub fn held(store: &KvStore<String>) -> BTreeMap<String, String> {
    let text =
        |(key, value): (bytes::Bytes, Arc<String>)| (String::from_utf8_lossy(&key).into_owned(), value.to_string());
    store.scan("").into_iter().map(text).collect()
}

fn pairs(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

pub async fn loaded(store: &KvStore<String>) -> Result<()> {
    let waited = timeout(DEADLINE, store.caught_up()).await;
    ensure!(waited.is_ok(), "not loaded: {:?}", store.progress());
    Ok(waited??)
}

async fn topic(broker: &Broker, partitions: i32, config: &[(&str, &str)]) -> Result<String> {
    let topic = format!("stores-{}", stage::tag());
    broker.create(&topic, partitions, config).await?;
    Ok(topic)
}

#[tokio::test]
async fn empty_partitions_are_loaded() -> Result<()> {
    let broker = broker()?;
    let topic = topic(&broker, 3, &[COMPACTED]).await?;
    let store = follow(&broker, &topic)?;
    loaded(&store).await?;
    ensure!(held(&store).is_empty());
    write(&broker, &topic, 1, &[("a", Some("1"))])?;
    let late = follow(&broker, &topic)?;
    loaded(&late).await?;
    ensure!(held(&late) == pairs(&[("a", "1")]));
    ensure!(late.read().position() == BTreeMap::from([(0, 0), (1, 1), (2, 0)]));
    Ok(())
}

/// The last offset is a marker's: the last record's never gets there.
#[tokio::test]
async fn a_marker_at_the_tail_does_not_hold_a_load_up() -> Result<()> {
    let broker = broker()?;
    let topic = topic(&broker, 1, &[COMPACTED]).await?;
    OpenTransaction::begin(&broker, &topic, 0, &[("a", "1"), ("b", "2")])?.commit()?;
    let store = follow(&broker, &topic)?;
    loaded(&store).await?;
    ensure!(held(&store) == pairs(&[("a", "1"), ("b", "2")]));
    ensure!(store.read().position()[&0] == bounds(&broker, &topic, 0)?.1);
    Ok(())
}

#[tokio::test]
async fn an_aborted_transaction_is_passed_and_leaves_nothing() -> Result<()> {
    let broker = broker()?;
    let topic = topic(&broker, 1, &[COMPACTED]).await?;
    write(&broker, &topic, 0, &[("a", Some("kept"))])?;
    OpenTransaction::begin(&broker, &topic, 0, &[("a", "aborted"), ("b", "aborted")])?.abort()?;
    let store = follow(&broker, &topic)?;
    loaded(&store).await?;
    ensure!(held(&store) == pairs(&[("a", "kept")]));
    Ok(())
}

/// Below the high watermark lies what may come to count. A load that took the last stable offset for the end would be ready
/// without it.
#[tokio::test]
async fn an_open_transaction_holds_the_load_up_until_it_is_resolved() -> Result<()> {
    let broker = broker()?;
    for commits in [true, false] {
        let topic = topic(&broker, 1, &[COMPACTED]).await?;
        write(&broker, &topic, 0, &[("a", Some("1"))])?;
        let open = OpenTransaction::begin(&broker, &topic, 0, &[("b", "2")])?;
        let store = follow(&broker, &topic)?;
        let before = async || store.get("a").filter(|_| store.progress().remaining_offsets > 0);
        eventually("what precedes the transaction is read", DEADLINE, before).await?;
        // It has read all it can; ready it may not be. No wait proves a never, so the state is looked at after a further record,
        // which lies behind the transaction and can't be seen either.
        write(&broker, &topic, 0, &[("c", Some("3"))])?;
        ensure!(store.progress().state == State::Loading && store.get("c").is_none());
        if commits {
            open.commit()?
        } else {
            open.abort()?
        };
        loaded(&store).await?;
        ensure!(store.get("b").is_some() == commits, "the transaction's record, commits: {commits}");
        let behind = async || store.get("c");
        eventually("what lies behind the transaction is read", DEADLINE, behind).await?;
    }
    Ok(())
}

/// Compaction leaves holes, also right before the tail.
#[tokio::test]
async fn a_compacted_log_is_loaded() -> Result<()> {
    let broker = broker()?;
    let eager =
        [COMPACTED, ("min.cleanable.dirty.ratio", "0.001"), ("segment.bytes", "1048576"), ("delete.retention.ms", "0")];
    let topic = topic(&broker, 1, &eager).await?;
    let filler = "x".repeat(10_000);
    for round in 0..40 {
        let value = format!("{round} {filler}");
        let records: Vec<(String, Option<&str>)> =
            (0..10).map(|key| (format!("key-{key}"), Some(value.as_str()))).collect();
        let records: Vec<(&str, Option<&str>)> = records.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        write(&broker, &topic, 0, &records)?;
    }
    write(&broker, &topic, 0, &[("key-3", None)])?;
    let compacted = async || (broker.read(&topic).ok()?.len() < 300).then_some(());
    eventually("the cleaner has been there", DEADLINE, compacted).await?;
    let store = follow(&broker, &topic)?;
    loaded(&store).await?;
    let keys: Vec<String> = held(&store).into_keys().collect();
    let expected: Vec<String> = (0..10).filter(|key| *key != 3).map(|key| format!("key-{key}")).collect();
    ensure!(keys == expected, "{keys:?}");
    ensure!(held(&store).values().all(|value| value.starts_with("39 ")), "the newest value of each key");
    Ok(())
}

/// The log start passes the position: the client can't go on, and tombstones may be among what is gone. The load begins anew.
#[tokio::test]
async fn a_log_start_that_moves_during_the_load_begins_it_anew() -> Result<()> {
    let broker = broker()?;
    // Without `delete` among its policies a topic lets nobody remove records.
    let topic = topic(&broker, 1, &[("cleanup.policy", "compact,delete")]).await?;
    // More than the client holds in hand, so that the removal finds some of it not fetched.
    let value = "x".repeat(900_000);
    let keys: Vec<String> = (0..80).map(|number| format!("key-{number:02}")).collect();
    let records: Vec<(&str, Option<&str>)> = keys.iter().map(|key| (key.as_str(), Some(value.as_str()))).collect();
    write(&broker, &topic, 0, &records)?;
    let (reached, first) = mpsc::channel();
    let (go_on, gate) = mpsc::channel::<()>();
    let (gate, reached) = (Mutex::new(Some(gate)), Mutex::new(reached));
    let length = move |bytes: &[u8]| {
        if let Some(gate) = gate.lock().expect("the lock").take() {
            reached.lock().expect("the lock").send(())?;
            gate.recv()?;
        }
        Ok(bytes.len())
    };
    let store = KvStore::start(&broker.settings(), KvStoreConfig::new(&topic, "stores"), length)?;
    tokio::task::spawn_blocking(move || first.recv_timeout(DEADLINE)).await??;
    delete_before(&broker, &topic, 0, 79).await?;
    go_on.send(())?;
    ensure!(timeout(DEADLINE, store.caught_up()).await.is_ok_and(|done| done.is_ok()), "{:?}", store.progress());
    ensure!(store.read().len() == 1 && store.get("key-79").is_some(), "{} keys", store.read().len());
    Ok(())
}

/// The same name, another topic: offsets of the one mean nothing in the other, and its keys are gone.
#[tokio::test]
async fn a_topic_made_anew_is_loaded_anew() -> Result<()> {
    let broker = broker()?;
    let topic = topic(&broker, 1, &[COMPACTED]).await?;
    write(&broker, &topic, 0, &[("old", Some("1")), ("both", Some("1"))])?;
    let store = follow(&broker, &topic)?;
    loaded(&store).await?;
    delete(&broker, &topic).await?;
    let created = async || broker.create(&topic, 2, &[COMPACTED]).await.ok();
    eventually("the topic is there anew", DEADLINE, created).await?;
    write(&broker, &topic, 0, &[("both", Some("2")), ("new", Some("2"))])?;
    write(&broker, &topic, 1, &[("added", Some("2"))])?;
    let expected = pairs(&[("added", "2"), ("both", "2"), ("new", "2")]);
    let same = async || (held(&store) == expected && store.progress().is_ready()).then_some(());
    eventually("the new topic is held, and nothing else", DEADLINE, same).await
}

#[tokio::test]
async fn a_missing_topic_is_waited_for_and_added_partitions_are_found() -> Result<()> {
    let broker = broker()?;
    let topic = format!("stores-{}", stage::tag());
    let store = follow(&broker, &topic)?;
    let waits = async || (store.progress().detail.contains("cannot be opened")).then_some(());
    eventually("it says that it waits", DEADLINE, waits).await?;
    broker.create(&topic, 1, &[COMPACTED]).await?;
    loaded(&store).await?;
    let grown = rdkafka::admin::NewPartitions::new(&topic, 2);
    broker.admin()?.create_partitions(&[grown], &rdkafka::admin::AdminOptions::new()).await?;
    let written = async || write(&broker, &topic, 1, &[("a", Some("1"))]).ok();
    eventually("the partition can be written", DEADLINE, written).await?;
    let found = async || store.get("a");
    eventually("the added partition is followed", DEADLINE, found).await?;
    Ok(())
}

#[tokio::test]
async fn a_store_without_memory_refuses_to_be_ready_and_lives() -> Result<()> {
    let broker = broker()?;
    let topic = topic(&broker, 1, &[COMPACTED]).await?;
    let value = "x".repeat(1000);
    write(&broker, &topic, 0, &[("a", Some(&value)), ("b", Some(&value)), ("c", Some(&value))])?;
    let config = KvStoreConfig { memory_bytes_max: 2500, ..KvStoreConfig::new(&topic, "stores") };
    let store = KvStore::start(&broker.settings(), config, text)?;
    let refused = timeout(DEADLINE, store.caught_up()).await?;
    ensure!(refused.as_ref().is_err_and(|error| error.to_string().contains("2500 bytes")), "{refused:?}");
    ensure!(store.progress().state == State::Full);
    Ok(())
}

#[tokio::test]
async fn progress_is_told() -> Result<()> {
    let broker = broker()?;
    let topic = topic(&broker, 2, &[COMPACTED]).await?;
    let records = (0..20_000).map(|number| (format!("key-{number}"), Some("value".to_owned())));
    broker.produce(&topic, records)?;
    let store = follow(&broker, &topic)?;
    let mut progress = store.watch_progress();
    let ready = timeout(DEADLINE, progress.wait_for(|progress| progress.is_ready())).await??.clone();
    ensure!((ready.records, ready.keys, ready.remaining_offsets) == (20_000, 20_000, 0), "{ready:?}");
    ensure!((ready.partitions, ready.partitions_loaded) == (2, 2) && ready.memory_bytes > 20_000 * 13);
    Ok(())
}
