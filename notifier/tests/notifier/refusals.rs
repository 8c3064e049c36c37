//! Whom the notifier refuses, and that the others do not notice.

use anyhow::{Result, ensure};
use devstack::eventually;
use futures_util::{SinkExt as _, future::try_join_all};
use shared::import::{ImportId, NotificationKind::Accepted};
use tokio_tungstenite::tungstenite::{Message, protocol::frame::coding::CloseCode};

use crate::stage::{DEADLINE, ORIGIN, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_and_channels_of_others_are_refused() -> Result<()> {
    let stage = Stage::new().await?;
    let notifier = stage.notifier(&["--channels-per-second-max", "1"]).await?;
    let channel = notifier.channel().await?;
    let status = async |channel: &str, after: &str, origin| {
        let listened = notifier.try_listen(channel, after, origin).await?;
        Ok::<_, anyhow::Error>(listened.map_or_else(|status| status.as_u16(), |_| 101))
    };
    ensure!(status(&channel, "", Some(ORIGIN)).await? == 101);
    ensure!(status(&channel, "", None).await? == 101, "who is no browser has no origin");
    for origin in ["http://evil.example", "null", "http://jobs.example:8081.evil.example", "http://jobs.example"] {
        ensure!(status(&channel, "", Some(origin)).await? == 403, "{origin}");
        let made = notifier.http.post(notifier.url("/v1/channels")).header("origin", origin).send().await?;
        ensure!(made.status() == 403 && !made.headers().contains_key("access-control-allow-origin"), "{origin}");
    }
    let other = if channel.ends_with('A') { "B" } else { "A" };
    let forged = format!("{}{other}", &channel[..channel.len() - 1]);
    let (random, rest) = channel.split_once('.').expect("three parts");
    let later = format!("{random}.9{rest}");
    for forged in [forged.as_str(), &later, "x", "a.b.c", &"x".repeat(5000)] {
        ensure!(status(forged, "", Some(ORIGIN)).await? == 403, "{forged}");
    }
    ensure!(status(&channel, "nonsense", Some(ORIGIN)).await? == 400);
    let get = async |path: &str| notifier.http.get(notifier.url(path)).send().await;
    let plain = get(&format!("/v1/channels/{channel}")).await?;
    ensure!(plain.status() == 426 && plain.headers()["content-type"] == "application/problem+json");
    ensure!(get("/v1/other").await?.status() == 404 && get("/v1/channels").await?.status() == 405);
    let asked = notifier.http.request(reqwest::Method::OPTIONS, notifier.url("/v1/channels")).header("origin", ORIGIN);
    let asked = asked.send().await?;
    ensure!(asked.status() == 204 && asked.headers()["access-control-allow-origin"] == ORIGIN);
    let allowed = asked.headers()["access-control-allow-headers"].to_str()?;
    ensure!(["content-type", "last-event-id", "traceparent"].iter().all(|name| allowed.contains(name)), "{allowed}");
    let many = async || {
        let ask = || notifier.http.post(notifier.url("/v1/channels")).header("origin", ORIGIN).send();
        let answers = try_join_all((0..20).map(|_| ask())).await.ok()?;
        answers.iter().any(|it| it.status() == 429 && it.headers().contains_key("retry-after")).then_some(())
    };
    eventually("no more channels are made", DEADLINE, many).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_ends_with_its_time_and_takes_so_many_listeners() -> Result<()> {
    let stage = Stage::new().await?;
    let notifier = stage.notifier(&["--channel-connections-max", "2"]).await?;
    let channel = notifier.channel().await?;
    let places = (notifier.listen(&channel, "").await?, notifier.listen(&channel, "").await?);
    ensure!(notifier.try_listen(&channel, "", None).await?.is_err_and(|status| status == 429));
    drop(places);
    let is_free = async || notifier.try_listen(&channel, "", None).await.ok()?.ok().map(drop);
    eventually("a place is free", DEADLINE, is_free).await?;

    let brief = stage.notifier(&["--channel-lifetime", "6s"]).await?;
    // Who is late finds the channel's time over.
    let in_time = async || {
        let channel = brief.channel().await.ok()?;
        let browser = brief.listen(&channel, "").await.ok()?;
        Some((channel, browser))
    };
    let (channel, mut browser) = eventually("a client is in time", DEADLINE, in_time).await?;
    ensure!(browser.closed().await? == Some(CloseCode::Policy));
    let refused = brief.try_listen(&channel, "", None).await?;
    ensure!(refused.is_err_and(|status| status == 410));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_too_much_is_closed_and_others_are_told_as_before() -> Result<()> {
    let stage = Stage::new().await?;
    let notifier = stage.notifier(&[]).await?;
    let channel = notifier.channel().await?;
    let mut bystander = notifier.listen(&channel, "").await?;
    let mut talkative = notifier.listen(&channel, "").await?;
    for _ in 0..100 {
        // The last ones may meet a closed socket.
        let _ = talkative.socket.send(Message::text("hello?")).await;
    }
    ensure!(talkative.closed().await?.is_none_or(|code| code == CloseCode::Policy));
    let mut huge = notifier.listen(&channel, "").await?;
    let _ = huge.socket.send(Message::binary(vec![0; 64 << 20])).await;
    ensure!(huge.closed().await?.is_none_or(|code| code == CloseCode::Size));
    stage.tell(&channel, ImportId::new(), Accepted, 0).await?;
    bystander.until("accepted").await?;
    ensure!(notifier.metric("notifier_closed_total{reason=\"talkative\"}").await? == 1.0);
    let only_one_listens =
        async || (notifier.metric("notifier_connections{transport=\"websocket\"}").await.ok()? == 1.0).then_some(());
    eventually("only the bystander listens", DEADLINE, only_one_listens).await
}
