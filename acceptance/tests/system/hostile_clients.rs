//! Clients that mean no good, or mean well and are broken: each runs into a limit that has a name, and nobody else notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use acceptance::{Model, Proxy, Service, scenario};
use anyhow::{Context, Result, ensure};
use devstack::eventually;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use reqwest::Client;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

use crate::{NOTICED_MAX, PARTITIONS, drained_history, servers};

/// What a request of somebody else may take meanwhile, on a busy machine.
const UNAFFECTED_MAX: Duration = Duration::from_secs(3);
/// Open connections that are promised, and files that the test needs besides.
const OPEN: u64 = 10_000;
const OWN_FILES: u64 = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn slow_idle_huge_and_garbled_clients_are_cut_and_others_unaffected() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let (_, model) = drained_history(system, 81, 600).await?;
        system.replica_caught_up().await?;
        let limits = [
            ("READER_CONNECTIONS_MAX", "60"),
            ("READER_BODY_TIME_MAX", "1s"),
            ("READER_BODIES_BYTES_MAX", "1MiB"),
            ("READER_UNREAD_MAX", "1s"),
        ];
        let mut reader = system.reader(&limits)?;
        reader.ready().await?;
        let others = Others::start(&reader, &model);
        slow_heads(&reader).await.context("slow heads")?;
        others.are_served().await.context("beside slow heads")?;
        slow_bodies(&reader).await.context("slow bodies")?;
        others.are_served().await.context("beside slow bodies")?;
        unread_answers(&reader, &model).await.context("unread answers")?;
        others.are_served().await.context("beside unread answers")?;
        heads(&reader).await.context("heads")?;
        ids(&reader).await.context("ids")?;
        others.end().await?;
        let mut reader = system.reader(&[("READER_IDLE_MAX", "1s"), ("READER_FEED_HEARTBEAT", "100ms")])?;
        reader.ready().await?;
        idle(&reader).await.context("idle")
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_open_connections_cost_little_and_keep_nobody_out() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let open = OPEN.min(hard.saturating_sub(OWN_FILES));
    scenario(&servers()?, PARTITIONS, async |system| {
        let (_, model) = drained_history(system, 82, 600).await?;
        system.replica_caught_up().await?;
        let mut reader = system.reader(&[])?;
        reader.ready().await?;
        let before = rss_bytes(&reader)?;
        let others = Others::start(&reader, &model);
        let mut connections = Vec::new();
        for _ in 0..open {
            connections.push(connect(&reader).await?);
        }
        others.are_served().await.with_context(|| format!("beside {open} connections"))?;
        let all =
            async || (reader.metric_sum("reader_connections", &[]).await.ok()? >= open as f64 * 0.99).then_some(());
        eventually("all are open", NOTICED_MAX, all).await?;
        let each = rss_bytes(&reader)?.saturating_sub(before) / open;
        println!("{open} open connections cost {each} bytes each");
        ensure!(each < 32 * 1024, "an idle connection costs {each} bytes");
        others.end().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_cannot_be_served_is_refused_at_once_and_memory_stays_flat() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let (_, model) = drained_history(system, 83, 600).await?;
        system.replica_caught_up().await?;
        let (proxy, url) = Proxy::before(&system.reader_urls()[0]).await?;
        let settings = [
            ("READER_DATABASE_URLS", url.as_str()),
            ("READER_REQUESTS_MAX", "8"),
            ("READER_WAITS_MAX", "4"),
            ("READER_REPLICA_SILENCE_MAX", "60s"),
            ("READER_REQUEST_TIME_MAX", "60s"),
        ];
        let mut reader = system.reader(&settings)?;
        reader.ready().await?;
        let path = format!("{}/v1/sites/{}/installed-apps", reader.url(), site(&model)?);
        waiting_clients_take_no_place(&path).await?;

        // The replica is silent: what is asked stays in hand.
        proxy.silence(true);
        let mut hanging: JoinSet<_> = (0..9).map(|_| reqwest::get(path.clone())).collect();
        let one_too_many = tokio::time::timeout(NOTICED_MAX, hanging.join_next()).await.context("none is refused")?;
        ensure!(one_too_many.context("nine were asked")???.status() == 503, "eight are in hand, and no more");
        let http = Client::new();
        let before = rss_bytes(&reader)?;
        for number in 0..3_000 {
            let asked_at = Instant::now();
            let answer = http.get(&path).send().await?;
            ensure!(answer.status() == 503, "{number}: {}", answer.status());
            ensure!(answer.headers().contains_key("retry-after"), "{:?}", answer.headers());
            let problem: Value = answer.json().await?;
            ensure!(problem["type"] == "/problems/overloaded", "{problem}");
            ensure!(asked_at.elapsed() < UNAFFECTED_MAX, "refused after {:?}", asked_at.elapsed());
        }
        overload_is_told(&reader).await?;
        let more = rss_bytes(&reader)?.saturating_sub(before);
        ensure!(more < 16 << 20, "refusals cost {more} bytes of memory");
        ensure!(reader.metric_sum("reader_shed_total", &[]).await? >= 3_000.0, "they are counted");
        proxy.heal();
        while let Some(answer) = hanging.join_next().await {
            ensure!(answer??.status() == 200, "what was in hand is answered");
        }
        ensure!(reqwest::get(&path).await?.status() == 200, "and then all is as before");
        Ok(())
    })
    .await
}

