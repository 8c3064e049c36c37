//! Partitions added while a writer runs: keys move, and for a while two partitions speak of one site, in any order.

use std::sync::Arc;

use acceptance::{Model, Record, Site, System, View, partition_of, scenario};
use anyhow::{Result, ensure};
use devstack::eventually;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::states::{delete, in_state, row, tombstone};
use crate::{NOTICED_MAX, servers};

/// Partitions before and after. Each key stays, or moves two further, which is another lane.
const BEFORE: i32 = 2;
const AFTER: i32 = 4;
const SITES: usize = 150;
/// Events of a site in each of its two partitions.
const EVENTS: u64 = 12;

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_move_within_a_lane_end_as_the_source_has_them() -> Result<()> {
    keys_move("1").await
}

/// Two transactions hold one site at once here.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_move_to_another_lane_end_as_the_source_has_them() -> Result<()> {
    keys_move("4").await
}

async fn keys_move(lanes: &str) -> Result<()> {
    scenario(&servers()?, BEFORE, async |system| {
        let site_ids: Vec<String> = (0..SITES).map(|number| format!("moving-{number}")).collect();
        let first: Vec<Record> =
            site_ids.iter().map(|id| row(partition_of(id, BEFORE), id, 1, 1, "app-first")).collect();
        system.topic().produce(&first)?;
        let mut writer = system.writer(&[("WRITER_LANES", lanes)])?;
        system.drained().await?;
        grow(system).await?;

        let mut rng = StdRng::seed_from_u64(71);
        let histories: Vec<Vec<Vec<Record>>> = site_ids.iter().map(|id| history(id, &mut rng)).collect();
        let truth: Vec<Record> = histories.iter().flatten().flatten().cloned().collect();
        system.topic().produce(&shuffled(histories, &mut rng))?;
        system.drained().await?;
        equals(system, &Model::of(&truth)).await?;
        ensure!(writer.is_running(), "the writer stays");
        Ok(())
    })
    .await
}

/// Adds the partitions and waits until the running writer has found them.
async fn grow(system: &System) -> Result<()> {
    system.topic().grow(AFTER).await?;
    let told = async || system.topic().ends().ok();
    eventually("the brokers know the new partitions", NOTICED_MAX, told).await?;
    for partition in BEFORE..AFTER {
        in_state(system, partition, "caught-up").await?;
    }
    Ok(())
}

/// What becomes of a site, in the order of the source: first in its old partition, then in its new one. Each change changes
/// its app, so that the version says which was the last. A site is deleted in one of the two only: the view remembers one partition
/// whose tombstone is still to come.
fn history(site_id: &str, rng: &mut StdRng) -> Vec<Vec<Record>> {
    let (old, new) = (partition_of(site_id, BEFORE), partition_of(site_id, AFTER));
    let (mut lsn, deletes_in) = (1, [old, new][rng.random_range(0..2)]);
    let told = [old, new].map(|partition| {
        let mut records = Vec::new();
        for _ in 0..EVENTS {
            lsn += rng.random_range(1..50);
            match rng.random_range(0..6) {
                0 if partition == deletes_in => {
                    records.extend([delete(partition, site_id, lsn), tombstone(partition, site_id)])
                }
                _ => records.push(row(partition, site_id, lsn, lsn as i64, &format!("app-{}-{lsn}", lsn % 7))),
            }
        }
        records
    });
    match old == new {
        true => vec![told.concat()],
        false => told.into(),
    }
}

/// Mixes the partitions of all sites at random; what one partition says of one site keeps its order.
fn shuffled(histories: Vec<Vec<Vec<Record>>>, rng: &mut StdRng) -> Vec<Record> {
    let mut open: Vec<_> = histories.into_iter().flatten().map(Vec::into_iter).collect();
    let mut records = Vec::new();
    while !open.is_empty() {
        let chosen = rng.random_range(0..open.len());
        match open[chosen].next() {
            Some(record) => records.push(record),
            None => drop(open.swap_remove(chosen)),
        }
    }
    records
}

/// Documents, memberships and counts. The change log is ordered within partitions only, so it can't be replayed for keys that
/// move.
async fn equals(system: &System, model: &Model) -> Result<()> {
    let view = View::read(1, &system.primary().await?).await?;
    let documents = model.documents();
    for (site_id, row) in &view.sites {
        let expected = documents.get(site_id);
        ensure!(expected == Some(&row.document), "{site_id} is {}, expected {expected:?}", row.document);
    }
    ensure!(view.sites.len() == documents.len(), "{} sites of {}", view.sites.len(), documents.len());
    ensure!(view.memberships == model.memberships(), "app_site differs");
    ensure!(view.counts == model.counts(), "app_count is {:?}, expected {:?}", view.counts, model.counts());
    Ok(())
}

