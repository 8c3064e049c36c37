//! Documents that a reader keeps in memory: what is answered from there, and that no change is missed.

use std::time::Instant;

use acceptance::{Service, rising_site, scenario};
use anyhow::{Context, Result, ensure};
use devstack::eventually;
use reqwest::{Client, StatusCode, header};
use serde_json::Value;

use crate::{NOTICED_MAX, PARTITIONS, servers};

const VERSIONS: i64 = 30;
const CACHE: (&str, &str) = ("READER_CACHE_BYTES", "16MiB");

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_answered_with_tags_and_conditions_and_so_is_the_unknown() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        system.topic().produce(&[rising_site(PARTITIONS, "kept", 1)])?;
        let mut writer = system.writer(&[])?;
        writer.ready().await?;
        system.drained().await?;
        system.replica_caught_up().await?;
        let (mut reader, mut plain) = (system.reader(&[CACHE])?, system.reader(&[])?);
        reader.ready().await?;
        plain.ready().await?;
        let http = Client::new();
        for path in ["kept/installed-apps", "kept/installed-apps/rising", "never-seen/installed-apps"] {
            let (url, plain) =
                (format!("{}/v1/sites/{path}", reader.url()), format!("{}/v1/sites/{path}", plain.url()));
            let begin = hits(&reader).await?;
            // Something is kept once the change log is followed.
            eventually("a look-up is answered from memory", NOTICED_MAX, async || {
                http.get(&url).send().await.ok()?;
                (hits(&reader).await.ok()? > begin).then_some(())
            })
            .await?;
            let (kept, read) = (http.get(&url).send().await?, http.get(&plain).send().await?);
            let etag = kept.headers().get(header::ETAG).cloned();
            ensure!(
                kept.status() == read.status() && etag.as_ref() == read.headers().get(header::ETAG),
                "{kept:?}, {read:?}"
            );
            let position = kept.headers().get("projection-position").cloned();
            ensure!(position.as_ref() == read.headers().get("projection-position"), "{kept:?}, {read:?}");
            let (kept, read): (Value, Value) = (kept.json().await?, read.json().await?);
            ensure!(kept["apps"] == read["apps"] && kept["type"] == read["type"], "{kept}, {read}");
            let Some(etag) = etag else { continue };
            let before = hits(&reader).await?;
            let same = http.get(&url).header(header::IF_NONE_MATCH, etag).send().await?;
            ensure!(
                same.status() == StatusCode::NOT_MODIFIED && same.headers().contains_key("projection-position"),
                "{same:?}"
            );
            ensure!(hits(&reader).await? > before, "a condition is answered from memory too");
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_returns_its_position_never_finds_what_was_kept_before() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let mut writer = system.writer(&[])?;
        let mut reader = system.reader(&[CACHE])?;
        writer.ready().await?;
        reader.ready().await?;
        let (http, url) = (Client::new(), format!("{}/v1/sites/rises/installed-apps", reader.url()));
        for version in 1..=VERSIONS {
            system.topic().produce(&[rising_site(PARTITIONS, "rises", version)])?;
            let mut demand = ("projection-min-version", version.to_string());
            let (mut before, begin) = (f64::INFINITY, Instant::now());
            // Once what is kept has come as far as the position, it answers.
            while hits(&reader).await? <= before {
                let answer = http.get(&url).header(demand.0, &demand.1).header("prefer", "wait=10").send().await?;
                let token = answer.headers().get("projection-position").context("a position")?.to_str()?.to_owned();
                let body: Value = answer.error_for_status()?.json().await?;
                ensure!(body["version"].as_i64() == Some(version), "{demand:?}: {body} at {token}");
                if demand.0 == "projection-min-version" {
                    before = hits(&reader).await?;
                }
                demand = ("projection-min-position", token);
                ensure!(begin.elapsed() < NOTICED_MAX, "version {version} is never answered from memory");
            }
        }
        Ok(())
    })
    .await
}

async fn hits(reader: &Service) -> Result<f64> {
    Ok(reader.metric("reader_cache_hits_total", &[]).await?.unwrap_or_default())
}
