use std::sync::Arc;

use shared::envelope::SourcePosition;

use super::*;
use crate::projection::Projection;

fn id(text: &str) -> SiteId {
    SiteId::new(text).expect("an id")
}

/// Apps as `app`, `app:version` or `app/instance`, parted by spaces.
fn apps(list: &str) -> InstalledApps {
    let element = |word: &str| {
        let (word, version) = word.split_once(':').unwrap_or((word, ""));
        let (app, instance) = word.split_once('/').unwrap_or((word, ""));
        let member = |name: &str, value: &str| match value {
            "" => String::new(),
            value => format!(r#","{name}":"{value}""#),
        };
        format!(r#"{{"appDefId":"{app}"{}{}}}"#, member("instanceId", instance), member("version", version))
    };
    let array = format!("[{}]", list.split_whitespace().map(element).collect::<Vec<_>>().join(","));
    InstalledApps::decode(&array, &Projection::default(), 10).expect("valid")
}

/// A site in partition 0 with these apps, told by the record at this offset.
fn told(list: &str, version: i64, offset: i64) -> Site {
    Site {
        alive: true,
        version: Some(version),
        content: Content::Told(Arc::new(apps(list))),
        source_position: Some(SourcePosition::Lsn(offset.unsigned_abs())),
        source_epoch: 0,
        partition: 0,
        offset,
        last_delete_partition: None,
    }
}

/// The same as it is loaded.
fn stored(site_id: &str, list: &str, version: i64, offset: i64) -> Site {
    Site { content: Content::Stored { of: id(site_id), hash: apps(list).hash }, ..told(list, version, offset) }
}

fn gone(site: Site, offset: i64) -> Site {
    Site { alive: false, offset, last_delete_partition: Some(site.partition), ..site }
}

fn changed(stored: impl Into<Option<Site>>, folded: Site) -> Entry {
    Entry { stored: stored.into(), folded: Some(folded), dirty: true }
}

fn sites<const N: usize>(entries: [(&str, Entry); N]) -> Sites {
    entries.into_iter().map(|(site_id, entry)| (id(site_id), entry)).collect()
}

fn documents<const N: usize>(lists: [(&str, &str); N]) -> Documents {
    lists.into_iter().map(|(site_id, list)| (id(site_id), apps(list))).collect()
}

/// The plan of one site `s`.
fn plan_of(entry: Entry, before: &str) -> Plan {
    plan(&sites([("s", entry)]), &documents([("s", before)]))
}

fn needed(entries: Sites) -> Vec<String> {
    documents_needed(&entries).iter().map(ToString::to_string).collect()
}

fn counts(plan: &Plan) -> Vec<(&str, i32, i64)> {
    plan.counts.iter().map(|((app_id, partition), by)| (app_id.as_str(), *partition, *by)).collect()
}

fn memberships(rows: &BTreeSet<Membership>) -> Vec<(&str, &str, &str)> {
    rows.iter()
        .map(|row| (row.app_id.as_str(), row.site_id.as_str(), row.instance_id.as_ref().map_or("", |id| id.as_str())))
        .collect()
}

fn events(plan: &Plan) -> Vec<&str> {
    plan.changes.iter().map(|change| change.event.as_str()).collect()
}

#[test]
fn only_documents_that_a_difference_is_taken_from_are_needed() {
    let alive = || stored("s", "a", 1, 5);
    for (entry, wanted) in [
        (Entry::new(Some(alive())), &[][..]),
        (Entry { dirty: true, ..Entry::new(Some(alive())) }, &[]),
        (changed(None, told("a", 1, 5)), &[]),
        (changed(alive(), told("b", 2, 6)), &["s"]),
        (changed(alive(), told("a", 2, 6)), &["s"]),
        (changed(alive(), Site { partition: 1, ..told("a", 1, 6) }), &["s"]),
        (changed(alive(), gone(alive(), 6)), &["s"]),
        (changed(gone(alive(), 6), told("b", 2, 7)), &[]),
        (changed(gone(alive(), 6), gone(alive(), 6)), &[]),
        (changed(None, Site { content: Content::Nothing, ..gone(alive(), 6) }), &[]),
        (changed(None, stored("old", "a", 2, 6)), &["old"]),
        (changed(alive(), stored("old", "b", 2, 6)), &["old", "s"]),
    ] {
        assert_eq!(needed(sites([("s", entry.clone())])), wanted, "{entry:?}");
    }
}

#[test]
fn what_is_not_dirty_is_not_written() {
    let untouched = Entry::new(Some(stored("s", "a", 1, 5)));
    assert_eq!(plan_of(untouched, "a"), Plan::default());
    assert_eq!(plan_of(Entry::default(), ""), Plan::default());
}

#[test]
fn equal_apps_and_version_change_neither_look_ups_nor_feed() {
    let entry = Entry { dirty: true, ..Entry::new(Some(stored("s", "a", 1, 5))) };
    let plan = plan_of(entry.clone(), "a");
    assert_eq!((plan.sites.len(), &plan.sites[0].document), (1, &None), "the guard is written, the document stays");
    assert_eq!(Plan { sites: Vec::new(), ..plan }, Plan::default());

    // Changed and changed back to the same bytes.
    let back = plan_of(changed(stored("s", "a", 1, 5), told("a", 1, 7)), "a");
    assert_eq!(back.sites[0].document.as_ref().map(|(_, etag)| etag.as_str()), Some(apps("a").etag(Some(1)).as_str()));
    assert!(back.changes.is_empty() && back.counts.is_empty());
}

#[test]
fn a_site_that_appears_adds_its_apps() {
    let plan = plan_of(changed(None, told("b a/1 a/2", 3, 5)), "");
    let (document, etag) = plan.sites[0].document.clone().expect("a document");
    assert_eq!(document, apps("a/1 a/2 b").document(&id("s"), Some(3)));
    assert_eq!(etag, apps("a/1 a/2 b").etag(Some(3)));
    assert_eq!(memberships(&plan.memberships_added), [("a", "s", "1"), ("a", "s", "2"), ("b", "s", "")]);
    assert!(plan.memberships_removed.is_empty());
    assert_eq!(counts(&plan), [("a", 0, 1), ("b", 0, 1)], "an app twice on a site is one site");
    assert_eq!(
        events(&plan),
        [concat!(
            r#"{"site_id":"s","version":3,"added":[{"app_id":"a","instance_id":"1"},"#,
            r#"{"app_id":"a","instance_id":"2"},{"app_id":"b"}],"removed":[],"updated":[]}"#
        )]
    );
    assert_eq!(plan.changes[0].app_ids.iter().map(AppId::as_str).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_site_without_apps_appears_and_goes_in_the_feed() {
    let appears = plan_of(changed(None, told("", 1, 5)), "");
    assert_eq!(events(&appears), [r#"{"site_id":"s","version":1,"added":[],"removed":[],"updated":[]}"#]);
    let alive = stored("s", "", 1, 5);
    let goes = plan_of(changed(alive.clone(), gone(alive, 6)), "");
    assert_eq!(events(&goes), [r#"{"site_id":"s","version":1,"added":[],"removed":[],"updated":[],"deleted":true}"#]);
    assert!(goes.counts.is_empty() && goes.memberships_removed.is_empty());
}

#[test]
fn a_change_touches_what_differs_only() {
    let plan = plan_of(changed(stored("s", "gone same up:1", 1, 5), told("new same up:2", 2, 6)), "gone same up:1");
    assert_eq!(memberships(&plan.memberships_added), [("new", "s", "")]);
    assert_eq!(memberships(&plan.memberships_removed), [("gone", "s", "")]);
    assert_eq!(counts(&plan), [("gone", 0, -1), ("new", 0, 1)]);
    assert_eq!(
        events(&plan),
        [concat!(
            r#"{"site_id":"s","version":2,"added":[{"app_id":"new"}],"removed":[{"app_id":"gone"}],"#,
            r#""updated":[{"app_id":"up","version":"2"}]}"#
        )]
    );
    let change = &plan.changes[0];
    assert_eq!(change.app_ids.iter().map(AppId::as_str).collect::<Vec<_>>(), ["gone", "new", "up"]);
    assert_eq!((change.partition, change.offset), (0, 6));
}

#[test]
fn an_upgrade_touches_no_look_up() {
    let plan = plan_of(changed(stored("s", "a:1", 1, 5), told("a:2", 2, 6)), "a:1");
    assert!(plan.memberships_added.is_empty() && plan.memberships_removed.is_empty() && plan.counts.is_empty());
    assert_eq!(plan.changes.len(), 1);
}

#[test]
fn another_installation_of_an_app_is_another_membership_and_the_same_site() {
    let plan = plan_of(changed(stored("s", "a/1 b", 1, 5), told("a/2 b/1", 2, 6)), "a/1 b");
    assert_eq!(memberships(&plan.memberships_added), [("a", "s", "2"), ("b", "s", "1")]);
    assert_eq!(memberships(&plan.memberships_removed), [("a", "s", "1"), ("b", "s", "")]);
    assert_eq!(counts(&plan), []);
}

#[test]
fn one_of_two_installations_that_goes_leaves_the_site_counted() {
    let plan = plan_of(changed(stored("s", "a/1 a/2", 1, 5), told("a/2", 2, 6)), "a/1 a/2");
    assert_eq!(memberships(&plan.memberships_removed), [("a", "s", "1")]);
    assert_eq!(counts(&plan), []);
}

#[test]
fn a_site_is_counted_in_the_partition_that_wrote_it() {
    let moved = Site { partition: 3, ..told("a c", 2, 6) };
    let plan = plan_of(changed(stored("s", "a b", 1, 5), moved), "a b");
    assert_eq!(counts(&plan), [("a", 0, -1), ("a", 3, 1), ("b", 0, -1), ("c", 3, 1)]);
    assert_eq!(plan.changes[0].partition, 3);

    // The same apps at the same version, written by another partition.
    let plan = plan_of(changed(stored("s", "a", 1, 5), Site { partition: 3, ..told("a", 1, 6) }), "a");
    assert_eq!(counts(&plan), [("a", 0, -1), ("a", 3, 1)]);

    // Deleted by another partition than the one that it is counted in.
    let deleted = Site { partition: 3, ..gone(stored("s", "a", 1, 5), 6) };
    assert_eq!(counts(&plan_of(changed(stored("s", "a", 1, 5), deleted), "a")), [("a", 0, -1)]);
}

#[test]
fn a_deleted_site_leaves_the_look_ups_and_keeps_its_document() {
    let alive = stored("s", "a b/1", 4, 5);
    let plan = plan_of(changed(alive.clone(), gone(alive, 6)), "a b/1");
    assert_eq!((plan.sites[0].site.alive, &plan.sites[0].document), (false, &None));
    assert_eq!(memberships(&plan.memberships_removed), [("a", "s", ""), ("b", "s", "1")]);
    assert_eq!(counts(&plan), [("a", 0, -1), ("b", 0, -1)]);
    assert_eq!(
        events(&plan),
        [concat!(
            r#"{"site_id":"s","version":4,"added":[],"removed":[{"app_id":"a"},{"app_id":"b","instance_id":"1"}],"#,
            r#""updated":[],"deleted":true}"#
        )]
    );
}

#[test]
fn a_site_changed_and_deleted_in_one_batch_keeps_the_last_apps_and_removes_the_stored_ones() {
    let plan = plan_of(changed(stored("s", "a", 1, 5), gone(told("b", 2, 6), 7)), "a");
    let document = plan.sites[0].document.as_ref().map(|(document, _)| document.as_str());
    assert_eq!(document, Some(apps("b").document(&id("s"), Some(2)).as_str()));
    assert_eq!(memberships(&plan.memberships_removed), [("a", "s", "")]);
    assert_eq!(counts(&plan), [("a", 0, -1)]);
}

#[test]
fn a_site_that_came_and_went_in_one_batch_leaves_a_marker_only() {
    let plan = plan_of(changed(None, gone(told("a", 1, 5), 6)), "");
    assert!(plan.sites[0].document.is_some(), "a key change may need it");
    assert_eq!(Plan { sites: Vec::new(), ..plan }, Plan::default());
    let never_seen = Site { content: Content::Nothing, version: None, ..gone(told("", 1, 5), 6) };
    let plan = plan_of(changed(None, never_seen), "");
    assert_eq!((plan.sites[0].document.as_ref(), plan.changes.len()), (None, 0));
}

#[test]
fn a_site_that_comes_back_is_added_anew() {
    let plan = plan_of(changed(gone(stored("s", "a", 1, 5), 6), told("a", 2, 7)), "a");
    assert_eq!(memberships(&plan.memberships_added), [("a", "s", "")]);
    assert_eq!(counts(&plan), [("a", 0, 1)]);
    assert_eq!(events(&plan), [r#"{"site_id":"s","version":2,"added":[{"app_id":"a"}],"removed":[],"updated":[]}"#]);
}

#[test]
fn a_key_change_without_apps_takes_the_stored_document_of_the_old_key() {
    let old = stored("old", "a b", 1, 5);
    let entries =
        sites([("old", changed(old.clone(), gone(old, 6))), ("new", changed(None, stored("old", "a b", 2, 7)))]);
    assert_eq!(needed(entries.clone()), ["old"]);
    let plan = plan(&entries, &documents([("old", "a b")]));
    assert_eq!(plan.sites[0].document.clone().expect("new").0, apps("a b").document(&id("new"), Some(2)));
    assert_eq!(memberships(&plan.memberships_added), [("a", "new", ""), ("b", "new", "")]);
    assert_eq!(memberships(&plan.memberships_removed), [("a", "old", ""), ("b", "old", "")]);
    assert_eq!(counts(&plan), [], "one site less, one more");
    assert_eq!(plan.changes.iter().map(|change| change.site_id.as_str()).collect::<Vec<_>>(), ["old", "new"]);
}

#[test]
fn a_key_that_changes_on_within_a_batch_leaves_its_apps_in_its_marker() {
    // Of `old` (gone in an earlier batch) came `new`, which became a third key, whose partition is read later.
    let marker = gone(stored("old", "a", 1, 5), 6);
    let entries = sites([("old", Entry::new(Some(marker))), ("new", changed(None, gone(stored("old", "a", 2, 7), 8)))]);
    assert_eq!(needed(entries.clone()), ["old"]);
    let plan = plan(&entries, &documents([("old", "a")]));
    assert_eq!(plan.sites[0].document, Some((apps("a").document(&id("new"), Some(2)), apps("a").etag(Some(2)))));
    assert!(plan.changes.is_empty());
}

#[test]
fn a_key_that_changes_away_and_back_within_a_batch_has_its_new_version_in_the_document() {
    for before in [stored("s", "a", 1, 5), gone(stored("s", "a", 1, 5), 6)] {
        let entries = sites([("s", changed(before.clone(), stored("s", "a", 3, 9)))]);
        assert_eq!(needed(entries.clone()), ["s"]);
        let plan = plan(&entries, &documents([("s", "a")]));
        let document = Some((apps("a").document(&id("s"), Some(3)), apps("a").etag(Some(3))));
        assert_eq!(plan.sites[0].document, document, "was alive: {}", before.alive);
        let added = if before.alive { Vec::new() } else { vec![("a", "s", "")] };
        assert_eq!(memberships(&plan.memberships_added), added);
    }
}

#[test]
fn an_event_of_a_site_without_version_has_none() {
    let plan = plan_of(changed(None, Site { version: None, ..told("a", 0, 5) }), "");
    assert_eq!(events(&plan), [r#"{"site_id":"s","added":[{"app_id":"a"}],"removed":[],"updated":[]}"#]);
    assert!(!plan.sites[0].document.as_ref().expect("a document").0.contains("version"));
}

#[test]
fn ids_are_written_as_json() {
    let plan = plan(&sites([("q\"ż", changed(None, told("", 1, 5)))]), &Documents::new());
    let event: serde_json::Value = serde_json::from_str(&plan.changes[0].event).expect("JSON");
    assert_eq!(event["site_id"], "q\"ż");
}

#[test]
fn every_list_is_in_the_order_of_its_key() {
    let at = |partition: i32, offset: i64| changed(None, Site { partition, ..told("b a", 1, offset) });
    let entries = sites([("z", at(0, 9)), ("B", at(1, 1)), ("a", at(0, 12)), ("ż", at(1, 0)), ("aa", at(0, 10))]);
    let plan = plan(&entries, &Documents::new());
    let site_ids: Vec<_> = plan.sites.iter().map(|row| row.site_id.as_str()).collect();
    assert_eq!(site_ids, ["B", "a", "aa", "z", "ż"], "by bytes, as collate \"C\"");
    let order: Vec<_> = plan.changes.iter().map(|change| (change.partition, change.offset)).collect();
    assert_eq!(order, [(0, 9), (0, 10), (0, 12), (1, 0), (1, 1)]);
    let added = memberships(&plan.memberships_added);
    assert!(added.is_sorted() && added.len() == 10 && added[0] == ("a", "B", ""));
    assert_eq!(counts(&plan), [("a", 0, 3), ("a", 1, 2), ("b", 0, 3), ("b", 1, 2)]);
}
