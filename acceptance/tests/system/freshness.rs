//! Clients read what they wrote, from a replica, by position and by version; what nothing reaches in time is refused.

use std::time::{Duration, Instant};

use acceptance::{Ends, Model, Record, Service, Source, partition_of, scenario};
use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};

use crate::{PARTITIONS, servers};

const ROUNDS: usize = 40;
const RECORDS_A_ROUND: usize = 25;
/// The longest wait of the contract.
const WAIT: &str = "wait=10";

#[tokio::test(flavor = "multi_thread")]
async fn clients_read_their_writes_from_a_replica() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let mut writer = system.writer(&[])?;
        let mut reader = system.reader(&[])?;
        writer.ready().await?;
        reader.ready().await?;
        let (http, mut records, mut source) = (Client::new(), Vec::new(), Source::new(21, PARTITIONS, 60));
        for _ in 0..ROUNDS {
            let written = source.records(RECORDS_A_ROUND);
            system.topic().produce(&written)?;
            records.extend(written.iter().cloned());
            let (model, token) = (Model::of(&records), token(1, &system.topic().ends()?));
            let documents = model.documents();
            let by_position = documents.iter().map(|site| read_at(&http, &reader, &token, site));
            let by_version = model.sites.iter().map(|(id, site)| read_from(&http, &reader, id, site.apps_version));
            tokio::try_join!(try_join_all(by_position), try_join_all(by_version))?;
        }
        ensure!(!Model::of(&records).sites.is_empty(), "no site was there to be read");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_replica_reaches_in_time_is_refused() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let (_, model) = crate::drained_history(system, 22, 600).await?;
        system.replica_caught_up().await?;
        let mut reader = system.reader(&[])?;
        reader.ready().await?;
        let http = Client::new();
        let (site_id, site) = model.sites.iter().next().context("a site")?;
        let ends = system.topic().ends()?;
        let beyond: Ends = ends.iter().map(|(partition, end)| (*partition, end + 1)).collect();
        let version = (site.apps_version + 1).to_string();
        for (name, value) in [
            ("projection-min-position", token(1, &beyond)),
            ("projection-min-position", token(2, &ends)),
            ("projection-min-position", format!("1/{PARTITIONS}:0")),
            ("projection-min-version", version.clone()),
        ] {
            refused(get(&http, &reader, site_id, &[(name, &value)]).await?).await.context(value)?;
        }
        refused(get(&http, &reader, "never-seen", &[("projection-min-version", "0")]).await?).await?;

        let asked_at = Instant::now();
        let waits = [("projection-min-version", version.as_str()), ("prefer", "wait=1")];
        refused(get(&http, &reader, site_id, &waits).await?).await?;
        ensure!(asked_at.elapsed() >= Duration::from_secs(1), "waited {:?} only", asked_at.elapsed());

        let reached =
            [("projection-min-position", token(1, &ends)), ("projection-min-version", site.apps_version.to_string())];
        let reached = reached.each_ref().map(|(name, value)| (*name, value.as_str()));
        let answer = document(get(&http, &reader, site_id, &reached).await?).await?;
        ensure!(answer == model.documents()[site_id], "{answer}");
        Ok(())
    })
    .await
}

/// The reader's sample is old, as its interval is longer than the test: what it answers is newer. The answer claims what it
/// shows, be it a row, the marker of a deleted one, or that there is none any more; and who returns that is not refused.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_claims_what_it_shows_however_old_the_readers_sample_is() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let site = |partition| site_of(partition).context("some site is of each partition");
        let sites = [site(0)?, site(1)?, site(2)?];
        let [changed, deleted, emptied] = sites.each_ref().map(String::as_str);
        let first = [changed, deleted, emptied].map(|site_id| record(site_id, Some(&[site_id])));
        system.topic().produce(&first)?;
        let mut writer = system.writer(&[])?;
        writer.ready().await?;
        system.drained().await?;
        system.replica_caught_up().await?;
        let mut reader = system.reader(&[("READER_POSITION_INTERVAL", "10s")])?;
        reader.ready().await?;
        let asking = Asking { http: Client::new(), reader: &reader };
        let begin = asking.get("/v1/changes").await?.0["next"].as_str().context("a token")?.to_owned();

        let second = [record(changed, Some(&[changed, "b"])), record(deleted, None), record(emptied, Some(&[]))];
        system.topic().produce(&second)?;
        system.drained().await?;
        system.replica_caught_up().await?;
        let ends = system.topic().ends()?;
        for (path, partitions) in [
            (format!("/v1/sites/{changed}/installed-apps"), &[0][..]),
            (format!("/v1/sites/{changed}/installed-apps/a"), &[0]),
            (format!("/v1/sites/{deleted}/installed-apps"), &[1]),
            (format!("/v1/sites/{emptied}/installed-apps/a"), &[2]),
            (format!("/v1/instances/{changed}"), &[0]),
            (format!("/v1/instances/{emptied}"), &[2]),
            ("/v1/apps/a".to_owned(), &[0, 1, 2]),
            ("/v1/apps/a/sites".to_owned(), &[0, 1, 2]),
            ("/v1/apps/none/sites".to_owned(), &[0, 1, 2]),
            ("/v1/apps/a/sites?include=app".to_owned(), &[0, 1, 2]),
            (format!("/v1/changes?after={begin}"), &[0, 1, 2]),
        ] {
            let (body, claim) = asking.get(&path).await?;
            for partition in partitions {
                ensure!(claim.get(partition) == ends.get(partition), "{path} claims {claim:?} of {ends:?}: {body}");
            }
        }
        let (_, claim) = asking.batch_get(&[changed, deleted, emptied]).await?;
        ensure!((0..3).all(|partition| claim.get(&partition) == ends.get(&partition)), "{claim:?} of {ends:?}");

        let returned = get(&asking.http, &reader, changed, &[("projection-min-position", &token(1, &ends))]).await?;
        ensure!(returned.status() == StatusCode::OK, "{}", returned.text().await?);
        Ok(())
    })
    .await
}

