//! What a real Debezium wrote, in three value forms, through real parts into one and the same view: the golden file of the
//! writer's own tests, read over HTTP.

use std::collections::{BTreeMap, BTreeSet};

use acceptance::{RawRecord, Service, System, View, scenario};
use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use reqwest::{Client, StatusCode};
use serde_json::{Map, Value, json};

use crate::servers;

/// As captured.
const PARTITIONS: i32 = 3;
/// One JSON object per record; see the samples' README.
const CAPTURES: [&str; 3] = [
    include_str!("../../../writer/tests/samples/a-envelope-schema.ndjson"),
    include_str!("../../../writer/tests/samples/b-envelope-plain.ndjson"),
    include_str!("../../../writer/tests/samples/c-unwrap-rewrite.ndjson"),
];
/// Checked by hand against the scenario, and the same for every form.
const GOLDEN: &str = include_str!("../../../writer/tests/samples/view.snap");

/// What a reader serves after one capture.
#[derive(Debug, Default, PartialEq)]
struct Served {
    /// Tag and body of each site that exists.
    documents: BTreeMap<String, (String, String)>,
    /// In the shape of the golden file.
    view: Value,
}

#[tokio::test(flavor = "multi_thread")]
async fn captured_records_of_every_form_are_served_as_the_golden_view() -> Result<()> {
    let (_, golden) = GOLDEN.rsplit_once("\n---\n").context("a snapshot has a head")?;
    let golden: Value = serde_json::from_str(golden)?;
    let served = try_join_all(CAPTURES.map(served)).await?;
    for (form, served) in served.iter().enumerate() {
        let view = &served.view;
        ensure!(*view == golden, "form {form}: {view:#}\n  golden: {golden:#}");
    }
    // Equal bytes, equal tag: a topic may change its form in mid-life, and no client need read anything again.
    ensure!(served.iter().all(|other| other.documents == served[0].documents), "the forms differ: {served:#?}");
    Ok(())
}

/// Lets a writer project one capture, and gives what a reader makes of the view.
async fn served(capture: &str) -> Result<Served> {
    let records = capture.lines().map(record).collect::<Result<Vec<_>>>()?;
    let mut served = Served::default();
    scenario(&servers()?, PARTITIONS, async |system| {
        system.topic().produce_raw(&records)?;
        let (mut writer, mut reader) = (system.writer(&[])?, system.reader(&[])?);
        writer.ready().await?;
        let ends = system.drained().await?;
        ensure!(ends.values().sum::<i64>() == i64::try_from(records.len())?, "the topic holds the capture: {ends:?}");
        nothing_was_refused(system, &writer).await?;
        system.replica_caught_up().await?;
        let view = View::read(1, &system.replica().await?).await?;
        ensure!(view.illogical.is_empty(), "{:#?}", view.illogical);
        reader.ready().await?;
        served = read(&reader, capture, &records).await?;
        Ok(())
    })
    .await?;
    Ok(served)
}

fn record(line: &str) -> Result<RawRecord> {
    let line: Value = serde_json::from_str(line)?;
    let bytes = |text: &Value| text.as_str().map(|text| text.as_bytes().to_vec());
    let header = |header: &Value| Some((header[0].as_str()?.to_owned(), bytes(&header[1])));
    let headers = line["headers"].as_array().context("headers")?.iter().map(header);
    Ok(RawRecord {
        partition: line["partition"].as_i64().context("a partition")?.try_into()?,
        offset: 0,
        key: bytes(&line["key"]),
        value: bytes(&line["value"]),
        headers: headers.collect::<Option<_>>().context("headers are names and texts")?,
        timestamp_ms: 0,
    })
}

async fn nothing_was_refused(system: &System, writer: &Service) -> Result<()> {
    let letters = system.dead_letter_topic().read()?;
    ensure!(letters.is_empty(), "dead letters: {letters:?}");
    let counted = writer.metric_sum("writer_dead_letters_total", &[]).await?;
    ensure!(counted == 0.0, "{counted} dead letters are counted");
    Ok(())
}

/// Asks for every site and every app that the capture has ever named.
async fn read(reader: &Service, capture: &str, records: &[RawRecord]) -> Result<Served> {
    let (http, mut documents, mut sites, mut deleted) = (Client::new(), BTreeMap::new(), Vec::new(), Vec::new());
    for site_id in records.iter().map(site_id).collect::<Result<BTreeSet<_>>>()? {
        match get(&http, reader, &format!("sites/{site_id}/installed-apps")).await? {
            None => deleted.push(site_id),
            Some((tag, body)) => {
                sites.push(serde_json::from_str::<Value>(&body)?);
                documents.insert(site_id, (tag, body));
            }
        }
    }
    let (mut memberships, mut site_counts) = (0, Map::new());
    for app_id in app_ids(capture) {
        let (_, count) = get(&http, reader, &format!("apps/{app_id}")).await?.context("every app has a count")?;
        let (_, page) = get(&http, reader, &format!("apps/{app_id}/sites?limit=1000")).await?.context("a page")?;
        let (count, page): (Value, Value) = (serde_json::from_str(&count)?, serde_json::from_str(&page)?);
        memberships += page["sites"].as_array().context("a page lists sites")?.len();
        if count["site_count"] != 0 {
            site_counts.insert(app_id.to_owned(), count["site_count"].clone());
        }
    }
    let view = json!({"sites": sites, "deleted": deleted, "memberships": memberships, "site_counts": site_counts});
    Ok(Served { documents, view })
}

/// The id in the key, which is an object, or one with its schema around it.
fn site_id(record: &RawRecord) -> Result<String> {
    let key: Value = serde_json::from_slice(record.key.as_deref().context("a key")?)?;
    let id = key["payload"]["site_id"].as_str().or(key["site_id"].as_str());
    Ok(id.with_context(|| format!("the id in {key}"))?.to_owned())
}

/// Every app that stands in a list, however deep its quotes are escaped.
fn app_ids(capture: &str) -> BTreeSet<&str> {
    let of_member = capture.split("appDefId").skip(1).map(|rest| {
        let id = rest.trim_start_matches(['\\', '"', ':', ' ']);
        &id[..id.find('\\').unwrap_or(id.len())]
    });
    of_member.collect()
}

/// Tag and body; `None` for what is not found.
async fn get(http: &Client, reader: &Service, path: &str) -> Result<Option<(String, String)>> {
    let answer = http.get(format!("{}/v1/{path}", reader.url())).send().await?;
    if answer.status() == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    let answer = answer.error_for_status()?;
    let tag = answer.headers().get("etag").context("a tag")?.to_str()?.to_owned();
    Ok(Some((tag, answer.text().await?)))
}
