//! Server-sent events, where websockets do not get through.

use anyhow::{Context as _, Result, ensure};
use reqwest::Response;
use shared::import::{
    ImportId,
    NotificationKind::{Accepted, Completed},
};

use crate::stage::{DEADLINE, Notifier, ORIGIN, Stage, Told, told};

struct Events {
    answer: Response,
    text: String,
}

impl Events {
    async fn open(notifier: &Notifier, channel: &str, last_event_id: Option<&str>) -> Result<Self> {
        let asked = notifier.http.get(notifier.url(&format!("/v1/channels/{channel}?after="))).header("origin", ORIGIN);
        let asked = last_event_id.into_iter().fold(asked, |asked, id| asked.header("last-event-id", id));
        let answer = asked.header("accept", "text/event-stream").send().await?;
        ensure!(answer.status() == 200 && answer.headers()["content-type"] == "text/event-stream");
        ensure!(answer.headers()["access-control-allow-origin"] == ORIGIN);
        Ok(Self { answer, text: String::new() })
    }

    /// Its id and what it says.
    async fn next(&mut self) -> Result<(String, Told)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
                let found = field("id: ").zip(field("data: "));
                self.text = rest.to_owned();
                if let Some((id, data)) = found {
                    return Ok((id, told(&data)?));
                }
                continue;
            }
            let chunk = tokio::time::timeout(DEADLINE, self.answer.chunk()).await??.context("the stream goes on")?;
            self.text.push_str(str::from_utf8(&chunk)?);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_say_what_the_websocket_says_and_go_on_behind_the_last_one() -> Result<()> {
    let stage = Stage::new().await?;
    let notifier = stage.notifier(&[]).await?;
    let (channel, import) = (notifier.channel().await?, ImportId::new());
    let mut events = Events::open(&notifier, &channel, None).await?;
    ensure!(events.next().await?.1.kind == "hello");
    stage.tell(&channel, import, Accepted, 0).await?;
    let (id, accepted) = events.next().await?;
    ensure!(accepted.kind == "accepted" && accepted.cursor == id);
    stage.tell(&channel, import, Completed, 9).await?;
    ensure!(events.next().await?.1.kind == "completed");
    let mut again = Events::open(&notifier, &channel, Some(&id)).await?;
    ensure!(again.next().await?.1.whole["recovered"] == true);
    ensure!(again.next().await?.1.kind == "completed");
    // The stream ends when the notifier stops, and the browser comes back.
    notifier.ask_to_stop()?;
    ensure!(again.next().await.is_err());
    Ok(())
}
