//! What stands behind the last record: transaction markers and aborted records are passed, and idleness is fresh.

use std::time::Duration;

use acceptance::{Model, Record, Source, System, assert_equal, scenario};
use anyhow::{Context, Result, ensure};
use devstack::eventually;
use tokio_postgres::Client;

use crate::states::row;
use crate::{NOTICED_MAX, PARTITIONS, servers};

/// On an idle, caught-up system `as_of` moves at least so often; generous for two busy cores.
const AS_OF_MAX: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn markers_and_aborted_records_at_the_tail_are_no_lag() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let mut source = Source::new(6, PARTITIONS, 200);
        let committed = source.records(900);
        let aborted = source.records(300);
        let [tail_of_1, tail_of_3] = [1, 3].map(|partition| only(&aborted, partition));
        // Partition 0 ends with a commit marker, 1 with an abort marker, 2 with a marker before it, 3 with both twice.
        system.topic().produce_transactions(&[
            (&committed[..600], true),
            (&tail_of_3, false),
            (&committed[600..], true),
            (&tail_of_3, false),
            (&tail_of_1, false),
        ])?;
        let mut writer = system.writer(&[])?;
        writer.ready().await?;
        assert_equal(system, &Model::of(&committed)).await?;
        all_caught_up(system)?;
        ensure!(as_of_moves(system).await?, "as_of moves while nothing comes");

        // The same once the writer is idle: an abort alone, then a commit.
        system.topic().produce_transactions(&[(&tail_of_3, false), (&tail_of_1, false)])?;
        assert_equal(system, &Model::of(&committed)).await?;
        all_caught_up(system)?;
        ensure!(as_of_moves(system).await?, "as_of moves behind an abort");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_never_had_a_record_are_caught_up_and_fresh() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let mut writer = system.writer(&[])?;
        writer.ready().await?;
        assert_equal(system, &Model::default()).await?;
        all_caught_up(system)?;
        ensure!(as_of_moves(system).await?, "as_of moves without any record");
        Ok(())
    })
    .await
}

/// A reader of committed records sees nothing behind an open transaction, though others' records there are acknowledged. The
/// view lacks them, so `as_of` must not claim their moment.
#[tokio::test(flavor = "multi_thread")]
async fn as_of_stands_while_acknowledged_records_wait_behind_an_open_transaction() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        // Without key changes: one would wait for its delete, and its partition with it.
        let at = |number: i32| {
            let site_id = format!("site-{:03}", number % 200);
            row(number % PARTITIONS, &site_id, number as u64 + 1, number.into(), &format!("app-{number}"))
        };
        let records: Vec<Record> = (0..600).map(at).collect();
        let mut writer = system.writer(&[])?;
        writer.ready().await?;
        system.topic().produce(&records[..300])?;
        system.drained().await?;
        let first = only(&records[300..], 0).remove(0);
        let open = system.topic().open_transaction(std::slice::from_ref(&first))?;
        system.topic().produce(&records[300..])?;
        let acknowledged_at = std::time::SystemTime::now();
        let primary = system.primary().await?;
        // The other partitions go on; once theirs have passed that moment twice, this one has had its chances.
        for round in 0..2 {
            let later = acknowledged_at + Duration::from_secs(2 * round);
            let others = async || as_ofs(&primary).await.ok()?[1..].iter().all(|at| *at > Some(later)).then_some(());
            eventually("as_of of the other partitions moves on", NOTICED_MAX, others).await?;
            let claimed = as_ofs(&primary).await?[0];
            ensure!(claimed <= Some(acknowledged_at), "partition 0 claims {claimed:?}, and lacks what came before");
        }
        open.abort()?;
        assert_equal(system, &Model::of(&records)).await?;
        ensure!(as_of_moves(system).await?, "as_of moves once the transaction is over");
        Ok(())
    })
    .await
}

fn only(records: &[Record], partition: i32) -> Vec<Record> {
    records.iter().filter(|record| record.partition == partition).cloned().collect()
}

fn all_caught_up(system: &System) -> Result<()> {
    let lines = system.writer_position()?;
    let caught_up = lines.values().all(|line| line["lag"] == 0 && line["state"] == "caught-up");
    ensure!(lines.len() == PARTITIONS as usize && caught_up, "{lines:#?}");
    Ok(())
}

/// Whether each partition's `as_of` is seen to move twice.
async fn as_of_moves(system: &System) -> Result<bool> {
    let primary = system.primary().await?;
    let read = async || as_ofs(&primary).await;
    let set = async || read().await.ok().filter(|all| all.iter().all(Option::is_some));
    let mut seen = eventually("every partition has an as_of", NOTICED_MAX, set).await?;
    for observation in 1..=2 {
        let moved = async || {
            let now = read().await.ok()?;
            now.iter().zip(&seen).all(|(now, seen)| now > seen).then_some(now)
        };
        let what = format!("as_of of every partition moves, observation {observation}");
        seen = eventually(&what, AS_OF_MAX, moved).await.context("as_of stands still")?;
    }
    Ok(true)
}

async fn as_ofs(primary: &Client) -> Result<Vec<Option<std::time::SystemTime>>> {
    let rows = primary.query("select as_of from view_g1.position order by partition", &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
