//! A crowd at the notifiers, with bad guests in it, and one good client who must not notice.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use devstack::{Endpoints, eventually};
use futures_util::SinkExt;
use futures_util::future::try_join_all;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use super::browser::{Browser, Frame, Socket, channel, connect, connect_from, next};
use super::cast::Cast;
use super::{DEADLINE, ImportStage, Owner, Sheet, Upload, import_scenario, say};
use crate::torture::tell;

/// Who may listen to one channel at once, by default.
const OF_A_CHANNEL: usize = 16;
/// Connections and uploads that are begun at once.
const AT_ONCE: usize = 200;
const UPLOADS_AT_ONCE: usize = 8;
/// Files that the test has open besides.
const OWN_FILES: u64 = 500;
const HUGE: usize = 64 << 20;
/// A client of the crowd reads when it is its turn, and answers pings only then.
const PATIENT: [(&str, &str); 1] = [("NOTIFIER_PING_INTERVAL", "600s")];
/// Rows of each file of the good client.
const ROWS: usize = 3000;

/// So many clients come back at once when their notifier dies, among clients that mean no good; nobody misses a frame, and a good
/// client's imports go on meanwhile. Tells what came of it.
pub async fn import_storm(endpoints: &Endpoints, clients: usize) -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    ensure!(clients as u64 + OWN_FILES < hard, "{clients} clients need more open files than {hard}");
    let mut done = String::new();
    import_scenario(endpoints, async |stage| {
        let cast = Cast::start(stage, 1, &PATIENT).await?;
        let good = channel(&cast.notifiers()[0]).await?;
        let (browser, heard) = Browser::start(cast.notifiers(), &good);
        let storm = Storm { stage, cast, good, browser, owner: Owner::new("good"), rounds: 0, longest: Duration::ZERO };
        done = tokio::select! {
            done = storm.whole(clients) => done?,
            wrong = heard => wrong?.map(|()| String::new()).context("what the good client heard")?,
        };
        Ok(())
    })
    .await?;
    tell(&format!("import-storm: {done}"));
    Ok(())
}

struct Storm<'s> {
    stage: &'s ImportStage,
    cast: Cast,
    good: String,
    browser: Browser,
    owner: Owner,
    rounds: u64,
    longest: Duration,
}

/// One of the crowd.
struct Client {
    channel: usize,
    notifier: usize,
    cursor: String,
    socket: Socket,
}

