//! Everything that one server holds of the view, read whole.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;
use tokio_postgres::Client;

use crate::kafka::Ends;

/// A site's apps by app and instance, as the change log leaves them.
pub type LoggedSites = BTreeMap<String, BTreeMap<(String, String), Value>>;

/// A row of `site_apps` of a site that exists.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteRow {
    /// Text of the document.
    pub text: String,
    /// The document.
    pub document: Value,
    /// The column `version`.
    pub version: Option<i64>,
    /// The tag.
    pub etag: String,
}

/// A generation, as one server has it.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    /// Sites that exist.
    pub sites: BTreeMap<String, SiteRow>,
    /// `app_site` as (app, site, instance).
    pub memberships: BTreeSet<(String, String, String)>,
    /// `app_count`: the sum of each app that has not 0.
    pub counts: BTreeMap<String, i64>,
    /// The change log, replayed from nothing.
    pub logged: LoggedSites,
    /// Changes that do not follow from what the log says before them.
    pub illogical: Vec<String>,
    /// `next_offset` by partition.
    pub positions: Ends,
}

impl View {
    /// Reads in one snapshot.
    pub async fn read(generation: i32, client: &Client) -> Result<Self> {
        client.batch_execute("begin transaction isolation level repeatable read, read only").await?;
        client.batch_execute(&format!("set local search_path to view_g{generation}")).await?;
        let view = read(client).await;
        client.batch_execute("rollback").await?;
        view
    }
}

async fn read(client: &Client) -> Result<View> {
    let (logged, illogical) = changes(client).await?;
    let members = client.query("select app_id, site_id, instance_id from app_site", &[]).await?;
    let counts = "select app_id, sum(sites)::int8 from app_count group by app_id having sum(sites) <> 0";
    let counts = client.query(counts, &[]).await?;
    let positions = client.query("select partition, next_offset from position", &[]).await?;
    Ok(View {
        sites: sites(client).await?,
        memberships: members.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect(),
        counts: counts.iter().map(|row| (row.get(0), row.get(1))).collect(),
        logged,
        illogical,
        positions: positions.iter().map(|row| (row.get(0), row.get(1))).collect(),
    })
}

async fn sites(client: &Client) -> Result<BTreeMap<String, SiteRow>> {
    let statement = "select site_id, document, version, etag from site_apps where deleted_at is null";
    let rows = client.query(statement, &[]).await?;
    let site = |row: &tokio_postgres::Row| {
        let (site_id, text): (String, String) = (row.get(0), row.get(1));
        let document = serde_json::from_str(&text).with_context(|| format!("document of {site_id}: {text}"))?;
        Ok((site_id, SiteRow { text, document, version: row.get(2), etag: row.get(3) }))
    };
    rows.iter().map(site).collect()
}

async fn changes(client: &Client) -> Result<(LoggedSites, Vec<String>)> {
    let statement = r#"select site_id, event, partition, "offset" from change
                       order by partition, "offset", ordinal"#;
    let (mut logged, mut illogical) = (LoggedSites::new(), Vec::new());
    for row in client.query(statement, &[]).await? {
        let (site_id, event): (String, String) = (row.get(0), row.get(1));
        let (partition, offset): (i32, i64) = (row.get(2), row.get(3));
        let event: Value = serde_json::from_str(&event)?;
        if let Err(why) = apply(&mut logged, &site_id, &event) {
            illogical.push(format!("change log at {partition}/{offset}: site {site_id}: {why}"));
        }
    }
    Ok((logged, illogical))
}

fn apply(logged: &mut LoggedSites, site_id: &str, event: &Value) -> Result<(), String> {
    if event["site_id"] != *site_id {
        return Err("the event names another site".to_owned());
    }
    let apps = |member: &str| event[member].as_array().cloned().ok_or(format!("no list `{member}`"));
    let (added, removed, updated) = (apps("added")?, apps("removed")?, apps("updated")?);
    let site = logged.entry(site_id.to_owned()).or_default();
    for app in removed {
        let before = site.remove(&key(&app));
        before.ok_or(format!("removes what was not there: {app}"))?;
    }
    for app in updated {
        let before = site.insert(key(&app), app.clone());
        before.filter(|before| *before != app).ok_or(format!("updates nothing: {app}"))?;
    }
    for app in added {
        if site.insert(key(&app), app.clone()).is_some() {
            return Err(format!("adds what was there: {app}"));
        }
    }
    if event["deleted"] == true && logged.remove(site_id).is_some_and(|apps| !apps.is_empty()) {
        return Err("deleted with apps left".to_owned());
    }
    Ok(())
}

fn key(app: &Value) -> (String, String) {
    let text = |member: &str| app[member].as_str().unwrap_or_default().to_owned();
    (text("app_id"), text("instance_id"))
}
