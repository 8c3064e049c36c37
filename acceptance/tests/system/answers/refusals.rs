//! Errors that only some reader can answer with: one whose limits are small, whose replica is silent or away, whose log is
//! cut off. And that no problem is without a golden body.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use acceptance::{Proxy, Service, System, scenario};
use anyhow::{Context, Result, ensure};
use devstack::free_port;
use reqwest::{Client, Method};
use serde_json::Value;

use super::{GETS, POSTS, SITES, ask, filled, record, told};
use crate::{NOTICED_MAX, PARTITIONS, servers};

/// A request that finds something.
const SITE: &str = GETS[0];
/// Where the golden files are, below the crate.
const GOLDEN: [&str; 2] = [
    "tests/system/snapshots/system__answers__every_route_and_error_answers_as_the_golden_file_says.snap",
    "tests/system/answers/snapshots/system__answers__refusals__every_refusal_answers_as_the_golden_file_says.snap",
];
/// What nobody can cause who does not know of a mistake in the reader.
const UNCAUSED: &str = "internal";

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_answers_as_the_golden_file_says() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let _writer = filled(system).await?;
        let transcript = [
            too_large(system).await.context("too large")?,
            silent(system).await.context("silent")?,
            away(system).await.context("away")?,
            expired(system).await.context("expired")?,
        ];
        insta::assert_snapshot!(transcript.concat());
        Ok(())
    })
    .await
}

/// A problem that is new in the reader's own description is missed here until some request of the golden files meets it.
#[tokio::test(flavor = "multi_thread")]
async fn every_problem_that_the_reader_describes_has_a_golden_body() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let reader = accepting(system, &[]).await?;
        let described: Value = reqwest::get(format!("{}/openapi.json", reader.url())).await?.json().await?;
        let mut missing = BTreeSet::new();
        problems(&described, &mut missing);
        ensure!(missing.len() > 10, "only {missing:?} are described");
        ensure!(missing.remove(&format!("/problems/{UNCAUSED}")), "{UNCAUSED} is a problem no more");
        for file in GOLDEN {
            let golden = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).context(file)?;
            missing.retain(|problem| !golden.contains(&format!("{{\"type\":\"{problem}\"")));
        }
        ensure!(missing.is_empty(), "without a golden body: {missing:?}");
        Ok(())
    })
    .await
}

/// Heads and bodies just beyond a limit that is small.
async fn too_large(system: &System) -> Result<String> {
    const LIMIT_BYTES: usize = 1 << 10;
    let limits = [("READER_HEADER_BYTES_MAX", "1KiB"), ("READER_BODY_BYTES_MAX", "1KiB")];
    let reader = accepting(system, &limits).await?;
    let (client, filler) = (Client::new(), "x".repeat(LIMIT_BYTES + 1));
    let response = ask(&client, &reader, Method::GET, SITE, &[("x-large", &filler)], "").await?;
    let large_head = told(&format!("GET {SITE} x-large: {} bytes", filler.len()), response).await?;
    let (path, content_type, _) = POSTS[0];
    let request = format!("POST {path} {content_type} {} bytes", filler.len());
    let response = ask(&client, &reader, Method::POST, path, &[("content-type", content_type)], filler).await?;
    Ok(large_head + &told(&request, response).await?)
}

/// Two requests where one may be in hand, and a replica that does not answer: one is refused, the other one waits in vain.
async fn silent(system: &System) -> Result<String> {
    let (proxy, url) = Proxy::before(&system.reader_urls()[0]).await?;
    let settings = [
        ("READER_DATABASE_URLS", url.as_str()),
        ("READER_REQUESTS_MAX", "1"),
        ("READER_REQUEST_TIME_MAX", "3s"),
        ("READER_REPLICA_SILENCE_MAX", "60s"),
    ];
    let mut reader = system.reader(&settings)?;
    reader.ready().await?;
    proxy.silence(true);
    let client = Client::new();
    let asked = || ask(&client, &reader, Method::GET, SITE, &[], "");
    let (one, other) = tokio::join!(asked(), asked());
    let mut answers = [one?, other?];
    answers.sort_by_key(reqwest::Response::status);
    let mut lines = String::new();
    for answer in answers {
        lines +=
            &told(&format!("GET {SITE}, one of two to a silent replica, where one may be in hand"), answer).await?;
    }
    Ok(lines)
}

/// Nobody listens where the replica should be.
async fn away(system: &System) -> Result<String> {
    let url = format!("postgres://reader@127.0.0.1:{}/nothing", free_port()?);
    let reader = accepting(system, &[("READER_DATABASE_URLS", &url)]).await?;
    let mut lines = String::new();
    for path in [SITE, "/v1/changes"] {
        let response = ask(&Client::new(), &reader, Method::GET, path, &[], "").await?;
        lines += &told(&format!("GET {path}, no replica is there"), response).await?;
    }
    Ok(lines)
}

/// The log is cut off behind what a client has heard.
async fn expired(system: &System) -> Result<String> {
    let mut reader = system.reader(&[])?;
    reader.ready().await?;
    let (client, json) = (Client::new(), [("accept", "application/json")]);
    let heard: Value =
        ask(&client, &reader, Method::GET, "/v1/changes?after=earliest", &json, "").await?.json().await?;
    let token = heard["next"].as_str().context("next")?;
    system.topic().produce(&SITES.map(record))?;
    system.drained().await?;
    let raise =
        r#"insert into view_g1.change_floor (partition, "offset") select partition, next_offset from view_g1.position"#;
    system.primary().await?.batch_execute(raise).await?;
    system.replica_caught_up().await?;
    let path = format!("/v1/changes?after={token}");
    let (poll, stream) = (
        ask(&client, &reader, Method::GET, &path, &json, "").await?,
        ask(&client, &reader, Method::GET, &path, &[], "").await?,
    );
    Ok(told(&format!("GET {path} accept: application/json"), poll).await?
        + &told(&format!("GET {path}"), stream).await?)
}

/// A reader that answers, whether it has a replica or not.
async fn accepting(system: &System, settings: &[(&str, &str)]) -> Result<Service> {
    let reader = system.reader(settings)?;
    reader.condition("accepting", true, NOTICED_MAX).await?;
    Ok(reader)
}

/// The types of problems anywhere in a document.
fn problems(document: &Value, found: &mut BTreeSet<String>) {
    match document {
        Value::Object(members) => members.values().for_each(|value| problems(value, found)),
        Value::Array(elements) => elements.iter().for_each(|element| problems(element, found)),
        Value::String(text) if text.starts_with("/problems/") && !text.contains('{') => {
            found.insert(text.clone());
        }
        _ => {}
    }
}
