//! A browser that stays: it listens at one notifier after the other, always with the cursor of its last frame.

mod story;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use devstack::eventually;
use futures_util::StreamExt;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinHandle};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::stage::ORIGIN;
use super::{Counts, DEADLINE};
use story::Story;

/// Frames after which it goes to the next notifier though nothing is wrong with this one.
const FRAMES: usize = 25;
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(50);

/// A websocket of a notifier.
pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A frame, read.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Its `type`.
    pub kind: String,
    /// Its place.
    pub cursor: String,
    /// About which import; empty where it is about none.
    pub import: String,
    /// Jobs of the import, and how many are done.
    pub jobs: (u64, u64),
    /// Rows of the import.
    pub rows: u64,
    /// What became of them so far.
    pub counts: Counts,
    /// Of a hello: nothing is missing.
    pub recovered: bool,
    /// When it came.
    pub at: Instant,
}

impl Frame {
    /// Reads the text of one.
    pub fn read(text: &str) -> Result<Self> {
        let whole: Value = serde_json::from_str(text).with_context(|| text.to_owned())?;
        let number = |name: &str| whole[name].as_u64().unwrap_or_default();
        let word = |name: &str| whole[name].as_str().unwrap_or_default().to_owned();
        let counts = Counts {
            imported: number("imported"),
            updated: number("updated"),
            skipped: number("skipped"),
            failed: number("failed"),
        };
        Ok(Self {
            kind: word("type"),
            cursor: word("cursor"),
            import: word("import_id"),
            jobs: (number("jobs"), number("jobs_done")),
            rows: number("rows"),
            counts,
            recovered: whole["recovered"] == true,
            at: Instant::now(),
        })
    }

    /// Whether nothing comes after it.
    pub fn is_end(&self) -> bool {
        matches!(self.kind.as_str(), "completed" | "failed" | "cancelled")
    }

    /// Partition and offset of its record.
    pub fn place(&self) -> Result<(i64, i64)> {
        let (partition, offset) = self.cursor.split_once('-').with_context(|| format!("a place: {self:?}"))?;
        Ok((partition.parse()?, offset.parse()?))
    }
}

/// Makes a channel.
pub async fn channel(notifier: &str) -> Result<String> {
    let made = reqwest::Client::new().post(format!("http://{notifier}/v1/channels")).header("origin", ORIGIN);
    let made: Value = made.send().await?.error_for_status()?.json().await?;
    Ok(made["channel_id"].as_str().context("channel_id")?.to_owned())
}

/// Opens a websocket as the page does; or gives the status with which that is refused.
pub async fn connect(notifier: &str, channel: &str, after: &str) -> Result<Result<Socket, u16>> {
    connect_from(notifier, channel, after, ORIGIN).await
}

/// As a page of another origin would.
pub(super) async fn connect_from(
    notifier: &str,
    channel: &str,
    after: &str,
    origin: &str,
) -> Result<Result<Socket, u16>> {
    let mut request = format!("ws://{notifier}/v1/channels/{channel}?after={after}").into_client_request()?;
    request.headers_mut().insert("origin", origin.parse()?);
    match connect_async(request).await {
        Ok((socket, _)) => Ok(Ok(socket)),
        Err(tungstenite::Error::Http(answer)) => Ok(Err(answer.status().as_u16())),
        Err(error) => Err(error.into()),
    }
}

/// The next frame; `None` when the connection has ended.
pub(super) async fn next(socket: &mut Socket) -> Result<Option<Frame>> {
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Text(text) = message {
            return Frame::read(text.as_str()).map(Some);
        }
    }
    Ok(None)
}

/// A browser that runs until it is dropped, or hears what it must not.
#[derive(Debug)]
pub struct Browser {
    story: Arc<Mutex<Story>>,
    following: AbortHandle,
}

impl Browser {
    /// Begins to listen to a channel, at any of these addresses. The task ends only with what it must not have heard.
    pub fn start(notifiers: Vec<String>, channel: &str) -> (Self, JoinHandle<Result<()>>) {
        let story = Arc::<Mutex<Story>>::default();
        let following = tokio::spawn(follow(notifiers, channel.to_owned(), Arc::clone(&story)));
        (Self { story, following: following.abort_handle() }, following)
    }

    /// The frames of an import so far.
    pub fn frames(&self, import: &str) -> Vec<Frame> {
        held(&self.story).frames.iter().filter(|frame| frame.import == import).cloned().collect()
    }

    /// All frames so far.
    pub fn all(&self) -> Vec<Frame> {
        held(&self.story).frames.clone()
    }

    /// How often it has connected.
    pub fn connections(&self) -> usize {
        held(&self.story).connections
    }

    /// Waits for the last frame of an import, which must say that it is completed.
    pub async fn completed(&self, import: &str) -> Result<Frame> {
        let end = async || self.frames(import).into_iter().find(Frame::is_end);
        let end = eventually(&format!("import {import} ends in the browser"), DEADLINE, end).await?;
        ensure!(end.kind == "completed", "{end:?}");
        Ok(end)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.following.abort();
    }
}

fn held(story: &Mutex<Story>) -> MutexGuard<'_, Story> {
    story.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn follow(notifiers: Vec<String>, channel: String, story: Arc<Mutex<Story>>) -> Result<()> {
    for notifier in notifiers.iter().cycle() {
        let after = held(&story).cursor.clone();
        match connect(notifier, &channel, &after).await {
            Ok(Ok(socket)) => listen(socket, &story).await.with_context(|| format!("behind {after:?}"))?,
            // It has been killed, or reads the topic.
            Err(_) | Ok(Err(503)) => tokio::time::sleep(PAUSE).await,
            Ok(Err(status)) => bail!("the browser is refused with {status}"),
        }
    }
    bail!("there is no notifier")
}

/// Until the connection ends, or it has been long enough.
async fn listen(mut socket: Socket, story: &Mutex<Story>) -> Result<()> {
    held(story).connect();
    for _ in 0..FRAMES {
        let Some(frame) = next(&mut socket).await? else { return Ok(()) };
        held(story).add(frame)?;
    }
    let _ = socket.close(None).await;
    Ok(())
}
