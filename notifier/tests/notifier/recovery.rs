//! Frames in order, at any instance, behind any cursor, across restarts.

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use shared::import::{
    ImportId,
    NotificationKind::{Accepted, Completed, Progress},
};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::stage::{Stage, kinds};

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_goes_on_at_any_instance_with_nothing_lost_and_nothing_twice() -> Result<()> {
    let stage = Stage::new().await?;
    let (first, second) = tokio::try_join!(stage.notifier(&[]), stage.notifier(&[]))?;
    let (channel, import) = (first.channel().await?, ImportId::new());
    let mut browser = first.listen(&channel, "").await?;
    let hello = browser.next().await?;
    ensure!((hello.kind.as_str(), &hello.whole["recovered"]) == ("hello", &true.into()), "{hello:?}");
    stage.tell(&channel, import, Accepted, 0).await?;
    for done in 1..=8 {
        stage.tell(&channel, import, Progress, done).await?;
    }
    let accepted = browser.next().await?;
    ensure!(accepted.kind == "accepted" && accepted.whole["import_id"] == import.to_string());
    // What the hello's cursor stands for is nothing: all comes again.
    let mut again = second.listen(&channel, &hello.cursor).await?;
    ensure!(kinds(&again.until("progress").await?) == ["hello", "accepted", "progress"]);
    // Progress holds the whole state: the latest one comes, whatever was left out.
    let mut last = browser.next().await?;
    while last.whole["jobs_done"] != 8 {
        last = browser.next().await?;
    }
    stage.tell(&channel, import, Completed, 9).await?;
    let completed = browser.next().await?;
    ensure!(completed.kind == "completed");

    // The other instance may be behind: it lets who has seen more wait until it has that too.
    let hello = second.listen(&channel, &completed.cursor).await?.next().await?;
    ensure!(hello.whole["recovered"] == true, "{hello:?}");
    // Behind each cursor, at the other instance: what was not seen, once.
    for (seen, expected) in
        [(&accepted, &["hello", "completed"][..]), (&last, &["hello", "completed"]), (&completed, &["hello"])]
    {
        let mut browser = second.listen(&channel, &seen.cursor).await?;
        let later = ImportId::new();
        stage.tell(&channel, later, Accepted, 0).await?;
        let mut frames = browser.until("accepted").await?;
        while frames.last().is_some_and(|it| it.whole["import_id"] != later.to_string()) {
            frames.extend(browser.until("accepted").await?);
        }
        let told: Vec<_> =
            frames.iter().filter(|it| it.whole["import_id"] == import.to_string() || it.kind == "hello").collect();
        ensure!(told.iter().map(|it| it.kind.as_str()).eq(expected.iter().copied()), "{seen:?}: {frames:?}");
        let offset = |cursor: &str| cursor.rsplit_once('-').and_then(|(_, offset)| offset.parse::<i64>().ok());
        ensure!(frames[1..].is_sorted_by(|a, b| offset(&a.cursor) < offset(&b.cursor)), "in order, each once");
    }

    // A restart loses nothing, and a finished import answers at once.
    first.kill()?;
    let restarted = stage.notifier(&[]).await?;
    let mut browser = restarted.listen(&channel, "").await?;
    ensure!(kinds(&browser.until("completed").await?) == ["hello", "accepted", "completed"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_come_back_at_once_and_a_stop_sends_them_elsewhere() -> Result<()> {
    let stage = Stage::new().await?;
    let mut notifier = stage.notifier(&[]).await?;
    let other = stage.notifier(&[]).await?;
    let channels = try_join_all((0..40).map(|_| notifier.channel())).await?;
    let import = ImportId::new();
    for channel in &channels {
        stage.tell(channel, import, Accepted, 0).await?;
    }
    let mut browsers = try_join_all(channels.iter().flat_map(|it| [it; 5]).map(|it| notifier.listen(it, ""))).await?;
    let seen = try_join_all(browsers.iter_mut().map(|it| it.until("accepted"))).await?;
    notifier.ask_to_stop()?;
    for browser in &mut browsers {
        ensure!(browser.closed().await? == Some(CloseCode::Restart));
    }
    drop(browsers);
    ensure!(notifier.exit_code().await? == Some(0));
    let cursors = channels.iter().flat_map(|it| [it; 5]).zip(&seen).map(|(channel, seen)| (channel, &seen[1].cursor));
    let mut browsers = try_join_all(cursors.map(|(channel, cursor)| other.listen(channel, cursor))).await?;
    for channel in &channels {
        stage.tell(channel, import, Completed, 9).await?;
    }
    for told in try_join_all(browsers.iter_mut().map(|it| it.until("completed"))).await? {
        ensure!(kinds(&told) == ["hello", "completed"] && told[0].whole["recovered"] == true, "{told:?}");
    }
    Ok(())
}
