//! Rows become contacts, once each, and what is wrong with them is told.

use anyhow::{Result, ensure};
use devstack::eventually;
use shared::import::{Columns, Mode, Notification, NotificationKind, RowCounts};

use crate::stage::{Contacts, DEADLINE, Import, Stage};

fn contacts(all: &[[&str; 3]]) -> Contacts {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    all.iter().map(|[name, email, phone]| ((*email).to_owned(), (some(name), some(phone)))).collect()
}

fn ends(told: &[Notification]) -> Vec<(NotificationKind, RowCounts)> {
    told.iter().filter(|it| it.state.is_end()).map(|it| (it.kind, it.counts)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_come_twice_count_once_and_the_last_line_of_a_contact_stands() -> Result<()> {
    let stage = Stage::migrated().await?;
    let (_first, _second) = tokio::try_join!(stage.importer("a"), stage.importer("b"))?;
    let rows = [
        ["Ada", "ada@example.org", "+44 20 7946 0958"],
        ["Bob", "bob@example.org", ""],
        ["", "no address", "12"],
        // In another job, which may come first.
        ["Ada Lovelace", "ADA@example.org", "+44 20 7946 0958"],
        ["Cy", "cy@example.org", "+48 22 123 45 67"],
        ["Cy", "cy@example.org", "+48 22 123 45 67"],
    ];
    let import = Import::new(&rows, 2, Mode::Import);
    stage.import(&import, 2).await?;
    let told = stage.ended(&import).await?;
    let after = [
        ["Ada Lovelace", "ada@example.org", "+442079460958"],
        ["Bob", "bob@example.org", ""],
        ["Cy", "cy@example.org", "+48221234567"],
    ];
    ensure!(stage.contacts().await? == contacts(&after));
    let faults = [(4, "email", "email-invalid"), (4, "phone", "phone-invalid")];
    ensure!(stage.faults(&import).await? == faults.map(|(line, column, code)| (line, column.into(), code.into())));
    let kinds: Vec<_> = told.iter().map(|it| (it.kind, it.jobs_done)).collect();
    let expected = [(NotificationKind::Accepted, 0), (NotificationKind::Progress, 1), (NotificationKind::Progress, 2)];
    ensure!(kinds == [&expected[..], &[(NotificationKind::Completed, 3)]].concat(), "{kinds:?}");
    let counts = RowCounts { imported: 3, updated: 0, skipped: 2, failed: 1 };
    ensure!(ends(&told) == [(NotificationKind::Completed, counts)], "{told:?}");

    // A job that comes once more after the end changes nothing, and nobody is told.
    stage.produce_job(&import.jobs[0]).await?;
    stage.worked_off().await?;
    let ledger = stage.ledger(&import).await?;
    ensure!(ledger == [3, 0, 2, 1], "what became of rows the first time is what became of them: {ledger:?}");
    let mut later = Import::new(&[["Bob", "bob@example.org", ""], ["Di", "di@example.org", ""]], 1, Mode::Check);
    stage.import(&later, 1).await?;
    let checked = ends(&stage.ended(&later).await?);
    let counts = RowCounts { imported: 1, updated: 0, skipped: 1, failed: 0 };
    ensure!(checked == [(NotificationKind::Completed, counts)], "{checked:?}");
    ensure!(stage.contacts().await? == contacts(&after), "a check writes no contacts");

    // Without a column for phones they stay; the same again is skipped.
    let columns = Columns { email: 1, name: Some(0), phone: None };
    let rows = [["Ada L.", "ada@example.org", "x"], ["Cy", "cy@example.org", "x"], ["Di", "di@example.org", "x"]];
    later = Import::with_columns(&rows, 10, Mode::Import, columns);
    stage.import(&later, 1).await?;
    let counts = RowCounts { imported: 1, updated: 1, skipped: 1, failed: 0 };
    ensure!(ends(&stage.ended(&later).await?) == [(NotificationKind::Completed, counts)]);
    let after = [["Ada L.", "ada@example.org", "+442079460958"], after[1], after[2], ["Di", "di@example.org", ""]];
    ensure!(stage.contacts().await? == contacts(&after));
    ensure!(stage.told(&import).await? == told, "an import that has ended is told about no more");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_changes_a_contact_counts_as_much_before_one_that_does_not_as_behind_it() -> Result<()> {
    let stage = Stage::migrated().await?;
    let _importer = stage.importer("a").await?;
    let email = "ada@example.org";
    let known = Import::new(&[["Ada", email, ""]], 1, Mode::Import);
    stage.import(&known, 1).await?;
    stage.ended(&known).await?;
    for (order, before, after) in [([0, 1], "Ada", "Ada L."), ([1, 0], "Ada L.", "Ada Lovelace")] {
        // Line 2 says what is known, line 3 something new.
        let import = Import::new(&[[before, email, ""], [after, email, ""]], 1, Mode::Import);
        stage.open(&import).await?;
        for (done, job) in order.into_iter().enumerate() {
            stage.produce_job(&import.jobs[job]).await?;
            let is_done =
                async || stage.told(&import).await.ok()?.last().filter(|it| it.jobs_done as usize > done).map(drop);
            eventually("the job is done", DEADLINE, is_done).await?;
        }
        let counts = RowCounts { imported: 0, updated: 1, skipped: 1, failed: 0 };
        let told = ends(&stage.told(&import).await?);
        ensure!(told == [(NotificationKind::Completed, counts)], "{order:?}: {told:?}");
        ensure!(stage.contacts().await? == contacts(&[[after, email, ""]]));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_missing_are_waited_for_and_a_stop_is_clean() -> Result<()> {
    let stage = Stage::new().await?;
    let importer = stage.start("a")?;
    let says_so = async || {
        let told = importer.readiness().await?.to_string();
        told.contains("importer migrate").then_some(())
    };
    eventually("it says what is missing", DEADLINE, says_so).await?;
    stage.migrate()?;
    ensure!(stage.migrate()? == serde_json::json!({"applied": []}));
    let is_ready = async || importer.readiness().await.filter(|it| it["ready"] == true).map(drop);
    eventually("it works", DEADLINE, is_ready).await?;
    ensure!(importer.stop().await? == Some(0));
    Ok(())
}