impl Storm<'_> {
    async fn whole(mut self, clients: usize) -> Result<String> {
        let (first, second) = (self.cast.notifiers()[0].clone(), self.cast.notifiers()[1].clone());
        let started = Instant::now();
        let channels = self.channels(clients.div_ceil(OF_A_CHANNEL)).await?;
        let before = self.import_into(&channels, "before").await?;
        say(started, &format!("each of {} channels has an import", channels.len()));
        let mut crowd = Vec::new();
        let places: Vec<usize> = (0..clients).collect();
        for some in places.chunks(AT_ONCE) {
            let come = some.iter().map(|number| come(&channels, *number, [&first, &second], &before));
            crowd.extend(try_join_all(come).await?);
        }
        say(started, &format!("{clients} clients have heard of it"));
        self.round().await.context("beside the crowd")?;
        let _silent = self.who_does_not_read(&second).await?;
        self.round().await.context("beside clients that do not read")?;
        self.refused(&second).await?;
        self.huge(&second).await?;
        self.round().await.context("behind bad guests")?;

        say(started, "bad guests are refused; a notifier is killed");
        let notifiers = self.cast.notifiers();
        let dies = self.cast.members.iter().position(|it| it.address() == notifiers[0]).context("a notifier")?;
        self.cast.kill(dies)?;
        let began = Instant::now();
        let (gone, mut crowd): (Vec<_>, Vec<_>) = crowd.into_iter().partition(|client| client.notifier == 0);
        let storm = gone.len();
        let back = try_join_all(gone.into_iter().map(|client| come_back(&channels, client, &second)));
        let (back, round) = tokio::join!(back, self.round());
        round.context("in the storm")?;
        crowd.extend(back.context("who comes back")?);
        let took = began.elapsed();
        say(started, &format!("{storm} clients are back"));
        let after = self.import_into(&channels, "after").await?;
        for some in crowd.chunks_mut(AT_ONCE) {
            try_join_all(some.iter_mut().map(|client| hears_of(client, &after[client.channel]))).await?;
        }
        self.cast.ready(dies).await?;
        self.round().await.context("after the storm")?;
        Ok(format!(
            "{clients} clients on {} channels, {storm} of them come back at once within {took:?} and miss nothing; {} imports of the \
             good client, the longest in {:?}; peaks of memory {:?} MiB",
            channels.len(),
            self.rounds,
            self.longest,
            self.cast.peaks(),
        ))
    }

    async fn channels(&self, wanted: usize) -> Result<Vec<String>> {
        let notifiers = self.cast.notifiers();
        let mut all = Vec::new();
        for _ in 0..wanted {
            // More than a notifier makes in a second are asked for again.
            all.push(eventually("a channel", DEADLINE, async || channel(&notifiers[0]).await.ok()).await?);
        }
        Ok(all)
    }

    /// An import of one row into each channel; gives their ids.
    async fn import_into(&mut self, channels: &[String], key: &str) -> Result<Vec<String>> {
        let jobs = self.cast.jobs().address();
        let mut imports = Vec::new();
        for some in channels.chunks(UPLOADS_AT_ONCE) {
            let uploads: Vec<_> = some
                .iter()
                .map(|channel| Upload::new(channel, "crowd", key, "email\nada@example.org\n".to_owned()))
                .collect();
            imports.extend(try_join_all(uploads.iter().map(|upload| upload.accepted(&jobs))).await?);
        }
        Ok(imports)
    }

    /// A file of the good client, from the upload to its end in the browser.
    async fn round(&mut self) -> Result<()> {
        self.rounds += 1;
        let mut sheet = Sheet::new(&mut StdRng::seed_from_u64(self.rounds), &mut self.owner, ROWS);
        let key = format!("round-{}", self.rounds);
        let upload = Upload::new(&self.good, &self.owner.id, &key, std::mem::take(&mut sheet.text));
        let began = Instant::now();
        let import = upload.accepted(&self.cast.jobs().address()).await?;
        let end = self.browser.completed(&import).await?;
        self.longest = self.longest.max(began.elapsed());
        ensure!(end.counts == sheet.counts, "{end:?} instead of {:?}", sheet.counts);
        Ok(())
    }

    /// Some that listen to the good client's own channel, and take nothing off their sockets.
    async fn who_does_not_read(&self, notifier: &str) -> Result<Vec<TcpStream>> {
        let mut silent = Vec::new();
        for _ in 0..OF_A_CHANNEL / 4 {
            let socket = TcpSocket::new_v4()?;
            socket.set_recv_buffer_size(4096)?;
            let mut stream = socket.connect(notifier.parse()?).await?;
            let head = format!(
                "GET /v1/channels/{} HTTP/1.1\r\nhost: {notifier}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                self.good
            );
            stream.write_all(head.as_bytes()).await?;
            silent.push(stream);
        }
        Ok(silent)
    }

    /// Pages of other origins, channels that nobody made, and one whose time is over.
    async fn refused(&self, notifier: &str) -> Result<()> {
        let mut brief = self.stage.notifier("brief", &[("NOTIFIER_CHANNEL_LIFETIME", "1s")])?;
        brief.ready().await?;
        let over = channel(&brief.address()).await?;
        let (head, mac) = self.good.rsplit_once('.').context("a signed channel")?;
        let other = if mac.starts_with('A') { "B" } else { "A" };
        let forged = format!("{head}.{other}{}", &mac[1..]);
        for _ in 0..50 {
            let status = connect_from(notifier, &self.good, "", "http://evil.example").await?.err();
            ensure!(status == Some(403), "a page of another origin: {status:?}");
            let status = connect(notifier, &forged, "").await?.err();
            ensure!(status == Some(403), "a forged channel: {status:?}");
        }
        let is_over = async || (connect(notifier, &over, "").await.ok()?.err() == Some(410)).then_some(());
        eventually("the channel's time is over", DEADLINE, is_over).await
    }

    /// Who sends 64 MiB is closed, and has not been read to the end.
    async fn huge(&self, notifier: &str) -> Result<()> {
        let mut socket = connect(notifier, &self.good, "").await?.ok().context("a socket")?;
        let _ = socket.send(Message::binary(vec![0; HUGE])).await;
        let closed = async {
            while next(&mut socket).await?.is_some() {}
            anyhow::Ok(())
        };
        tokio::time::timeout(DEADLINE, closed).await.context("a frame of 64 MiB is borne")?
    }
}

/// Connects, and hears of the import that was before.
async fn come(channels: &[String], number: usize, notifiers: [&str; 2], before: &[String]) -> Result<Client> {
    let (channel, notifier) = (number % channels.len(), number % 2);
    let socket = connect(notifiers[notifier], &channels[channel], "").await?;
    let socket = socket.map_err(|status| anyhow::anyhow!("client {number} is refused with {status}"))?;
    let mut client = Client { channel, notifier, cursor: String::new(), socket };
    hello(&mut client).await?;
    hears_of(&mut client, &before[channel]).await?;
    Ok(client)
}

/// Its notifier has died: goes to the other one at once, until that takes it.
async fn come_back(channels: &[String], client: Client, notifier: &str) -> Result<Client> {
    let Client { channel, cursor, .. } = client;
    let taken = async || connect(notifier, &channels[channel], &cursor).await.ok()?.ok();
    let socket = eventually("a place at the other notifier", DEADLINE, taken).await?;
    let mut client = Client { channel, notifier: 1, cursor, socket };
    hello(&mut client).await?;
    Ok(client)
}

async fn hello(client: &mut Client) -> Result<()> {
    let hello = heard(client).await?;
    ensure!(hello.kind == "hello" && hello.recovered, "{hello:?}");
    Ok(())
}

/// Hears of one import from its begin to its end, and of nothing else.
async fn hears_of(client: &mut Client, import: &str) -> Result<()> {
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "completed") {
        let frame = heard(client).await?;
        ensure!(frame.import == import, "{frame:?} instead of {import}");
        client.cursor = frame.cursor;
        kinds.push(frame.kind);
    }
    ensure!(kinds == ["accepted", "completed"], "{kinds:?}");
    Ok(())
}

async fn heard(client: &mut Client) -> Result<Frame> {
    let frame = tokio::time::timeout(DEADLINE, next(&mut client.socket)).await.context("a frame")??;
    frame.context("the connection stays")
}
