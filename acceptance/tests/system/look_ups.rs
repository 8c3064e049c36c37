//! Both directions of look-up through the reader, on the replica: every site in batches, every app in pages.

use acceptance::{Model, Service, Source, assert_equal, scenario};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{PARTITIONS, drained_history, servers};

const SITES_A_BATCH: usize = 300;
const SITES_A_PAGE: usize = 37;

#[tokio::test(flavor = "multi_thread")]
async fn the_reader_serves_the_model_in_both_directions() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let (_, model) = drained_history(system, 5, 4000).await?;
        system.replica_caught_up().await?;
        let mut reader = system.reader(&[])?;
        reader.ready().await?;
        let http = reqwest::Client::new();
        sites(&http, &reader, &model).await?;
        apps(&http, &reader, &model).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_app_site_that_somebody_has_made_by_hand_hold_no_batch_up() -> Result<()> {
    scenario(&servers()?, PARTITIONS, async |system| {
        let mut source = Source::new(8, PARTITIONS, 60);
        let mut records = source.records(300);
        let writer = system.writer(&[])?;
        system.topic().produce(&records)?;
        let before = Model::of(&records);
        assert_equal(system, &before).await?;

        let more = source.records(300);
        records.extend(more.iter().cloned());
        let after = Model::of(&records);
        let primary = system.primary().await?;
        for (app_id, site_id, instance_id) in after.memberships().difference(&before.memberships()) {
            let statement = "insert into view_g1.app_site (app_id, site_id, instance_id) values ($1, $2, $3)";
            primary.execute(statement, &[app_id, site_id, instance_id]).await?;
        }
        system.topic().produce(&more)?;
        assert_equal(system, &after).await?;
        ensure!(writer.log()?.contains("app_site has rows that the documents of their sites do not have"));
        Ok(())
    })
    .await
}

async fn sites(http: &reqwest::Client, reader: &Service, model: &Model) -> Result<()> {
    let documents = model.documents();
    let mut ids: Vec<&str> = documents.keys().map(String::as_str).collect();
    ids.push("never-seen");
    for batch in ids.chunks(SITES_A_BATCH) {
        let url = format!("{}/v1/installed-apps/batch-get", reader.url());
        let answer = http.post(url).json(&json!({"site_ids": batch})).send().await?.error_for_status()?;
        let answer: Value = answer.json().await?;
        let result = |id: &&str| match documents.get(*id) {
            Some(document) => json!({"site_id": id, "status": 200, "document": document}),
            None => json!({"site_id": id, "status": 404}),
        };
        let expected: Vec<Value> = batch.iter().map(result).collect();
        ensure!(answer["results"] == Value::Array(expected), "batch from {} on: {answer}", batch[0]);
    }
    let (site_id, document) = documents.iter().next().context("there are sites")?;
    let url = format!("{}/v1/sites/{site_id}/installed-apps", reader.url());
    let answer: Value = http.get(url).send().await?.error_for_status()?.json().await?;
    ensure!(answer == *document, "{site_id}: {answer}");
    Ok(())
}

async fn apps(http: &reqwest::Client, reader: &Service, model: &Model) -> Result<()> {
    let memberships = model.memberships();
    for (app_id, count) in model.counts() {
        let url = format!("{}/v1/apps/{app_id}", reader.url());
        let answer: Value = http.get(&url).send().await?.error_for_status()?.json().await?;
        ensure!(answer == json!({"app_id": app_id, "site_count": count}), "{answer}");
        let listed = pages(http, &url).await?;
        let of_app = memberships.iter().filter(|(app, ..)| *app == app_id);
        let expected: Vec<(String, String)> =
            of_app.map(|(_, site, instance)| (site.clone(), instance.clone())).collect();
        ensure!(listed == expected, "sites of {app_id}: {listed:?}, expected {expected:?}");
    }
    Ok(())
}

/// All pages of an app, as (site, instance) in the order served.
async fn pages(http: &reqwest::Client, app_url: &str) -> Result<Vec<(String, String)>> {
    let (mut listed, mut after) = (Vec::new(), String::new());
    loop {
        let url = format!("{app_url}/sites?limit={SITES_A_PAGE}{after}");
        let page: Value = http.get(url).send().await?.error_for_status()?.json().await?;
        let rows = page["sites"].as_array().context("a page lists sites")?;
        let text = |row: &Value, member: &str| row[member].as_str().unwrap_or_default().to_owned();
        listed.extend(rows.iter().map(|row| (text(row, "site_id"), text(row, "instance_id"))));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(listed),
        }
    }
}
