//! What the writer does by time: the change log is kept for so long and no longer, and so are the markers of deleted sites.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use acceptance::{Model, Record, Source, assert_equal, scenario};
use anyhow::{Context, Result, ensure};
use devstack::{eventually, postgres};
use tokio_postgres::Client;

use crate::{NOTICED_MAX, PARTITIONS, servers};

/// A change is gone so long after its retention, and not before it.
const EXPIRY_LATE_MAX: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_kept_for_their_retention_and_gone_a_minute_later() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let mut source = Source::new(31, PARTITIONS, 100);
        system.topic().produce(&source.records(400))?;
        let retention = Duration::from_secs(20);
        let mut writer = system.writer(&[("WRITER_CHANGE_RETENTION", "20s")])?;
        writer.ready().await?;
        system.drained().await?;
        let primary = system.primary().await?;
        let all = changes(&primary).await?;
        ensure!(all.rows > 0 && floors(&primary).await?.is_empty(), "nothing is gone yet: {all:?}");
        let ends = system.topic().ends()?;

        let gone = async || {
            let (now, floors) = (changes(&primary).await.ok()?, floors(&primary).await.ok()?);
            let passed = ends.iter().all(|(partition, end)| floors.get(partition) == Some(end));
            (now.rows == 0 && passed).then_some(())
        };
        let waited = Instant::now();
        let early = all.newest_age_seconds;
        eventually("the changes are gone, and the floor says so", retention + EXPIRY_LATE_MAX, gone).await?;
        ensure!(waited.elapsed() + early + Duration::from_secs(1) > retention, "gone after {:?}", waited.elapsed());

        // What comes later is kept, in a part of its own, and above the floor.
        let later = source.records(100);
        system.topic().produce(&later)?;
        system.drained().await?;
        let in_default = "select count(*) from view_g1.change_default";
        ensure!(changes(&primary).await?.rows > 0, "later changes are there");
        ensure!(primary.query_one(in_default, &[]).await?.get::<_, i64>(0) == 0, "no change is in the default part");
        let below = r#"select count(*) from view_g1.change c join view_g1.change_floor f using (partition)
                       where c."offset" < f."offset""#;
        ensure!(primary.query_one(below, &[]).await?.get::<_, i64>(0) == 0, "no kept change is below the floor");
        ensure!(metric(&writer, "writer_upkeep_failures_total").await? == 0.0, "{}", writer.log()?);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_no_part_has_taken_in_stay_until_they_expire() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let (_, url) = system.writer_login("parts").await?;
        let writer = postgres::client(&url).await?;
        let primary = system.primary().await?;
        let insert = r#"insert into view_g1.change (partition, "offset", ordinal, site_id, app_ids, event, written_at)
                        select 0, n, 0, 's', '{}', '{}', now() + n * interval '1 minute' from generate_series(-90, 0) n"#;
        writer.batch_execute(insert).await.context("a writer writes before any part is made")?;
        let make = "select siteview.change_parts_make(1, interval '1 minute', interval '5 minutes')";
        let made: i32 = writer.query_one(make, &[]).await?.get(0);
        ensure!((4..=6).contains(&made), "{made} parts");
        ensure!(changes(&primary).await?.rows == 91, "parts were made, and no row was lost");
        ensure!(writer.query_one(make, &[]).await?.get::<_, i32>(0) <= 1, "they are made once");
        let ahead = r#"insert into view_g1.change (partition, "offset", ordinal, site_id, app_ids, event, written_at)
                       values (0, 1, 0, 's', '{}', '{}', now() + interval '2 minutes'),
                              (0, 2, 0, 's', '{}', '{}', now() + interval '2 days')"#;
        writer.batch_execute(ahead).await?;
        let in_default = "select count(*) from view_g1.change_default";
        let in_default: i64 = primary.query_one(in_default, &[]).await?.get(0);
        ensure!(in_default == 92, "a row beyond all parts goes into the default part, one within into its part: {in_default}");

        // The login has what it needs and nothing more.
        let denied = writer.batch_execute("create table view_g1.x ()").await.expect_err("a writer makes no tables");
        ensure!(denied.code().is_some_and(|code| code.code() == "42501"), "{denied}");
        let reader = format!("set role siteview_reader; {make}");
        ensure!(primary.batch_execute(&reader).await.is_err(), "a reader makes no parts");
        primary.batch_execute("reset role").await?;

        // A running writer removes what has expired of the default part, and nothing else.
        let mut running = system.writer(&[("WRITER_CHANGE_RETENTION", "30m")])?;
        running.ready().await?;
        let left = async || (changes(&primary).await.ok()?.rows <= 33).then_some(());
        eventually("an hour of changes has expired", NOTICED_MAX, left).await?;
        let (rows, floor) = (changes(&primary).await?.rows, floors(&primary).await?[&0]);
        ensure!((32..=33).contains(&rows), "half an hour of changes is left: {rows}");
        ensure!((-31..=-29).contains(&floor), "and the floor is at the oldest of them: {floor}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_markers_are_swept_while_sites_come_and_go() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let mut source = Source::new(33, PARTITIONS, 300);
        let mut records = Vec::new();
        let env = [("WRITER_MARKER_RETENTION", "5s"), ("WRITER_BATCH_RECORDS_MAX", "50")];
        let mut writer = system.writer(&env)?;
        writer.ready().await?;
        let primary = system.primary().await?;
        let markers = async || -> Option<i64> {
            let count = "select count(*) from view_g1.site_apps where deleted_at is not null";
            Some(primary.query_one(count, &[]).await.ok()?.get(0))
        };
        // Keys of key changes wait for markers of moments ago, so each round's are left in peace until they are stored.
        for round in 0..3 {
            let next: Vec<Record> = source.records(1500);
            system.topic().produce(&next)?;
            records.extend(next);
            assert_equal(system, &Model::of(&records)).await.with_context(|| format!("round {round}"))?;
            let swept = async || (markers().await? == 0).then_some(());
            eventually("all markers are swept", NOTICED_MAX, swept).await?;
        }
        ensure!(metric(&writer, "writer_markers_swept_total").await? > 10.0, "there were markers to sweep");
        assert_equal(system, &Model::of(&records)).await
    })
    .await
}