/// What is overloaded lives, stays in its balancer, and says what it refuses.
async fn overload_is_told(reader: &Service) -> Result<()> {
    let told = async || {
        let requests = reader.conditions().await.ok()?.remove("requests")?;
        let refused = !requests.detail.contains(" 0 refused");
        (requests.holds && requests.detail.starts_with("8 of 8 in hand, ") && refused).then_some(())
    };
    eventually("/readyz tells of requests in hand and refused", NOTICED_MAX, told).await?;
    ensure!(reader.is_ready().await, "overload makes not ready: {:?}", reader.conditions().await?);
    let alive = reqwest::get(format!("{}/livez", reader.admin())).await?.status();
    ensure!(alive == 200, "/livez is {alive}");
    Ok(())
}

/// Those who wait for a version that never comes are bounded, and keep none out who does not wait.
async fn waiting_clients_take_no_place(path: &str) -> Result<()> {
    let http = Client::new();
    let wait = |seconds: u32| {
        let never = http.get(path).header("projection-min-version", "999999999");
        never.header("prefer", format!("wait={seconds}")).send()
    };
    let asked: Vec<_> = (0..8).map(|_| tokio::spawn(wait(5))).collect();
    ensure!(reqwest::get(path).await?.status() == 200, "who does not wait is served");
    let mut refused = 0;
    for answer in asked {
        let problem: Value = answer.await??.json().await?;
        match problem["type"].as_str() {
            Some("/problems/overloaded") => refused += 1,
            other => {
                ensure!(other == Some("/problems/position-not-reached"), "the version is never reached: {problem}")
            }
        }
    }
    ensure!(refused == 4, "{refused} of 8 are refused where 4 may wait");
    Ok(())
}

/// More connections than may be open, all of them in the middle of a head.
async fn slow_heads(reader: &Service) -> Result<()> {
    let mut slow = Vec::new();
    for _ in 0..100 {
        let mut connection = connect(reader).await?;
        connection.write_all(b"GET /v1/apps/x HTTP/1.1\r\nhost: x\r\nx-slow: ").await?;
        slow.push(connection);
    }
    let made_room = async || {
        let closed = reader.metric_sum("reader_connections_made_room_total", &[]).await.ok()?;
        (closed >= 40.0).then_some(())
    };
    eventually("those who wait longest make room", NOTICED_MAX, made_room).await
}

