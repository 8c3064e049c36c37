//! Records that are no jobs: dead letters, and an import that says that it failed.

use anyhow::{Result, ensure};
use devstack::eventually;
use rdkafka::{Message as _, message::Headers as _};
use shared::import::{Mode, NotificationKind};

use crate::stage::{DEADLINE, Import, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_be_read_is_a_dead_letter_and_its_import_ends_as_failed() -> Result<()> {
    let stage = Stage::migrated().await?;
    let _importer = stage.importer("a").await?;
    let import = Import::new(&[["Ada", "a@example.org", ""], ["B", "b@example.org", ""]], 1, Mode::Import);
    stage.open(&import).await?;
    stage.produce("import.jobs", &import.jobs[0].key(), b"{\"import_id\":").await?;
    stage.produce("import.jobs", "no job at all", b"{}").await?;
    stage.produce("import.progress.commands", &import.id.to_string(), b"{\"unknown\":1}").await?;
    stage.produce_job(&import.jobs[1]).await?;
    let told = stage.ended(&import).await?;
    let last = told.last().expect("the end was told");
    ensure!((last.kind, last.jobs_done, last.counts.imported) == (NotificationKind::Failed, 2, 1), "{last:?}");
    ensure!(stage.contacts().await?.len() == 1);
    let buried = async || {
        let letters = stage.records(&stage.dead_letters()).await.ok()?;
        let reason = |letter: &rdkafka::message::OwnedMessage| {
            let headers = letter.headers()?;
            let found = headers.iter().find(|header| header.key == "dlq-reason")?;
            Some(String::from_utf8_lossy(found.value?).into_owned())
        };
        let mut reasons: Vec<_> = letters.iter().filter_map(reason).collect();
        reasons.sort();
        (reasons.len() == 2).then_some(reasons)
    };
    let reasons = eventually("both are dead letters", DEADLINE, buried).await?;
    ensure!(reasons == ["invalid-job", "invalid-key"], "{reasons:?}");
    Ok(())
}