/// The rows of a partition whose position was set back stand for records that the position does not contain, as do those of a
/// topic that was made anew since. Answers claim the position, and not what their rows were written from.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_claims_no_more_than_the_position_where_that_was_set_back() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let site = site_of(0).context("some site is of each partition")?;
        let versions = [&["x"][..], &["x", "y"], &["x", "y", "z"]];
        system.topic().produce(&versions.map(|instances| record(&site, Some(instances))))?;
        let mut writer = system.writer(&[])?;
        writer.ready().await?;
        system.drained().await?;
        writer.kill()?;
        system.operate(&["position", "set", "--partition", "0", "--to", "1", "--reason", "apply it again"])?;
        system.replica_caught_up().await?;
        let mut reader = system.reader(&[])?;
        reader.ready().await?;
        let asking = Asking { http: Client::new(), reader: &reader };
        let (body, claim) = asking.get(&format!("/v1/sites/{site}/installed-apps")).await?;
        ensure!(claim[&0] == 1 && body["apps"].as_array().is_some_and(|apps| apps.len() == 3), "{claim:?}: {body}");
        let (_, claim) = asking.batch_get(&[&site]).await?;
        ensure!(claim[&0] == 1, "{claim:?}");
        Ok(())
    })
    .await
}

fn site_of(partition: i32) -> Option<String> {
    (0..1000).map(|number| format!("site-{number}")).find(|site_id| partition_of(site_id, PARTITIONS) == partition)
}

/// A site with the app `a` installed so often; or its tombstone.
fn record(site_id: &str, instances: Option<&[&str]>) -> Record {
    let row = |instances: &[&str]| {
        let app = |instance: &&str| json!({"appDefId": "a", "instanceId": instance, "status": "INSTALLED"});
        let apps: Vec<Value> = instances.iter().map(app).collect();
        let row = json!({"site_id": site_id, "version": instances.len(), "installed_apps": json!(apps).to_string()});
        json!({"op": "u", "after": row, "source": {"connector": "postgresql"}}).to_string()
    };
    Record {
        partition: partition_of(site_id, PARTITIONS),
        key: json!({"site_id": site_id}).to_string(),
        value: instances.map(row),
        headers: Vec::new(),
        site_id: site_id.to_owned(),
        after: None,
    }
}

struct Asking<'s> {
    http: Client,
    reader: &'s Service,
}

impl Asking<'_> {
    async fn get(&self, path: &str) -> Result<(Value, Ends)> {
        let request = self.http.get(format!("{}{path}", self.reader.url())).header("accept", "application/json");
        read(request.send().await?).await.context(path.to_owned())
    }

    async fn batch_get(&self, site_ids: &[&str]) -> Result<(Value, Ends)> {
        let url = format!("{}/v1/installed-apps/batch-get", self.reader.url());
        read(self.http.post(url).json(&json!({"site_ids": site_ids})).send().await?).await
    }
}

/// The body, and what is claimed of each partition.
async fn read(answer: Response) -> Result<(Value, Ends)> {
    let claim = answer.headers().get("projection-position").context("an answer has a position")?.to_str()?.to_owned();
    let pair = |pair: &str| -> Option<(i32, i64)> {
        let (partition, next_offset) = pair.split_once(':')?;
        Some((partition.parse().ok()?, next_offset.parse().ok()?))
    };
    let offsets = claim.split_once('/').and_then(|(_, pairs)| pairs.split(',').map(pair).collect());
    Ok((answer.json().await?, offsets.context(claim)?))
}

/// What was written is read by its position.
async fn read_at(http: &Client, reader: &Service, token: &str, (site_id, expected): (&String, &Value)) -> Result<()> {
    let demand = [("projection-min-position", token), ("prefer", WAIT)];
    let document = document(get(http, reader, site_id, &demand).await?).await?;
    ensure!(document == *expected, "{site_id} at {token}: {document}");
    Ok(())
}

/// What was written is read by its version; what was written after it may be there, too.
async fn read_from(http: &Client, reader: &Service, site_id: &str, version: i64) -> Result<()> {
    let demand = [("projection-min-version", &*version.to_string()), ("prefer", WAIT)];
    let document = document(get(http, reader, site_id, &demand).await?).await?;
    ensure!(document["version"].as_i64() >= Some(version), "{site_id} from {version} on: {document}");
    Ok(())
}

async fn get(http: &Client, reader: &Service, site_id: &str, headers: &[(&str, &str)]) -> Result<Response> {
    let request = http.get(format!("{}/v1/sites/{site_id}/installed-apps", reader.url()));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    Ok(request.send().await?)
}

async fn document(answer: Response) -> Result<Value> {
    let status = answer.status();
    let document: Value = answer.json().await?;
    ensure!(status == StatusCode::OK, "{status}: {document}");
    Ok(document)
}

async fn refused(answer: Response) -> Result<()> {
    let (status, retry_after) = (answer.status(), answer.headers().get("retry-after").cloned());
    let problem: Value = answer.json().await?;
    ensure!(status == StatusCode::SERVICE_UNAVAILABLE && retry_after.is_some(), "{status}: {problem}");
    ensure!(problem["type"] == "/problems/position-not-reached", "{problem}");
    Ok(())
}

/// As `Projection-Position` has it.
fn token(generation: i32, ends: &Ends) -> String {
    let offsets: Vec<String> = ends.iter().map(|(partition, offset)| format!("{partition}:{offset}")).collect();
    format!("{generation}/{}", offsets.join(","))
}
