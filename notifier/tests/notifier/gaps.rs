//! What cannot be replayed is told.

use anyhow::{Result, ensure};
use shared::import::{ImportId, NotificationKind::Accepted};

use crate::stage::{Stage, kinds};

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_is_too_old_is_told_as_a_gap() -> Result<()> {
    let stage = Stage::new().await?;
    let notifier = stage.notifier(&["--history-frames-max", "3"]).await?;
    let channel = notifier.channel().await?;
    let mut browser = notifier.listen(&channel, "").await?;
    browser.next().await?;
    let mut cursors = Vec::new();
    for _ in 0..6 {
        stage.tell(&channel, ImportId::new(), Accepted, 0).await?;
        cursors.push(browser.next().await?.cursor);
    }
    let first_two = async |after: &str| {
        let mut browser = notifier.listen(&channel, after).await?;
        let hello = browser.next().await?;
        Ok::<_, anyhow::Error>((hello.whole["recovered"] == true, browser.next().await?.kind))
    };
    ensure!(first_two(&cursors[0]).await? == (false, "gap".to_owned()));
    ensure!(first_two("").await? == (false, "gap".to_owned()));
    // The last one that was dropped was seen.
    ensure!(first_two(&cursors[2]).await? == (true, "accepted".to_owned()));
    ensure!(first_two(&cursors[4]).await? == (true, "accepted".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_another_log_is_told_as_a_gap_and_all_that_is_kept_follows() -> Result<()> {
    let stage = Stage::new().await?;
    let notifier = stage.notifier(&["--behind-max", "100ms"]).await?;
    let (channel, import) = (notifier.channel().await?, ImportId::new());
    stage.tell(&channel, import, Accepted, 0).await?;
    for after in ["0-999999", "1-999999", "700-0"] {
        let told = notifier.listen(&channel, after).await?.until("accepted").await?;
        ensure!(kinds(&told) == ["hello", "gap", "accepted"] && told[0].whole["recovered"] == false, "{told:?}");
    }
    Ok(())
}