/// A batch has read a marker and is about to revive its site when the marker goes away: it must not write a site without its
/// document. The sweep of another lane can do that once keys have moved; here a superuser does it, in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_site_revived_while_its_marker_is_swept_has_its_document() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let mut writer = system.writer(&[])?;
        writer.ready().await?;
        let (primary, holder) = (system.primary().await?, system.primary().await?);
        // Deleted and revived as it was: what is written then relies on the document that the marker keeps.
        let insert = Source::new(34, PARTITIONS, 1).records(1).remove(0);
        let delete = Record { value: None, after: None, ..insert.clone() };
        system.topic().produce(&[insert.clone(), delete.clone()])?;
        system.drained().await?;
        let site_id = insert.site_id.clone();
        holder.batch_execute("begin").await?;
        holder.execute("delete from view_g1.site_apps where site_id = $1", &[&site_id]).await?;
        system.topic().produce(std::slice::from_ref(&insert))?;
        let waits = async || {
            let waiting = "select count(*) from pg_stat_activity
                           where datname = current_database() and wait_event_type = 'Lock' and query like '%site_apps%'";
            (primary.query_one(waiting, &[]).await.ok()?.get::<_, i64>(0) > 0).then_some(())
        };
        eventually("the batch waits for the marker that it has read", NOTICED_MAX, waits).await?;
        holder.batch_execute("commit").await?;
        assert_equal(system, &Model::of(&[insert.clone(), delete, insert])).await
    })
    .await
}

#[derive(Debug)]
struct Changes {
    rows: i64,
    newest_age_seconds: Duration,
}

async fn changes(client: &Client) -> Result<Changes> {
    let count = "select count(*), coalesce(extract(epoch from now() - max(written_at)), 0)::float8 from view_g1.change";
    let row = client.query_one(count, &[]).await?;
    Ok(Changes { rows: row.get(0), newest_age_seconds: Duration::from_secs_f64(row.get::<_, f64>(1).max(0.0)) })
}

async fn floors(client: &Client) -> Result<BTreeMap<i32, i64>> {
    let rows = client.query(r#"select partition, "offset" from view_g1.change_floor"#, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn metric(writer: &acceptance::Service, name: &str) -> Result<f64> {
    Ok(writer.metric(name, &[]).await?.unwrap_or_default())
}
