//! The create of a key change that leaves out its apps waits for the old key's delete: its partition only.

use std::time::{Duration, Instant};

use acceptance::{Model, Record, Source, assert_equal, partition_of, scenario};
use anyhow::{Context, Result, bail, ensure};
use devstack::eventually;
use serde_json::{Value, json};

use crate::{NOTICED_MAX, PARTITIONS, servers};

/// How long the delete stays away; the wait is bounded by 30 s.
const DELAY: Duration = Duration::from_secs(3);

/// Records of a key change across partitions whose create leaves out the apps: what precedes it, the delete with its
/// tombstone, and the create.
fn key_change(partitions: i32) -> Option<[Vec<Record>; 3]> {
    let mut before = Source::new(3, partitions, 60).records(2000);
    let is_create = |record: &Record| {
        let old_key = record.headers.iter().find(|(name, _)| *name == "__debezium.oldkey");
        let old_id = old_key.and_then(|(_, key)| serde_json::from_str::<Value>(key).ok());
        let old_id = old_id.and_then(|key| Some(key["site_id"].as_str()?.to_owned()));
        let absent = record.value.as_ref().is_some_and(|value| value.contains("__debezium_unavailable_value"));
        let has_apps = record.after.as_ref().is_some_and(|site| !site.apps.is_empty());
        absent && has_apps && old_id.is_some_and(|id| partition_of(&id, partitions) != record.partition)
    };
    let at = before.iter().position(is_create)?;
    before.truncate(at + 1);
    let create = before.split_off(at);
    let delete = before.split_off(at - 2);
    Some([before, delete, create])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_waits_for_the_delete_of_another_partition_and_takes_its_apps() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let [before, delete, create] = key_change(PARTITIONS).context("the history has such a key change")?;
        let (new, partition) = (create[0].site_id.clone(), create[0].partition);
        let mut writer = system.writer(&[])?;
        writer.ready().await?;
        system.topic().produce(&before)?;
        assert_equal(system, &Model::of(&before)).await?;
        let waits_at = system.topic().ends()?[&partition];

        system.topic().produce(&create)?;
        let waits = async || writer.log().ok()?.contains("a key change waits for its delete").then_some(());
        eventually("the create waits", NOTICED_MAX, waits).await?;
        let waiting_since = Instant::now();
        let primary = system.primary().await?;
        let mut others = Source::new(4, PARTITIONS, 100_000);
        let mut moved = Vec::new();
        while waiting_since.elapsed() < DELAY {
            // The other partitions of the same writer go on, round after round.
            let mut records = others.records(40);
            records.retain(|record| record.partition != partition && record.partition != delete[0].partition);
            rename(&mut records, "other-");
            system.topic().produce(&records)?;
            moved.extend(records);
            let ends = system.topic().ends()?;
            let advanced = async || {
                let positions = system.positions(&primary).await.ok()?;
                let at_end =
                    |(other, row): (&i32, &acceptance::Position)| *other == partition || row.next_offset == ends[other];
                positions.iter().all(at_end).then_some(positions[&partition].next_offset)
            };
            let stands_at = eventually("the other partitions advance", NOTICED_MAX, advanced).await?;
            ensure!(stands_at == waits_at, "partition {partition} is at {stands_at}, it waits at {waits_at}");
        }
        ensure!(!moved.is_empty(), "something was produced beside the waiting partition");
        system.topic().produce(&delete)?;
        let all = [before, moved, delete, create].concat();
        let model = Model::of(&all);
        ensure!(!model.sites[&new].apps.is_empty(), "the new key has the apps of the old one");
        assert_equal(system, &model).await
    })
    .await
}

