//! One test's own topics, notifiers as processes of their own, clients, and what importers would have said.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use devstack::{Part, eventually};
use futures_util::StreamExt as _;
use rdkafka::{
    ClientConfig,
    producer::{FutureProducer, FutureRecord},
};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use shared::import::{ImportId, NotificationKind};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message, client::IntoClientRequest as _, protocol::frame::coding::CloseCode},
};

pub const DEADLINE: Duration = Duration::from_secs(120);
pub const ORIGIN: &str = "http://jobs.example:8081";
pub const SECRET: &str = "a secret of the tests, of 32 bytes or more";

pub struct Stage {
    pub servers: String,
    pub database_url: String,
    pub prefix: String,
    producer: FutureProducer,
}

impl Stage {
    pub async fn new() -> Result<Self> {
        let endpoints = tokio::task::spawn_blocking(|| devstack::shared(&[Part::Kafka, Part::Postgres])).await??;
        let servers = endpoints.kafka.context("a broker")?;
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &servers).set("log_level", "0");
        let producer = client.set("enable.idempotence", "true").create()?;
        let prefix = format!("{}.", uuid::Uuid::now_v7().simple());
        let database_url = endpoints.view_primary_url.context("a database server")?;
        Ok(Self { servers, database_url, prefix, producer })
    }

    pub async fn notifier(&self, args: &[&str]) -> Result<Notifier> {
        let (port, admin) = (devstack::free_port()?, devstack::free_port()?);
        let mut command = Command::new(env!("CARGO_BIN_EXE_notifier"));
        command.args(["--kafka-bootstrap-servers", &self.servers, "--topic-prefix", &self.prefix]);
        command.args([
            "--channel-secret",
            SECRET,
            "--origins",
            ORIGIN,
            "--topic-partitions",
            "3",
            "--rust-log",
            "warn",
        ]);
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--admin-listen", &format!("127.0.0.1:{admin}")]);
        // A test reads its sockets when it comes to it.
        command.env("NOTIFIER_PING_INTERVAL", "600s");
        // An instance may get little of a busy machine, and is behind for longer.
        command.env("NOTIFIER_BEHIND_MAX", "60s");
        let child = command.args(args).stdin(Stdio::null()).spawn().context("notifier")?;
        let address = format!("127.0.0.1:{port}");
        let notifier = Notifier { child, address, admin: format!("http://127.0.0.1:{admin}"), http: Client::new() };
        let ready = format!("{}/readyz", notifier.admin);
        let is_ready = async || notifier.http.get(&ready).send().await.is_ok_and(|it| it.status() == 200).then_some(());
        eventually("the notifier is ready", DEADLINE, is_ready).await?;
        Ok(notifier)
    }

    /// Tells a channel something, as the progress of an import would.
    pub async fn tell(&self, channel: &str, import_id: ImportId, kind: NotificationKind, jobs_done: u32) -> Result<()> {
        let value = json!({"type": kind, "import_id": import_id, "state": "running", "jobs": 9, "jobs_done": jobs_done,
            "rows": 90, "imported": jobs_done, "updated": 0, "skipped": 0, "failed": 0});
        let (topic, value) = (format!("{}notifications", self.prefix), value.to_string());
        let sent = self.producer.send(FutureRecord::to(&topic).key(channel).payload(&value), DEADLINE).await;
        sent.map(drop).map_err(|(error, _)| error.into())
    }
}

/// A notifier that runs; killed when it is dropped.
pub struct Notifier {
    child: Child,
    pub address: String,
    admin: String,
    pub http: Client,
}

impl Notifier {
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM.
    pub fn ask_to_stop(&self) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id())?);
        Ok(nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?)
    }

    /// Its exit code, once it has ended.
    pub async fn exit_code(&mut self) -> Result<Option<i32>> {
        eventually("it has stopped", DEADLINE, async || self.child.try_wait().ok()?).await.map(|it| it.code())
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Makes a channel, as the page does.
    pub async fn channel(&self) -> Result<String> {
        let made = self.http.post(self.url("/v1/channels")).header("origin", ORIGIN).send().await?;
        ensure!(made.status() == StatusCode::CREATED, "{}", made.status());
        ensure!(made.headers()["access-control-allow-origin"] == ORIGIN);
        let made: Value = made.json().await?;
        ensure!(made["expires_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{made}");
        ensure!(made["expires_in_s"].as_u64().is_some_and(|it| it > 0), "{made}");
        Ok(made["channel_id"].as_str().context("an id")?.to_owned())
    }

    /// A metric's value; 0 while it is not there.
    pub async fn metric(&self, line: &str) -> Result<f64> {
        let text = self.http.get(format!("{}/metrics", self.admin)).send().await?.text().await?;
        let value = text.lines().find_map(|it| it.strip_prefix(line)?.trim().parse().ok());
        Ok(value.unwrap_or_default())
    }

    /// Listens as the page does.
    pub async fn listen(&self, channel: &str, after: &str) -> Result<Listener> {
        match self.try_listen(channel, after, Some(ORIGIN)).await? {
            Ok(socket) => Ok(Listener { socket }),
            Err(status) => bail!("refused with {status}"),
        }
    }

    /// The socket, or the status of the refusal.
    pub async fn try_listen(
        &self,
        channel: &str,
        after: &str,
        origin: Option<&str>,
    ) -> Result<Result<Socket, StatusCode>> {
        let mut request = format!("ws://{}/v1/channels/{channel}?after={after}", self.address).into_client_request()?;
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse()?);
        }
        match connect_async(request).await {
            Ok((socket, _)) => Ok(Ok(socket)),
            Err(tungstenite::Error::Http(answer)) => Ok(Err(answer.status())),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A browser with a websocket.
pub struct Listener {
    pub socket: Socket,
}

/// A frame, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    pub kind: String,
    pub cursor: String,
    pub whole: Value,
}

pub fn told(text: &str) -> Result<Told> {
    let whole: Value = serde_json::from_str(text)?;
    let member = |name: &str| whole[name].as_str().map(ToOwned::to_owned).with_context(|| format!("{name} of {whole}"));
    Ok(Told { kind: member("type")?, cursor: member("cursor")?, whole })
}

impl Listener {
    pub async fn next(&mut self) -> Result<Told> {
        loop {
            let message = tokio::time::timeout(DEADLINE, self.socket.next()).await?.context("the socket is open")??;
            match message {
                Message::Text(text) => return told(&text),
                Message::Ping(_) | Message::Pong(_) => {}
                other => bail!("{other:?}"),
            }
        }
    }

    /// Frames up to one of this type.
    pub async fn until(&mut self, kind: &str) -> Result<Vec<Told>> {
        let mut all: Vec<Told> = Vec::new();
        while all.last().is_none_or(|last| last.kind != kind) {
            all.push(self.next().await?);
        }
        Ok(all)
    }

    /// The code with which the other side closes; what comes before is dropped. `None`: it broke off.
    pub async fn closed(&mut self) -> Result<Option<CloseCode>> {
        loop {
            match tokio::time::timeout(DEADLINE, self.socket.next()).await? {
                Some(Ok(Message::Close(frame))) => return Ok(frame.map(|frame| frame.code)),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }
}

pub fn kinds(all: &[Told]) -> Vec<&str> {
    all.iter().map(|told| told.kind.as_str()).collect()
}
