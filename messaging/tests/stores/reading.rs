//! What a store answers: updates, watches, positions, values that can't be read.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use devstack::eventually;
use messaging::{
    KvStore, KvStoreConfig,
    kv_store::{Watched, json},
};
use tokio::time::timeout;

use crate::{
    DEADLINE, broker,
    loading::{follow, held, loaded},
    log::{bounds, write},
    stage,
};

#[tokio::test]
async fn updates_and_tombstones_are_followed_and_watched() -> Result<()> {
    let broker = broker()?;
    let topic = format!("stores-{}", stage::tag());
    broker.create(&topic, 1, &[("cleanup.policy", "compact")]).await?;
    write(&broker, &topic, 0, &[("app/1", Some("a")), ("app/2", Some("b")), ("other", Some("c"))])?;
    let store = follow(&broker, &topic)?;
    loaded(&store).await?;
    let (state, mut watch) = store.watch("app/");
    ensure!(state.len() == 2);
    write(&broker, &topic, 0, &[("other", Some("d")), ("app/1", None), ("app/2", Some("e"))])?;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match timeout(DEADLINE, watch.next()).await?.context("the store lives")? {
            Watched::Updated(update) => {
                let key = String::from_utf8_lossy(&update.key).into_owned();
                seen.push((key, update.value.map(|value| value.to_string()), update.offset));
            }
            Watched::Missed(count) => anyhow::bail!("{count} updates missed"),
        }
    }
    ensure!(seen == [("app/1".to_owned(), None, 4), ("app/2".to_owned(), Some("e".to_owned()), 5)], "{seen:?}");
    ensure!(held(&store).len() == 2 && store.get("app/1").is_none());
    Ok(())
}

/// A writer tells the reader where it wrote; the reader's store has it then, or waits.
#[tokio::test]
async fn a_position_that_is_reached_contains_what_was_written_below_it() -> Result<()> {
    let broker = broker()?;
    let topic = format!("stores-{}", stage::tag());
    broker.create(&topic, 1, &[("cleanup.policy", "compact")]).await?;
    let store = follow(&broker, &topic)?;
    loaded(&store).await?;
    for number in 0..20 {
        let value = number.to_string();
        write(&broker, &topic, 0, &[("key", Some(&value))])?;
        let written = BTreeMap::from([(0, bounds(&broker, &topic, 0)?.1)]);
        timeout(DEADLINE, store.reached(&written)).await??;
        let reading = store.read();
        ensure!(reading.get("key").is_some_and(|held| *held == value), "{number}");
        ensure!(reading.position() == written);
    }
    Ok(())
}

#[tokio::test]
async fn a_value_that_cannot_be_read_is_quarantined_and_counted() -> Result<()> {
    let broker = broker()?;
    let topic = format!("stores-{}", stage::tag());
    broker.create(&topic, 1, &[("cleanup.policy", "compact")]).await?;
    write(&broker, &topic, 0, &[("a", Some("1")), ("a", Some("one")), ("b", Some("2"))])?;
    let store: KvStore<u32> = KvStore::start(&broker.settings(), KvStoreConfig::new(&topic, "stores"), json)?;
    timeout(DEADLINE, store.caught_up()).await??;
    ensure!(store.get("a").is_none() && store.get("b").as_deref() == Some(&2));
    let quarantined = store.quarantined();
    ensure!(quarantined.len() == 1 && quarantined[0].key == "a" && quarantined[0].offset == 1, "{quarantined:?}");
    ensure!(store.progress().unreadable == 1);
    write(&broker, &topic, 0, &[("a", Some("3"))])?;
    let healed = async || store.get("a").filter(|_| store.quarantined().is_empty());
    ensure!(*eventually("a good value heals it", DEADLINE, healed).await? == 3);
    Ok(())
}
