//! The change feed: what it tells, from where, to whom, and what it says when it cannot.

use std::time::{Duration, Instant};

use acceptance::{Service, Source, System, scenario};
use anyhow::{Context, Result, ensure};
use devstack::eventually;
use reqwest::{Client, StatusCode};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;

use crate::{NOTICED_MAX, PARTITIONS, drained_history, servers};

/// A page is far smaller than the history.
const PAGES_MAX: usize = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn polls_from_the_oldest_on_tell_the_whole_log_on_every_reader() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        drained_history(system, 61, 3000).await?;
        system.replica_caught_up().await?;
        let (mut first, mut second) =
            (system.reader(&[])?, system.reader(&[("READER_DATABASE_URLS", &system.reader_urls_of_both())])?);
        first.ready().await?;
        second.ready().await?;
        let (events, next, pages) = walk(&[&first, &second], "").await?;
        let logged = logged(system, 1, "true").await?;
        ensure!(pages > 2, "{pages} pages are no walk");
        ensure!(by_site(&events) == by_site(&logged), "{} events, the log holds {}", events.len(), logged.len());

        let site = logged.iter().find(|event| event["deleted"] == true).context("a deleted site")?;
        let site = site["site_id"].as_str().context("an id")?;
        let (of_site, ..) = walk(&[&first], &format!("&site_id={site}")).await?;
        let expected: Vec<Value> = logged.iter().filter(|event| event["site_id"] == site).cloned().collect();
        ensure!(of_site == expected, "{of_site:?}, expected {expected:?}");
        let app: String = system
            .primary()
            .await?
            .query_one("select app_ids[1] from view_g1.change where cardinality(app_ids) > 0 limit 1", &[])
            .await?
            .get(0);
        let (of_app, ..) = walk(&[&first], &format!("&app_id={app}")).await?;
        ensure!(
            by_site(&of_app) == by_site(&self::logged(system, 1, &format!("'{app}' = any(app_ids)")).await?),
            "{app}"
        );

        let started = Instant::now();
        let quiet = poll(&first, &format!("?after={next}"), 1).await?;
        ensure!(quiet.0 == 200 && quiet.1["changes"] == Value::Array(vec![]), "{quiet:?}");
        ensure!(started.elapsed() >= Duration::from_secs(1), "it waited {:?}", started.elapsed());
        for bad in ["?after=AAAA", "?after=", "?after=!!!"] {
            let (status, body) = poll(&first, bad, 0).await?;
            ensure!(status == 400 && body["type"] == "/problems/invalid-parameter", "{bad}: {status} {body}");
        }
        let (status, body) = poll(&first, "?site_id=a%2Fb", 0).await?;
        ensure!(status == 400 && body["type"] == "/problems/invalid-id", "{status} {body}");
        expires(system, &first, &next).await
    })
    .await
}

/// The floor rises over everything: older tokens have expired, the newest is good, and the oldest kept is there.
async fn expires(system: &System, reader: &Service, next: &str) -> Result<()> {
    let (_, old) = poll(reader, "?after=earliest", 0).await?;
    let old = old["next"].as_str().context("next")?.to_owned();
    let raise =
        r#"insert into view_g1.change_floor (partition, "offset") select partition, next_offset from view_g1.position"#;
    system.primary().await?.batch_execute(raise).await?;
    system.replica_caught_up().await?;
    let (status, body) = poll(reader, &format!("?after={old}"), 0).await?;
    ensure!(status == 410 && body["type"] == "/problems/feed-position-expired", "{status} {body}");
    let stream = Client::new().get(format!("{}/v1/changes?after={old}", reader.url())).send().await?;
    ensure!(stream.status() == 410, "a stream: {}", stream.status());
    for good in [next, "earliest"] {
        let (status, body) = poll(reader, &format!("?after={good}"), 0).await?;
        ensure!(status == 200 && body["changes"] == Value::Array(vec![]), "{good}: {status} {body}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_holds_over_a_switch_of_generations_which_is_told_as_a_gap() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let mut source = Source::new(62, PARTITIONS, 100);
        system.topic().produce(&source.records(600))?;
        let _first = system.writer(&[("WRITER_GENERATION", "1"), ("WRITER_BATCH_RECORDS_MAX", "20")])?;
        system.drained().await?;
        system.replica_caught_up().await?;
        let mut reader = system.reader(&[])?;
        reader.ready().await?;
        let (_, token, _) = walk(&[&reader], "").await?;
        let created = system.verb_of_owner(&["generation", "create"], &[])?;
        let second = created.answer["generation"].as_i64().context("a number")? as i32;
        let _second = system.writer(&[("WRITER_GENERATION", &second.to_string())])?;
        system.drained_in(second).await?;
        let ready = async || {
            let promoted =
                system.verb_of_owner(&["generation", "promote", &second.to_string(), "--force", "--reason", "x"], &[]);
            promoted.ok().filter(|outcome| outcome.code == Some(0))
        };
        eventually("the second generation is served", NOTICED_MAX * 2, ready).await?;

        let told = async || {
            let (_, body) = poll(&reader, &format!("?after={token}"), 0).await.ok()?;
            (body["gap"] == "generation-changed").then_some(body)
        };
        let gap = eventually("the switch is told", NOTICED_MAX, told).await?;
        ensure!(gap["changes"] == Value::Array(vec![]), "what was told is not told again: {gap}");
        let next = gap["next"].as_str().context("next")?;
        let before = logged(system, second, "true").await?;
        system.topic().produce(&source.records(200))?;
        system.drained_in(second).await?;
        system.replica_caught_up().await?;
        let all = logged(system, second, "true").await?;
        let (events, ..) = walk_from(&[&reader], "", next).await?;
        let later = all.len() - before.len();
        ensure!(events.len() >= later && later > 20, "{} events, {later} at least", events.len());
        ensure!(
            by_site(&events).iter().all(|(site, events)| by_site(&all)[site].ends_with(events)),
            "in another order"
        );
        Ok(())
    })
    .await
}

