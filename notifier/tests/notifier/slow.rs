//! Clients that do not read: their queue is bounded, then their connection ends; others keep their frames.

use anyhow::{Result, ensure};
use devstack::eventually;
use shared::import::{
    ImportId,
    NotificationKind::{Accepted, Completed},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
};

use crate::stage::{DEADLINE, Notifier, Stage, kinds};

/// Asks, and reads nothing.
async fn ask(notifier: &Notifier, channel: &str, headers: &str) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4096)?;
    let mut stream = socket.connect(notifier.address.parse()?).await?;
    let head = format!("GET /v1/channels/{channel} HTTP/1.1\r\nhost: notifier\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).await?;
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_closed_and_others_keep_their_frames() -> Result<()> {
    let stage = Stage::new().await?;
    let limits = ["--queue-frames-max", "20", "--history-frames-max", "10", "--send-max", "2s"];
    let notifier = stage.notifier(&limits).await?;
    let (channel, other) = (notifier.channel().await?, notifier.channel().await?);
    let mut bystander = notifier.listen(&other, "").await?;
    let handshake = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let _socket = ask(&notifier, &channel, handshake).await?;
    let _events = ask(&notifier, &channel, "accept: text/event-stream\r\n").await?;
    let listen = async || {
        (notifier.metric("notifier_connections{transport=\"websocket\"}").await.ok()? == 2.0
            && notifier.metric("notifier_connections{transport=\"events\"}").await.ok()? == 1.0)
            .then_some(())
    };
    eventually("all of them listen", DEADLINE, listen).await?;
    let import = ImportId::new();
    stage.tell(&other, import, Accepted, 0).await?;
    let mut told = 0;
    let gone = async || {
        // None of these can be left out: sooner or later they fill every buffer on the way.
        futures_util::future::try_join_all((0..200).map(|_| stage.tell(&channel, ImportId::new(), Accepted, 0)))
            .await
            .ok()?;
        told += 200;
        let websockets = notifier.metric("notifier_connections{transport=\"websocket\"}").await.ok()?;
        let events = notifier.metric("notifier_connections{transport=\"events\"}").await.ok()?;
        (websockets == 1.0 && events == 0.0).then_some(())
    };
    eventually("those who do not read are gone", DEADLINE, gone).await?;
    ensure!(notifier.metric("notifier_closed_total{reason=\"slow\"}").await? >= 1.0);
    stage.tell(&other, import, Completed, 9).await?;
    ensure!(kinds(&bystander.until("completed").await?) == ["hello", "accepted", "completed"], "after {told} frames");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_answer_is_closed() -> Result<()> {
    let stage = Stage::new().await?;
    let notifier = stage.notifier(&["--ping-interval", "1s"]).await?;
    let channel = notifier.channel().await?;
    // A socket answers pings only while it is read.
    let _silent = notifier.listen(&channel, "").await?;
    let closed =
        async || (notifier.metric("notifier_closed_total{reason=\"silent\"}").await.ok()? == 1.0).then_some(());
    eventually("it is closed", DEADLINE, closed).await
}
