//! Whether the view is what the model says: every row, on the primary and on the replica.

use std::collections::BTreeMap;
use std::fmt::Debug;

use anyhow::{Result, ensure};
use serde_json::Value;
use tokio_postgres::Client;

use crate::kafka::Ends;
use crate::model::Model;
use crate::system::System;
use crate::view::{SiteRow, View};

/// Differences that a failure quotes.
const QUOTED_MAX: usize = 12;

/// Waits until the view has reached the end of the topic and the replica the primary, then compares every row of both.
pub async fn assert_equal(system: &System, model: &Model) -> Result<()> {
    assert_equal_in(1, system, model).await
}

/// As [`assert_equal`], of another generation than the first.
pub async fn assert_equal_in(generation: i32, system: &System, model: &Model) -> Result<()> {
    let ends = system.drained_in(generation).await?;
    let found = differences_in(generation, system, model, &ends).await?;
    let quoted = found.iter().take(QUOTED_MAX).cloned().collect::<Vec<_>>().join("\n  ");
    ensure!(found.is_empty(), "{} differences between view and model:\n  {quoted}", found.len());
    Ok(())
}

/// Compares every row of one server that stands at these positions.
pub async fn assert_equal_on(client: &Client, model: &Model, positions: &Ends) -> Result<()> {
    let mut found = Vec::new();
    of_server(&View::read(1, client).await?, model, positions, &mut |line| found.push(line));
    let quoted = found.iter().take(QUOTED_MAX).cloned().collect::<Vec<_>>().join("\n  ");
    ensure!(found.is_empty(), "{} differences between view and model:\n  {quoted}", found.len());
    Ok(())
}

/// What of primary and replica is not as the model and these positions say, one line each; nothing when all is.
pub async fn differences(system: &System, model: &Model, positions: &Ends) -> Result<Vec<String>> {
    differences_in(1, system, model, positions).await
}

async fn differences_in(generation: i32, system: &System, model: &Model, positions: &Ends) -> Result<Vec<String>> {
    system.replica_caught_up().await?;
    let primary = View::read(generation, &system.primary().await?).await?;
    let replica = View::read(generation, &system.replica().await?).await?;
    let mut found = Vec::new();
    for (server, view) in [("primary", &primary), ("replica", &replica)] {
        of_server(view, model, positions, &mut |line| found.push(format!("{server}: {line}")));
    }
    // With equal documents, equal texts and tags are what a client that changes its replica relies on.
    compare("row of both servers", &primary.sites, &replica.sites, &mut |line| found.push(line));
    Ok(found)
}

fn of_server(view: &View, model: &Model, positions: &Ends, report: &mut impl FnMut(String)) {
    let served = view.sites.iter().map(|(site_id, row)| (site_id.clone(), row.document.clone())).collect();
    compare("document", &served, &model.documents(), report);
    compare("version", &versions(view), &model_versions(model), report);
    let set = |rows: &std::collections::BTreeSet<_>| rows.iter().cloned().map(|row| (row, ())).collect();
    compare("app_site", &set(&view.memberships), &set(&model.memberships()), report);
    compare("app_count", &view.counts, &model.counts(), report);
    compare("change log replayed", &view.logged, &model_log(model), report);
    compare("position", &view.positions, positions, report);
    view.illogical.iter().cloned().for_each(&mut *report);
    duplicate_tags(&view.sites).for_each(report);
}

fn versions(view: &View) -> BTreeMap<String, Option<i64>> {
    view.sites.iter().map(|(site_id, row)| (site_id.clone(), row.version)).collect()
}

fn model_versions(model: &Model) -> BTreeMap<String, Option<i64>> {
    model.sites.iter().map(|(site_id, site)| (site_id.clone(), Some(site.apps_version))).collect()
}

fn model_log(model: &Model) -> BTreeMap<String, BTreeMap<(String, String), Value>> {
    let apps = |site: &crate::model::Site| site.apps.iter().map(|(key, app)| (key.clone(), app.document())).collect();
    model.sites.iter().map(|(site_id, site)| (site_id.clone(), apps(site))).collect()
}

/// A tag stands for the apps and their version. Two sites may share it, but not one with other apps.
fn duplicate_tags(sites: &BTreeMap<String, SiteRow>) -> impl Iterator<Item = String> {
    let mut first: BTreeMap<&str, (&str, &SiteRow)> = BTreeMap::new();
    let mut found = Vec::new();
    for (site_id, row) in sites {
        let (of, other) = *first.entry(&row.etag).or_insert((site_id, row));
        if other.document["apps"] != row.document["apps"] || other.version != row.version {
            found.push(format!("etag {} of {site_id} is also that of {of}", row.etag));
        }
    }
    found.into_iter()
}

fn compare<K: Ord + Debug, V: PartialEq + Debug>(
    what: &str,
    view: &BTreeMap<K, V>,
    model: &BTreeMap<K, V>,
    report: &mut impl FnMut(String),
) {
    for (key, expected) in model {
        match view.get(key) {
            None => report(format!("{what} {key:?} is missing, expected {expected:?}")),
            Some(found) if found != expected => report(format!("{what} {key:?} is {found:?}, expected {expected:?}")),
            Some(_) => {}
        }
    }
    for (key, found) in view.iter().filter(|(key, _)| !model.contains_key(*key)) {
        report(format!("{what} {key:?} is {found:?}, expected none"));
    }
}