/// Connections that send no whole head, whether before an answer or after one. A feed's is not one of them.
async fn idle(reader: &Service) -> Result<()> {
    /// More than come before its connection would have been idle for too long.
    const HEARTBEATS: usize = 50;
    let mut feed = connect(reader).await?;
    feed.write_all(b"GET /v1/changes HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n\r\n").await?;
    for sent in ["", "GET /v1/apps/x HTTP/1.1\r\nhost:", "GET /v1/apps/x HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut connection = connect(reader).await?;
        connection.write_all(sent.as_bytes()).await?;
        let said = said(connection).await?;
        ensure!(said.matches("HTTP/1.1 200").count() == sent.matches("\r\n\r\n").count(), "{sent:?}: {said}");
    }
    let mut heard = Vec::new();
    let hear = async {
        while String::from_utf8_lossy(&heard).matches(":\nid: ").count() < HEARTBEATS {
            ensure!(feed.read_buf(&mut heard).await? > 0, "the feed ended: {}", String::from_utf8_lossy(&heard));
        }
        Ok(())
    };
    tokio::time::timeout(NOTICED_MAX, hear).await.context("no heartbeats")?
}

/// Bodies that do not come, and more bytes of bodies than are received at once.
async fn slow_bodies(reader: &Service) -> Result<()> {
    let head = "POST /v1/installed-apps/batch-get HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut connection = connect(reader).await?;
        connection.write_all(format!("{head}content-length: 100000\r\n\r\n{{\"site_ids\":[").as_bytes()).await?;
        slow.push(connection);
    }
    for connection in slow {
        let said = said(connection).await?;
        ensure!(said.starts_with("HTTP/1.1 400") && said.contains("/problems/invalid-body"), "{said}");
    }
    let mut large = Vec::new();
    for _ in 0..3 {
        let mut connection = connect(reader).await?;
        connection.write_all(format!("{head}content-length: 1000000\r\n\r\n").as_bytes()).await?;
        let written = tokio::time::timeout(UNAFFECTED_MAX, connection.write_all(&vec![b' '; 600_000])).await;
        drop(written);
        large.push(connection);
    }
    let mut answers = Vec::new();
    for connection in large {
        answers.push(said(connection).await?);
    }
    ensure!(answers.iter().any(|said| said.contains("/problems/overloaded")), "{answers:?}");
    Ok(())
}

