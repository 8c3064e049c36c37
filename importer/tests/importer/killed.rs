//! An importer that is killed in the middle of an import, and its successor.

use anyhow::{Result, ensure};
use devstack::eventually;
use shared::import::{Mode, NotificationKind};
use sqlx::Connection as _;

use crate::stage::{DEADLINE, Import, Stage};

const JOBS: usize = 60;
const ROWS_PER_JOB: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_killed_in_mid_import_is_done_once_by_its_successor() -> Result<()> {
    let stage = Stage::migrated().await?;
    // Every tenth row is bad; every fourth speaks of a contact that another job has too.
    let rows: Vec<[String; 3]> = (0..JOBS * ROWS_PER_JOB)
        .map(|row| {
            let contact = if row % 4 == 0 { row / 2 } else { row };
            let email = if row % 10 == 0 { "bad".to_owned() } else { format!("u{contact}@example.org") };
            [format!("Row {row}"), email, String::new()]
        })
        .collect();
    let borrowed: Vec<[&str; 3]> = rows.iter().map(|row| [row[0].as_str(), &row[1], &row[2]]).collect();
    let import = Import::new(&borrowed, ROWS_PER_JOB, Mode::Import);
    let importer = stage.importer("a").await?;
    // The last job finds its entry in the ledger written by somebody who does not commit, and stands in mid-transaction.
    let mut somebody = stage.database().await?;
    let mut held = somebody.begin().await?;
    let entry = "insert into import_job (import_id, job, imported, updated, skipped, failed)
        values ($1::text::uuid, $2, 0, 0, 0, 0)";
    let last = i32::try_from(JOBS - 1)?;
    sqlx::query(entry).bind(import.id.to_string()).bind(last).execute(&mut *held).await?;
    stage.import(&import, 2).await?;
    let has_begun = async || (ledger(&stage).await.ok()? >= 3).then_some(());
    eventually("some jobs are done", DEADLINE, has_begun).await?;
    importer.kill()?;
    ensure!(ledger(&stage).await? < JOBS as i64, "the import is in its middle");
    held.rollback().await?;
    let successor = stage.start("a")?;
    let told = stage.ended(&import).await?;

    let good = borrowed.iter().filter(|row| row[1] != "bad");
    let model: std::collections::BTreeMap<&str, &str> = good.map(|row| (row[1], row[0])).collect();
    let contacts = stage.contacts().await?;
    ensure!(contacts.len() == model.len());
    for (email, name) in &model {
        ensure!(contacts[*email].0.as_deref() == Some(*name), "{email}: {:?}, not {name}", contacts[*email]);
    }
    ensure!(ledger(&stage).await? == JOBS as i64);
    ensure!(stage.faults(&import).await?.len() == borrowed.len() / 10);
    let last = told.last().expect("the end was told");
    ensure!(told.iter().filter(|it| it.state.is_end()).count() == 1 && last.kind == NotificationKind::Completed);
    let (counts, rows) = (last.counts, borrowed.len() as u64);
    ensure!(counts.imported == model.len() as u64 && counts.failed == rows / 10, "{counts:?}");
    ensure!(counts.imported + counts.updated + counts.skipped + counts.failed == rows, "{counts:?}");
    drop(successor);
    Ok(())
}

async fn ledger(stage: &Stage) -> Result<i64> {
    let done = sqlx::query_scalar("select count(*) from import_job").fetch_one(&mut stage.database().await?).await?;
    Ok(done)
}
