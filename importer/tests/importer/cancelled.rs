//! A cancelled import: what is not begun is left alone, and told so.

use anyhow::{Result, ensure};
use devstack::eventually;
use shared::import::{Mode, NotificationKind, ProgressCommand, RowCounts, State};

use crate::stage::{DEADLINE, Import, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_are_not_begun_are_skipped_and_what_was_done_is_told_as_done() -> Result<()> {
    let stage = Stage::migrated().await?;
    let importer = stage.importer("a").await?;
    let import =
        Import::new(&[["Ada", "a@example.org", ""], ["B", "b@example.org", ""], ["C", "bad", ""]], 1, Mode::Import);
    stage.open(&import).await?;
    stage.produce_job(&import.jobs[0]).await?;
    let in_state = async |state: State| {
        let is_so = async || stage.told(&import).await.ok()?.iter().any(|it| it.state == state).then_some(());
        eventually("the import has that state", DEADLINE, is_so).await
    };
    in_state(State::Running).await?;
    stage.command(import.id, &ProgressCommand::Cancel).await?;
    in_state(State::Cancelling).await?;
    // Its channel is told at once with the value; the importer has to have read it: `accepted`, `running`, `cancelling`.
    let values = format!("messaging_kv_store_records_total{{topic=\"{}import.progress\"}}", stage.prefix);
    let has_read_it = async || (importer.metric(&values).await.ok()? >= 3.0).then_some(());
    eventually("the importer knows", DEADLINE, has_read_it).await?;
    // The first comes once more: what it did is in the ledger.
    for job in &import.jobs {
        stage.produce_job(job).await?;
    }
    let told = stage.ended(&import).await?;
    let last = told.last().expect("the end was told");
    let counts = RowCounts { imported: 1, updated: 0, skipped: 2, failed: 0 };
    ensure!((last.kind, last.counts) == (NotificationKind::Cancelled, counts), "{last:?}");
    ensure!(stage.contacts().await?.len() == 1 && stage.faults(&import).await?.is_empty());
    Ok(())
}