/// Answers that nobody reads, more than the system's buffers hold.
async fn unread_answers(reader: &Service, model: &Model) -> Result<()> {
    let site_ids: Vec<&String> = model.sites.keys().cycle().take(1000).collect();
    let body = serde_json::json!({"site_ids": site_ids}).to_string();
    let request = format!(
        "POST /v1/installed-apps/batch-get HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut deaf = Vec::new();
    for _ in 0..10 {
        let connection = connect(reader).await?;
        let (from, mut to) = connection.into_split();
        let request = request.clone();
        deaf.push(tokio::spawn(async move {
            // Until it is cut: then a write fails.
            while to.write_all(request.as_bytes()).await.is_ok() {}
            drop(from);
        }));
    }
    for client in deaf {
        tokio::time::timeout(NOTICED_MAX, client).await.context("it is not cut")??;
    }
    Ok(())
}

/// Heads that are too large or no HTTP at all, the latter behind a request that is.
async fn heads(reader: &Service) -> Result<()> {
    let line = "GET /v1/apps/x HTTP/1.1\r\nhost: x\r\n";
    for bytes in [40_000, 300_000] {
        let mut connection = connect(reader).await?;
        // It may be refused before it is whole.
        let _ = connection.write_all(format!("{line}x-large: {}\r\n\r\n", "y".repeat(bytes)).as_bytes()).await;
        let said = said(connection).await?;
        ensure!(said.starts_with("HTTP/1.1 431") && said.contains("/problems/headers-too-large"), "{said}");
    }
    for garbage in ["\0\x01\x02\r\n\r\n", "GET\r\n\r\n", "{\"no\":\"http\"}\r\n\r\n"] {
        let mut connection = connect(reader).await?;
        connection.write_all(format!("{line}\r\n{line}\r\n{garbage}").as_bytes()).await?;
        let said = said(connection).await?;
        ensure!(said.matches("HTTP/1.1 200").count() == 2, "what precedes garbage is answered: {said}");
        ensure!(said.contains("HTTP/1.1 400") && said.contains("application/problem+json"), "{garbage:?}: {said}");
    }
    Ok(())
}

/// Ids with whatever a path can carry: each is refused, or unknown.
async fn ids(reader: &Service) -> Result<()> {
    let long = "a".repeat(129);
    let refused =
        ["%00", "%2F", "%2f", "%FF", "%C3%28", "%ED%A0%80", "%F4%90%80%80", "%0A", "%7F", "a%00b", "%C2%85", &long];
    let unknown = ["%25", "%", "%4", "%zz", "a+b", "%F0%9F%90%A2", "..%5C..", "'%3B%20drop%20table%20x--", "%E2%80%AE"];
    for (ids, status) in [(&refused[..], 400), (&unknown, 404)] {
        for id in ids {
            let mut connection = connect(reader).await?;
            let request = format!("GET /v1/sites/{id}/installed-apps HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            connection.write_all(request.as_bytes()).await?;
            let said = said(connection).await?;
            ensure!(said.starts_with(&format!("HTTP/1.1 {status}")), "{id}: {said}");
        }
    }
    Ok(())
}

async fn connect(reader: &Service) -> Result<TcpStream> {
    let address = reader.url().trim_start_matches("http://");
    Ok(TcpStream::connect(address).await?)
}

/// All that is answered until the connection ends.
async fn said(mut connection: TcpStream) -> Result<String> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(NOTICED_MAX, connection.read_to_end(&mut bytes)).await;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    // A reset after the answer is an end as well.
    let _ = read.with_context(|| format!("the connection does not end after {text:?}"))?;
    Ok(text)
}

fn site(model: &Model) -> Result<&String> {
    model.sites.keys().next().context("a site")
}

fn rss_bytes(reader: &Service) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", reader.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

/// Clients that only want to be served: one over its connection, one over a new one each time, one in batches.
struct Others {
    over: Arc<AtomicBool>,
    served: Arc<[AtomicU32; 3]>,
    clients: Vec<JoinHandle<Result<()>>>,
}

impl Others {
    fn start(reader: &Service, model: &Model) -> Self {
        let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(Default::default()));
        let site_id = model.sites.keys().next().cloned().unwrap_or_default();
        let client = |number| {
            let (url, site_id) = (reader.url().to_owned(), site_id.clone());
            tokio::spawn(ask_on(url, site_id, number, Arc::clone(&over), Arc::clone(&served)))
        };
        Self { clients: (0..3).map(client).collect(), over, served }
    }

    /// Waits until each was served some times more.
    async fn are_served(&self) -> Result<()> {
        let counts = || self.served.each_ref().map(|count| count.load(Ordering::Relaxed));
        let before = counts();
        let all = async || {
            let more = counts().iter().zip(before).all(|(now, before)| *now >= before + 20);
            (more || self.clients.iter().any(JoinHandle::is_finished)).then_some(())
        };
        eventually("others are served", NOTICED_MAX, all).await?;
        ensure!(!self.clients.iter().any(JoinHandle::is_finished), "a client of good will met an error");
        Ok(())
    }

    async fn end(self) -> Result<()> {
        self.over.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await??;
        }
        Ok(())
    }
}

async fn ask_on(
    url: String,
    site_id: String,
    number: usize,
    over: Arc<AtomicBool>,
    served: Arc<[AtomicU32; 3]>,
) -> Result<()> {
    let http =
        Client::builder().pool_max_idle_per_host(usize::from(number == 0)).timeout(UNAFFECTED_MAX * 3).build()?;
    while !over.load(Ordering::Relaxed) {
        let request = match number {
            2 => {
                let asked = serde_json::json!({"site_ids": [site_id]});
                http.post(format!("{url}/v1/installed-apps/batch-get")).json(&asked)
            }
            _ => http.get(format!("{url}/v1/sites/{site_id}/installed-apps")),
        };
        let asked_at = Instant::now();
        let answer = request.send().await.with_context(|| format!("client {number}"))?;
        ensure!(answer.status() == 200, "client {number}: {}", answer.status());
        answer.bytes().await?;
        ensure!(asked_at.elapsed() < UNAFFECTED_MAX, "client {number} waited {:?}", asked_at.elapsed());
        served[number].fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
