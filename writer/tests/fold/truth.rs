//! What the view must hold at the end of a topic, and whether it does.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    topic::Topic,
    view::{StoredChange, View, ensure},
};

/// Holds all tables of a view against the source's rows.
pub fn check(view: &View, topic: &Topic) -> Result<(), String> {
    let ends: Vec<_> =
        topic.partitions.iter().map(|records| records.last().map_or(0, |record| record.offset + 1)).collect();
    ensure(view.positions == ends, || format!("positions {:?}, the topic ends at {ends:?}", view.positions))?;
    documents(view, topic)?;
    look_ups(view, topic)?;
    changes(view)
}

fn documents(view: &View, topic: &Topic) -> Result<(), String> {
    let wanted: BTreeMap<_, _> =
        topic.rows.iter().map(|(site, row)| (format!("s{site}"), row.document.json(*site))).collect();
    let mut found = BTreeMap::new();
    for (site_id, row) in &view.site_apps {
        if row.is_alive() {
            found.insert(site_id.to_string(), row.document.clone().unwrap_or_default());
            let (tag, wanted) = row.tags();
            ensure(tag == wanted, || format!("{site_id}: the tag is {tag}, the document's is {wanted}"))?;
        }
    }
    ensure(found == wanted, || format!("the view has {found:#?}\nthe source has {wanted:#?}"))?;
    let version = |site: usize| {
        view.site_apps.iter().find(|(id, _)| id.as_str() == format!("s{site}")).expect("seen").1.version()
    };
    for (site, row) in &topic.rows {
        let version = version(*site);
        ensure(version == row.document.version, || format!("s{site}: the column's version is {version:?}"))?;
    }
    Ok(())
}

fn look_ups(view: &View, topic: &Topic) -> Result<(), String> {
    let (mut memberships, mut sites_of) = (BTreeSet::new(), BTreeMap::<_, BTreeSet<_>>::new());
    for (site, row) in &topic.rows {
        for (app, instance) in row.document.apps.keys() {
            memberships.insert((app.clone(), format!("s{site}"), instance.clone()));
            let partition = (site % topic.partitions.len()) as i32;
            sites_of.entry((app.clone(), partition)).or_default().insert(*site);
        }
    }
    let found: BTreeSet<_> = view
        .app_site
        .iter()
        .map(|row| (row.app_id.to_string(), row.site_id.to_string(), row.instance_id.as_ref().map(ToString::to_string)))
        .collect();
    ensure(found == memberships, || format!("app_site is {found:#?}\nshould be {memberships:#?}"))?;
    let counts: BTreeMap<_, _> = sites_of.into_iter().map(|(key, sites)| (key, sites.len() as i64)).collect();
    ensure(view.app_count == counts, || format!("app_count is {:?}, should be {counts:?}", view.app_count))
}

/// The apps of a site as the change log's reader knows them: app object by app and instance.
type Known = BTreeMap<(String, String), Value>;

/// Whoever follows the change log from the start knows the documents at its end.
pub fn changes(view: &View) -> Result<(), String> {
    let mut known = BTreeMap::<String, (Option<i64>, Known)>::new();
    for change in &view.changes {
        follow(&mut known, change).map_err(|why| format!("{why} in {change:?}"))?;
    }
    let mut stored = BTreeMap::new();
    for (site_id, row) in view.site_apps.iter().filter(|(_, row)| row.is_alive()) {
        let document: Value = serde_json::from_str(row.document.as_deref().unwrap_or_default()).expect("a document");
        let apps = elements(&document["apps"]).map(|app| (key(app), app.clone())).collect();
        stored.insert(site_id.to_string(), (document["version"].as_i64(), apps));
    }
    ensure(known == stored, || format!("the change log tells of {known:#?}\nthe documents of {stored:#?}"))
}

fn follow(known: &mut BTreeMap<String, (Option<i64>, Known)>, change: &StoredChange) -> Result<(), String> {
    let event: Value = serde_json::from_str(&change.event).map_err(|error| error.to_string())?;
    let site_id = event["site_id"].as_str().unwrap_or_default().to_owned();
    ensure(site_id == change.site_id.as_str(), || "another site's event".to_owned())?;
    let touched = ["added", "removed", "updated"].map(|list| elements(&event[list])).into_iter().flatten();
    let touched: BTreeSet<_> = touched.map(|app| key(app).0).collect();
    ensure(touched == change.app_ids, || "app_ids are others than the event's".to_owned())?;
    let (version, apps) = known.entry(site_id.clone()).or_default();
    *version = event["version"].as_i64();
    for app in elements(&event["removed"]) {
        ensure(apps.remove(&key(app)).as_ref() == Some(app), || format!("{app} was not there to be removed"))?;
    }
    for app in elements(&event["added"]) {
        ensure(apps.insert(key(app), app.clone()).is_none(), || format!("{app} was there already"))?;
    }
    for app in elements(&event["updated"]) {
        let before = apps.insert(key(app), app.clone());
        ensure(before.as_ref().is_some_and(|before| before != app), || format!("{app} was not changed"))?;
    }
    if event["deleted"] == true {
        ensure(apps.is_empty(), || "a deleted site keeps apps".to_owned())?;
        known.remove(&site_id);
    }
    Ok(())
}

fn elements(array: &Value) -> impl Iterator<Item = &Value> {
    array.as_array().into_iter().flatten()
}

fn key(app: &Value) -> (String, String) {
    let text = |member: &str| app[member].as_str().unwrap_or_default().to_owned();
    (text("app_id"), text("instance_id"))
}

/// The topic for people who look for the reason of a failure.
pub fn listing(topic: &Topic) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut out = String::new();
    for (partition, records) in topic.partitions.iter().enumerate() {
        for record in records {
            let value = record.value.as_deref().map_or("null".to_owned(), text);
            let headers: Vec<_> =
                record.headers.0.iter().map(|(name, value)| format!("{name}={}", text(value))).collect();
            out += &format!("{partition}/{} {} {value} {headers:?}\n", record.offset, text(&record.key));
        }
    }
    out
}