/// The first key change's create and the second's delete in one batch: the second's create, in another, takes the apps from
/// a marker whose site the view has never held alive.
#[tokio::test(flavor = "multi_thread")]
async fn a_site_whose_key_changes_twice_keeps_its_apps() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let [before, delete, create] = key_change(PARTITIONS).context("the history has such a key change")?;
        let [second_delete, second_create] = changed_again(&create[0])?;
        let mut writer = system.writer(&[])?;
        system.topic().produce(&[&before[..], &delete].concat())?;
        assert_equal(system, &Model::of(&[&before[..], &delete].concat())).await?;
        let (status, _) = writer.stop().await?;
        ensure!(status.success(), "{status}");

        // Both are there when the next writer starts, so they are in one batch.
        let in_one_batch = [&create[..], &second_delete].concat();
        system.topic().produce(&in_one_batch)?;
        let mut writer = system.writer(&[])?;
        let so_far = [before, delete, in_one_batch].concat();
        assert_equal(system, &Model::of(&so_far)).await?;
        system.topic().produce(&second_create)?;
        let model = Model::of(&[so_far, second_create].concat());
        let whole = assert_equal(system, &model);
        let blocked = writer.condition("partitions", false, NOTICED_MAX);
        tokio::select! {
            whole = whole => whole?,
            Ok(why) = blocked => bail!("blocked: {why}"),
        }
        ensure!(writer.is_running(), "the writer stays");
        Ok(())
    })
    .await
}

/// The old key lives on as far as the view knows, so nobody can say what the new one has: the row is told as incomplete once
/// the wait is over, and its partition goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_create_whose_delete_never_comes_is_an_incomplete_row_after_its_wait() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let [before, _, create] = key_change(PARTITIONS).context("the history has such a key change")?;
        system.topic().produce(&before)?;
        // Its key changes may wait for as long as the machine is busy.
        let mut patient = system.writer(&[("WRITER_KEY_CHANGE_WAIT", "10m")])?;
        assert_equal(system, &Model::of(&before)).await?;
        patient.stop().await?;
        let wait = format!("{}s", DELAY.as_secs());
        let writer = system.writer(&[("WRITER_KEY_CHANGE_WAIT", &wait)])?;
        let produced_at = Instant::now();
        system.topic().produce(&create)?;
        assert_equal(system, &Model::of(&before)).await?;
        ensure!(produced_at.elapsed() >= DELAY, "it was given up after {:?}", produced_at.elapsed());
        let letters = system.dead_letter_topic().read()?;
        let [letter] = letters.as_slice() else { bail!("{} dead letters", letters.len()) };
        ensure!(letter.header("dlq-reason") == Some("incomplete-row"), "{letter:?}");
        ensure!(letter.value.as_deref() == create[0].value.as_deref().map(str::as_bytes), "it is the create");
        let log = writer.log()?;
        ensure!(log.matches("a key change waits").count() == 2, "the wait is said once, and its end: {log}");
        Ok(())
    })
    .await
}

/// The key of a site changes once more, directly after the change that made it: delete with tombstone, and create.
fn changed_again(create: &Record) -> Result<[Vec<Record>; 2]> {
    let (old, new) = (create.site_id.as_str(), "changed-again");
    let value = create.value.as_deref().context("a create has a value")?;
    let mut envelope: Value = serde_json::from_str(value)?;
    let lsn = envelope["source"]["lsn"].as_u64().context("a position")? + 1;
    envelope["source"]["lsn"] = json!(lsn);
    let key = |id: &str| json!({"site_id": id}).to_string();
    let mut created = Record { site_id: new.to_owned(), key: key(new), ..create.clone() };
    created.partition = partition_of(new, PARTITIONS);
    created.headers = vec![("__debezium.oldkey", key(old))];
    envelope["after"]["site_id"] = json!(new);
    created.value = Some(envelope.to_string());

    envelope["op"] = json!("d");
    envelope["before"] = json!({"site_id": old, "owner_id": "", "version": 0, "installed_apps": "[]"});
    envelope["after"] = Value::Null;
    let headers = vec![("__debezium.newkey", key(new))];
    let deleted = Record { value: Some(envelope.to_string()), headers, after: None, ..create.clone() };
    let tombstone = Record { value: None, ..deleted.clone() };
    // The model's version is the one that the row has, which this change leaves as it was.
    Ok([vec![deleted, tombstone], vec![created]])
}

/// Gives records of another source ids that do not meet those of the first; partitions stay, ids are opaque.
pub(crate) fn rename(records: &mut [Record], prefix: &str) {
    for record in records {
        let id = format!("{prefix}{}", record.site_id);
        record.key = record.key.replace(&record.site_id, &id);
        record.value =
            record.value.as_ref().map(|value| value.replace(&format!("\"{}\"", record.site_id), &format!("\"{id}\"")));
        for (_, key) in &mut record.headers {
            *key = key.replace("{\"site_id\":\"", &format!("{{\"site_id\":\"{prefix}"));
        }
        record.site_id = id;
    }
}