/// A stream whose client takes nothing is closed; it holds up nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_nobody_reads_is_closed_and_others_go_on() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        // More than the sockets' buffers hold.
        let fill = r#"
            insert into view_g1.position (topic, partition, next_offset, epoch, owner) values ('t', 0, 20000, 1, 'test 1');
            insert into view_g1.change (partition, "offset", ordinal, site_id, app_ids, event)
            select 0, n, 0, 's', '{}', '{"site_id":"s","added":[],"removed":[],"updated":[]' || repeat(' ', 1000) || '}'
            from generate_series(0, 19999) n"#;
        system.primary().await?.batch_execute(fill).await?;
        system.replica_caught_up().await?;
        let mut reader = system.reader(&[("READER_FEED_STALL_MAX", "300ms"), ("READER_FEEDS_MAX", "1")])?;
        reader.ready().await?;
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4096)?;
        let address = reader.url().trim_start_matches("http://").parse()?;
        let mut deaf = socket.connect(address).await?;
        deaf.write_all(b"GET /v1/changes?after=earliest HTTP/1.1\r\nhost: x\r\n\r\n").await?;
        let ended = async || {
            let ended = reader.metric("reader_feeds_ended_total", &[("reason", "stalled")]).await.ok()??;
            (ended >= 1.0).then_some(())
        };
        eventually("the stream that nobody reads is closed", NOTICED_MAX, ended).await?;
        let (status, _) = poll(&reader, "?after=earliest", 0).await?;
        ensure!(status == 200, "its permit is free again: {status}");
        drop(deaf);
        Ok(())
    })
    .await
}

async fn poll(reader: &Service, query: &str, wait_seconds: u32) -> Result<(StatusCode, Value)> {
    let request = Client::new().get(format!("{}/v1/changes{query}", reader.url()));
    let request = request.header("accept", "application/json").header("prefer", format!("wait={wait_seconds}"));
    let answer = request.send().await?;
    Ok((answer.status(), answer.json().await?))
}

async fn walk(readers: &[&Service], filter: &str) -> Result<(Vec<Value>, String, usize)> {
    walk_from(readers, filter, "earliest").await
}

/// Polls from a token until there is nothing more, in turn on these readers. Gives events, last token, pages.
async fn walk_from(readers: &[&Service], filter: &str, token: &str) -> Result<(Vec<Value>, String, usize)> {
    let (mut events, mut next) = (Vec::new(), token.to_owned());
    for page in 0..PAGES_MAX {
        let (status, body) = poll(readers[page % readers.len()], &format!("?after={next}{filter}"), 0).await?;
        ensure!(status == 200, "{status} {body}");
        let changes = body["changes"].as_array().context("changes")?;
        next = body["next"].as_str().context("next")?.to_owned();
        events.extend(changes.iter().cloned());
        if changes.is_empty() {
            return Ok((events, next, page));
        }
    }
    anyhow::bail!("a walk without an end: {} events", events.len())
}

async fn logged(system: &System, generation: i32, condition: &str) -> Result<Vec<Value>> {
    let statement = format!(
        r#"select event from view_g{generation}.change where {condition} order by partition, "offset", ordinal"#
    );
    let rows = system.primary().await?.query(&statement, &[]).await?;
    rows.iter().map(|row| Ok(serde_json::from_str(row.get(0))?)).collect()
}

fn by_site(events: &[Value]) -> std::collections::BTreeMap<String, Vec<Value>> {
    let mut sites = std::collections::BTreeMap::<String, Vec<Value>>::new();
    for event in events {
        sites.entry(event["site_id"].as_str().unwrap_or_default().to_owned()).or_default().push(event.clone());
    }
    sites
}