/// The view holds a site's apps already when its new partition tells them first; what the old one says late is still older.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_changes_nothing_still_guards_against_the_old_partition() -> Result<()> {
    scenario(&servers()?, BEFORE, async |system| {
        let moves = |id: &String| partition_of(id, BEFORE) != partition_of(id, AFTER);
        let ids: Vec<String> = (0..).map(|number| format!("moving-{number}")).filter(moves).take(2).collect();
        let in_old = |id: &str, lsn, app: &str| row(partition_of(id, BEFORE), id, lsn, 1, app);
        let in_new = |id: &str, lsn, app: &str| row(partition_of(id, AFTER), id, lsn, 1, app);
        system.topic().produce(&[in_old(&ids[0], 1, "app-a"), in_old(&ids[1], 1, "app-a")])?;
        let _writer = system.writer(&[])?;
        system.drained().await?;
        grow(system).await?;
        system.topic().produce(&[in_new(&ids[0], 30, "app-a"), in_new(&ids[1], 30, "app-a")])?;
        system.drained().await?;
        system.topic().produce(&[
            in_old(&ids[0], 20, "app-b"),
            delete(partition_of(&ids[1], BEFORE), &ids[1], 20),
            tombstone(partition_of(&ids[1], BEFORE), &ids[1]),
        ])?;
        system.drained().await?;
        let truth = [in_new(&ids[0], 30, "app-a"), in_new(&ids[1], 30, "app-a")];
        let model = Model::of(&truth);
        ensure!(model.sites.values().all(|site: &Arc<Site>| site.apps_version == 1), "the version stays");
        equals(system, &model).await
    })
    .await
}

/// Between the read of a site and its write another transaction may write it, as the lane of its other partition does.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_transaction_wrote_meanwhile_is_read_again() -> Result<()> {
    scenario(&servers()?, BEFORE, async |system| {
        let first = row(0, "site-a", 1, 1, "app-a");
        system.topic().produce(std::slice::from_ref(&first))?;
        let _writer = system.writer(&[])?;
        system.drained().await?;

        let (mut other, primary) = (system.primary().await?, system.primary().await?);
        let transaction = other.transaction().await?;
        let newer = "update view_g1.site_apps set source_position = 'lsn/100' where site_id = 'site-a'";
        ensure!(transaction.execute(newer, &[]).await? == 1, "the site is there");
        system.topic().produce(&[row(0, "site-a", 50, 2, "app-b")])?;
        let waiting = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        let waits = async || (!primary.query(waiting, &[]).await.ok()?.is_empty()).then_some(());
        eventually("the writer has read the site and waits to write it", NOTICED_MAX, waits).await?;
        transaction.commit().await?;

        system.drained().await?;
        equals(system, &Model::of(&[first])).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_transaction_made_meanwhile_is_read_again_and_is_no_fault_of_the_record() -> Result<()> {
    scenario(&servers()?, BEFORE, async |system| {
        let first = row(0, "site-a", 100, 1, "app-a");
        system.topic().produce(std::slice::from_ref(&first))?;
        let writer = system.writer(&[])?;
        system.drained().await?;

        let (mut other, primary) = (system.primary().await?, system.primary().await?);
        other
            .batch_execute("create temp table made as select * from view_g1.site_apps; delete from view_g1.site_apps")
            .await?;
        let transaction = other.transaction().await?;
        ensure!(transaction.execute("insert into view_g1.site_apps select * from made", &[]).await? == 1);
        // Older than what will be there when it can be written.
        system.topic().produce(&[row(0, "site-a", 50, 2, "app-b")])?;
        let waiting = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        let waits = async || (!primary.query(waiting, &[]).await.ok()?.is_empty()).then_some(());
        eventually("the writer has read no site and waits to make it", NOTICED_MAX, waits).await?;
        transaction.commit().await?;

        system.drained().await?;
        equals(system, &Model::of(&[first])).await?;
        let is_counted = async || {
            let stale = writer.metric_sum("writer_records_total", &[("outcome", "stale")]).await.ok()?;
            (stale == 1.0).then_some(())
        };
        eventually("the record is counted as stale", NOTICED_MAX, is_counted).await
    })
    .await
}
