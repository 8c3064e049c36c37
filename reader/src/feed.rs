//! A subscriber's stream: what its follower hears, as server-sent events.
//!
//! ```text
//! retry: 1000                 first of all: how soon to come back, and the token of the beginning
//! id: <token>
//!
//! id: <token>                 a change
//! data: {"site_id":…}
//!
//! event: gap                  something is missing before what comes next: read the state anew
//! id: <token>
//! data: {"reason":"…"}
//!
//! :                           nothing happened; the token of now
//! id: <token>
//!
//! event: closing              this reader stops; come back, to another one
//! retry: 731
//! data: {"reason":"shutdown"}
//! ```
//!
//! A task of its own writes into a channel of one chunk. It waits for the socket no longer than `READER_FEED_STALL_MAX`; a
//! client that is merely slow reads back what it was too slow for, at its own pace.

use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use crate::app::App;
use crate::changes::{Follower, Heard, token};
use crate::connections::InHand;
use crate::observe::{FeedEnd, OpenFeed};

/// What clients wait before they come back.
const RETRY: Duration = Duration::from_secs(1);

/// At a shutdown they come back spread over so long, so that the other readers are not met by all at once.
const RETRY_SPREAD_MILLIS: u64 = 2000;

/// The body of a feed.
#[derive(Debug)]
pub(crate) struct Frames {
    frames: mpsc::Receiver<Bytes>,
    in_hand: Option<InHand>,
}

impl Frames {
    /// Has the request count as in hand for as long as the feed goes on: its connection is no idle one.
    pub(crate) fn hold(&mut self, in_hand: InHand) {
        self.in_hand = Some(in_hand);
    }
}

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.frames.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Starts the stream; `first` is what the follower has heard already. The permit is held until it ends.
pub(crate) fn start(app: &Arc<App>, follower: Follower, first: Option<Heard>, permit: OwnedSemaphorePermit) -> Frames {
    let (sender, frames) = mpsc::channel(1);
    let app = Arc::clone(app);
    // Not on the worker: all feeds wake at once, and look-ups would stand behind them.
    let runtime = app.runtime.clone();
    runtime.spawn(async move {
        let open = OpenFeed::new();
        let stream = Stream { app: &app, follower, sender };
        let Err(end) = stream.run(first).await;
        drop(permit);
        open.ended(end);
    });
    Frames { frames, in_hand: None }
}

struct Stream<'a> {
    app: &'a App,
    follower: Follower,
    sender: mpsc::Sender<Bytes>,
}

impl Stream<'_> {
    async fn run(mut self, first: Option<Heard>) -> Result<std::convert::Infallible, FeedEnd> {
        self.send(self.hello(&first)).await?;
        if let Some(heard) = first {
            self.tell(heard).await?;
        }
        let app = self.app;
        loop {
            let heard = tokio::select! {
                biased;
                () = app.feeds_end.cancelled() => return self.close().await,
                () = self.sender.closed() => return Err(FeedEnd::Client),
                heard = timeout(app.config.feed_heartbeat, self.follower.next()) => heard,
            };
            match heard {
                Ok(heard) => self.tell(heard).await?,
                Err(_elapsed) => {
                    self.follower.rest();
                    self.send(format!(":\nid: {}\n\n", token(self.follower.cursor()))).await?;
                }
            }
        }
    }

    /// What was heard already lies behind the follower's cursor, so the first token may not be that; its events bring theirs.
    fn hello(&self, first: &Option<Heard>) -> String {
        let retry = RETRY.as_millis();
        match first {
            Some(Heard::Changes(_)) => format!("retry: {retry}\n\n"),
            Some(Heard::Gap(_)) | None => format!("retry: {retry}\nid: {}\n\n", token(self.follower.cursor())),
        }
    }

    async fn tell(&mut self, heard: Heard) -> Result<(), FeedEnd> {
        match heard {
            Heard::Changes(selected) => self.send(selected.into_frames()).await,
            Heard::Gap(gap) => {
                crate::observe::feed_gap(gap.reason());
                let id = token(self.follower.cursor());
                self.send(format!("event: gap\nid: {id}\ndata: {{\"reason\":\"{}\"}}\n\n", gap.reason())).await
            }
        }
    }

    async fn close(&self) -> Result<std::convert::Infallible, FeedEnd> {
        // Keys of hashers are random.
        let random = RandomState::new().hash_one(());
        let retry = RETRY.as_millis() as u64 / 2 + random % RETRY_SPREAD_MILLIS;
        let text = format!("event: closing\nretry: {retry}\ndata: {{\"reason\":\"shutdown\"}}\n\n");
        // One that stands before a full socket is cut by the drain.
        let _ = self.sender.send(text.into()).await;
        Err(FeedEnd::Drain)
    }

    async fn send(&self, bytes: impl Into<Bytes>) -> Result<(), FeedEnd> {
        let sent = timeout(self.app.config.feed_stall_max, self.sender.send(bytes.into())).await;
        sent.map_err(|_elapsed| FeedEnd::Stalled)?.map_err(|_closed| FeedEnd::Client)
    }
}
