use super::*;
use crate::projection::Projection;

fn id(text: &str) -> SiteId {
    SiteId::new(text).expect("an id")
}

/// A site's apps: one app of this name, or none.
fn apps(name: &str) -> Arc<InstalledApps> {
    let array = if name.is_empty() { "[]".to_owned() } else { format!(r#"[{{"appDefId":"{name}"}}]"#) };
    Arc::new(InstalledApps::decode(&array, &Projection::default(), 10).expect("valid"))
}

fn event(site_id: &str, lsn: Option<u64>, kind: Kind) -> Event {
    Event { site_id: id(site_id), kind, source_position: lsn.map(SourcePosition::Lsn), committed_at_ms: None }
}

/// A write of site `s` with one app.
fn told(name: &str, version: i64, lsn: impl Into<Option<u64>>) -> Event {
    let apps = Told::Value(apps(name));
    event("s", lsn.into(), Kind::Write { version: Told::Value(Some(version)), apps, old_key: None })
}

/// A write of site `s` that leaves out its apps.
fn absent(version: i64, lsn: u64) -> Event {
    event("s", Some(lsn), Kind::Write { version: Told::Value(Some(version)), apps: Told::Absent, old_key: None })
}

fn deleted(site_id: &str, lsn: impl Into<Option<u64>>) -> Event {
    event(site_id, lsn.into(), Kind::Delete)
}

fn tombstone(site_id: &str) -> Event {
    event(site_id, None, Kind::Tombstone)
}

/// The create of a key change from `old` to `new`.
fn renamed(old: &str, new: &str, apps: Told<Arc<InstalledApps>>, version: i64, lsn: impl Into<Option<u64>>) -> Event {
    event(new, lsn.into(), Kind::Write { version: Told::Value(Some(version)), apps, old_key: Some(id(old)) })
}

/// A view, a topic that it follows, and where the next record stands.
struct Following {
    sites: Sites,
    offset: i64,
    partition: i32,
    source_epoch: i32,
}

impl Following {
    fn new() -> Self {
        Self { sites: Sites::new(), offset: 0, partition: 0, source_epoch: 0 }
    }

    fn at(&mut self, partition: i32) -> &mut Self {
        self.partition = partition;
        self
    }

    fn try_fold(&mut self, event: &Event) -> Result<Outcome, Undecided> {
        for key in keys(event) {
            self.sites.entry(key.clone()).or_default();
        }
        self.offset += 1;
        let place = Place { partition: self.partition, offset: self.offset, source_epoch: self.source_epoch };
        fold(&mut self.sites, event, place)
    }

    /// Folds one event in the batch at hand.
    fn fold(&mut self, event: Event) -> Outcome {
        self.try_fold(&event).expect("decided")
    }

    fn fold_all(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Outcome> {
        events.into_iter().map(|event| self.fold(event)).collect()
    }

    /// Ends the batch: what was folded is stored, and loaded again as the store does.
    fn store(&mut self) {
        for (site_id, entry) in &mut self.sites {
            let stored = entry.folded.take().map(|site| {
                let content = match site.content.hash() {
                    Some(hash) => Content::Stored { of: site_id.clone(), hash },
                    None => Content::Nothing,
                };
                Site { content, ..site }
            });
            *entry = Entry::new(stored);
        }
    }

    fn site(&self, site_id: &str) -> &Site {
        self.sites[&id(site_id)].folded.as_ref().expect("a site or a marker")
    }

    fn is_dirty(&self, site_id: &str) -> bool {
        self.sites[&id(site_id)].dirty
    }

    /// Whether `s` lives, its version, and whether its apps are the one of this name.
    fn assert_lives(&self, version: i64, name: &str) {
        let site = self.site("s");
        assert_eq!((site.alive, site.version), (true, Some(version)));
        assert_eq!(site.content.hash(), Some(apps(name).hash), "{site:?}");
    }

    fn assert_gone(&self, site_id: &str) {
        assert!(self.sites[&id(site_id)].folded.as_ref().is_none_or(|site| !site.alive));
    }
}

/// A view that has followed these events of partition 0, one batch each.
fn after(events: impl IntoIterator<Item = Event>) -> Following {
    let mut view = Following::new();
    for event in events {
        view.fold(event);
        view.store();
    }
    view
}

use Outcome::{Applied, Stale, Unchanged};

// Rule 1: the partition's offset order.

#[test]
fn the_later_offset_counts_where_positions_are_equal() {
    let mut view = Following::new();
    assert_eq!(view.fold_all([told("a", 1, 5), told("b", 2, 5), told("c", 3, 5)]), [Applied; 3]);
    view.assert_lives(3, "c");
}

#[test]
fn a_lower_version_in_a_newer_record_is_taken_as_it_is() {
    let mut view = after([told("a", 9, 5)]);
    assert_eq!(view.fold(told("b", 2, 6)), Applied);
    view.assert_lives(2, "b");
}

#[test]
fn a_snapshot_row_older_than_a_streamed_change_is_stale() {
    let mut view = after([told("a", 1, 5), told("b", 2, 9)]);
    assert_eq!(view.fold(told("a", 1, 7)), Stale);
    view.assert_lives(2, "b");
    assert!(!view.is_dirty("s"));
}

// Rule 2: the guard.

#[test]
fn the_guard_is_greater_or_equal() {
    for (lsn, outcome) in [(4, Stale), (5, Applied), (6, Applied)] {
        assert_eq!(after([told("a", 1, 5)]).fold(told("b", 2, lsn)), outcome, "{lsn}");
        assert_eq!(after([told("a", 1, 5)]).fold(deleted("s", lsn)), outcome, "delete at {lsn}");
    }
}

#[test]
fn the_guard_holds_within_one_source_epoch_only() {
    let mut view = after([told("a", 1, 500)]);
    view.source_epoch = 1;
    assert_eq!(view.fold(told("b", 2, 5)), Applied);
    assert_eq!(view.fold(told("c", 3, 4)), Stale);
    assert_eq!((view.site("s").source_position, view.site("s").source_epoch), (Some(SourcePosition::Lsn(5)), 1));
    view.assert_lives(2, "b");
}

#[test]
fn positions_of_different_sources_are_not_compared() {
    let mut view = after([told("a", 1, 500)]);
    let position = SourcePosition::Binlog { server_id: 1, file: 1, pos: 1, row: 0 };
    assert_eq!(view.fold(Event { source_position: Some(position), ..told("b", 2, 0) }), Applied);
}

#[test]
fn a_null_position_applies_and_leaves_the_guard() {
    let mut view = after([told("a", 1, 5)]);
    assert_eq!(view.fold(told("b", 2, None)), Applied);
    view.assert_lives(2, "b");
    assert_eq!((view.site("s").source_position, view.site("s").source_epoch), (Some(SourcePosition::Lsn(5)), 0));
    assert_eq!(view.fold(told("c", 3, 4)), Stale);
}

#[test]
fn a_null_position_makes_no_guard_for_a_new_site() {
    let mut view = after([told("a", 1, None)]);
    assert_eq!(view.fold(told("b", 2, 0)), Applied);
}

// Rule 3: absent is not null.

#[test]
fn absent_apps_are_those_that_the_site_has() {
    for same_batch in [true, false] {
        let mut view = Following::new();
        view.fold(told("a", 1, 5));
        if !same_batch {
            view.store();
        }
        assert_eq!(view.fold(absent(2, 6)), Unchanged);
        view.assert_lives(1, "a");
        assert_eq!(view.fold(told("", 3, 7)), Applied, "no apps is something else");
        view.assert_lives(3, "");
    }
}

#[test]
fn absent_apps_of_a_row_that_the_view_does_not_have_are_incomplete() {
    let mut unknown = Following::new();
    assert_eq!(unknown.try_fold(&absent(1, 5)), Err(Undecided::IncompleteRow));
    assert!(unknown.sites[&id("s")].folded.is_none() && !unknown.is_dirty("s"), "never half-written");

    let mut marker = after([told("a", 1, 5), deleted("s", 6)]);
    let before = marker.site("s").clone();
    assert_eq!(marker.try_fold(&absent(2, 7)), Err(Undecided::IncompleteRow));
    assert_eq!((marker.site("s"), marker.is_dirty("s")), (&before, false));
}

#[test]
fn a_repeated_update_without_apps_is_no_incomplete_row_where_its_transaction_deleted_the_site() {
    // Update and delete share their position, so the guard lets the repeat pass; the marker has the apps of that moment.
    let events = || [absent(2, 6), deleted("s", 6), tombstone("s")];
    let mut view = after([told("a", 1, 5)].into_iter().chain(events()));
    for event in events() {
        let outcome = view.try_fold(&event);
        assert!(outcome.is_ok(), "{event:?}: {outcome:?}");
    }
    view.assert_gone("s");
}

#[test]
fn an_absent_version_is_as_before() {
    let mut view = after([told("a", 7, 5)]);
    let kind = Kind::Write { version: Told::Absent, apps: Told::Value(apps("b")), old_key: None };
    assert_eq!(view.fold(event("s", Some(6), kind)), Applied);
    view.assert_lives(7, "b");
    let kind = Kind::Write { version: Told::Value(None), apps: Told::Value(apps("c")), old_key: None };
    assert_eq!(view.fold(event("s", Some(7), kind)), Applied);
    assert_eq!(view.site("s").version, None);
}

// Rule 4: key changes.

#[test]
fn a_key_change_in_any_order_and_partition_moves_the_apps() {
    for (old_partition, new_partition) in [(0, 0), (0, 1), (1, 0)] {
        for told_apps in [true, false] {
            for create_first in [true, false] {
                if create_first && old_partition == new_partition {
                    continue; // Debezium writes the delete first.
                }
                for cut in [true, false] {
                    let mut view = Following::new();
                    view.at(old_partition).fold(told("a", 1, 5));
                    let told_apps = if told_apps { Told::Value(apps("a")) } else { Told::Absent };
                    let create = renamed("s", "new", told_apps.clone(), 2, 6);
                    if create_first {
                        let first = view.at(new_partition).try_fold(&create);
                        let waits = Err(Undecided::AwaitsOldKey(id("s")));
                        assert_eq!(first, if told_apps == Told::Absent { waits } else { Ok(Applied) });
                    }
                    for event in [deleted("s", 6), tombstone("s")] {
                        view.at(old_partition).fold(event);
                        if cut {
                            view.store();
                        }
                    }
                    let done = create_first && told_apps != Told::Absent;
                    assert_eq!(view.at(new_partition).fold(create), if done { Unchanged } else { Applied });
                    view.assert_gone("s");
                    let new = view.site("new");
                    assert_eq!((new.alive, new.version, new.partition), (true, Some(2), new_partition));
                    assert_eq!(new.content.hash(), Some(apps("a").hash));
                }
            }
        }
    }
}

#[test]
fn absent_apps_of_a_key_change_are_those_of_the_marker_of_the_same_position_only() {
    let create = || renamed("s", "new", Told::Absent, 2, 6);
    let waits = || Err(Undecided::AwaitsOldKey(id("s")));
    for (old_key, outcome) in [
        (after([]), waits()),
        (after([told("a", 1, 5)]), waits()),
        (after([told("a", 1, 5), deleted("s", 5)]), waits()),
        (after([told("a", 1, 5), deleted("s", 7)]), waits()),
        (after([told("a", 1, 5), deleted("s", None)]), waits()),
        (after([told("a", 1, 5), tombstone("s")]), waits()),
        (after([told("a", 1, 5), deleted("s", 6), told("b", 3, 8)]), waits()),
        (after([deleted("s", 6)]), Err(Undecided::IncompleteRow)),
        (after([told("a", 1, 5), deleted("s", 6)]), Ok(Applied)),
    ] {
        let mut view = old_key;
        assert_eq!(view.at(1).try_fold(&create()), outcome, "{:?}", view.sites[&id("s")]);
    }
}

#[test]
fn without_a_position_a_key_change_cannot_wait_for_its_delete() {
    let mut view = after([told("a", 1, None), deleted("s", None)]);
    assert_eq!(view.try_fold(&renamed("s", "new", Told::Absent, 2, None)), Err(Undecided::IncompleteRow));
}

#[test]
fn a_repeated_key_change_finds_the_apps_where_they_are() {
    let mut view = after([told("a", 1, 5), deleted("s", 6), renamed("s", "new", Told::Absent, 2, 6)]);
    let repeat = [told("a", 1, 5), deleted("s", 6), tombstone("s"), renamed("s", "new", Told::Absent, 2, 6)];
    assert_eq!(view.fold_all(repeat), [Stale, Unchanged, Unchanged, Unchanged]);
    assert_eq!((view.site("new").alive, view.site("new").version), (true, Some(2)));
}

#[test]
fn a_repeated_key_change_finds_the_apps_where_they_are_when_the_old_key_lives_again() {
    let mut view = after([told("a", 1, 5), deleted("s", 6), renamed("s", "new", Told::Absent, 2, 6), told("b", 3, 8)]);
    assert_eq!(view.fold(renamed("s", "new", Told::Absent, 2, 6)), Unchanged);
}

#[test]
fn absent_apps_of_a_key_change_are_not_those_of_an_earlier_life_of_the_new_key() {
    // `new` lived before; its delete was compacted away, or stands in another partition (partitions were added).
    let mut view = Following::new();
    view.fold(renamed("none", "new", Told::Value(apps("earlier")), 1, 2));
    view.fold(told("a", 1, 5));
    view.store();
    let create = renamed("s", "new", Told::Absent, 2, 6);
    assert_eq!(view.at(1).try_fold(&create), Err(Undecided::AwaitsOldKey(id("s"))));
    view.at(0).fold(deleted("s", 6));
    assert_eq!(view.at(1).fold(create), Applied);
    assert_eq!(view.site("new").content.hash(), Some(apps("a").hash));
}

// Rule 5: delete and resurrection.

#[test]
fn a_delete_leaves_a_marker_with_position_and_content() {
    let view = after([told("a", 3, 5), deleted("s", 6)]);
    let marker = view.site("s");
    assert!(!marker.alive);
    assert_eq!((marker.source_position, marker.last_delete_partition), (Some(SourcePosition::Lsn(6)), Some(0)));
    assert_eq!((marker.content.hash(), marker.version), (Some(apps("a").hash), Some(3)));
}

#[test]
fn a_delete_of_a_site_never_seen_leaves_a_marker_too() {
    let mut view = after([deleted("s", 6)]);
    assert_eq!(view.site("s").content, Content::Nothing);
    assert_eq!(view.fold(told("a", 1, 5)), Stale);
    assert_eq!(view.fold(told("a", 1, 7)), Applied);
}

#[test]
fn an_older_replay_does_not_bring_a_site_back_and_a_true_insert_does() {
    for (lsn, outcome) in [(5, Stale), (6, Applied), (7, Applied)] {
        let mut view = after([told("a", 1, 5), deleted("s", 6), tombstone("s")]);
        assert_eq!(view.fold(told("a", 9, lsn)), outcome, "{lsn}");
        assert_eq!(view.site("s").alive, outcome == Applied);
    }
    after([told("a", 1, 5), deleted("s", 6), tombstone("s"), told("a", 9, 7)]).assert_lives(9, "a");
}

#[test]
fn a_row_without_position_brings_a_site_back_and_leaves_the_guard() {
    let mut view = after([told("a", 1, 5), deleted("s", 6), told("b", 2, None)]);
    view.assert_lives(2, "b");
    assert_eq!(view.fold(told("c", 3, 5)), Stale);
}

#[test]
fn a_delete_alone_deletes() {
    after([told("a", 1, 5), deleted("s", 6)]).assert_gone("s");
}

#[test]
fn a_tombstone_alone_deletes_and_its_marker_has_no_position() {
    let mut view = after([told("a", 1, 5)]);
    assert_eq!(view.fold(tombstone("s")), Applied);
    view.assert_gone("s");
    assert_eq!((view.site("s").source_position, view.site("s").content.hash()), (None, Some(apps("a").hash)));
    assert_eq!(view.fold(told("b", 2, 1)), Applied, "what comes after it counts");
}

#[test]
fn a_delete_without_position_deletes_and_its_marker_has_none() {
    let mut view = after([told("a", 1, 5)]);
    assert_eq!(view.fold_all([deleted("s", None), tombstone("s")]), [Applied, Unchanged]);
    assert_eq!(view.site("s").source_position, None);
    assert_eq!(view.fold(told("b", 2, 1)), Applied);
}

#[test]
fn a_tombstone_shares_its_deletes_fate_across_batches() {
    for cut in [false, true] {
        let mut view = after([told("a", 1, 5), deleted("s", 6), tombstone("s"), told("b", 2, 7)]);
        assert_eq!(view.fold(deleted("s", 6)), Stale);
        if cut {
            assert!(view.is_dirty("s"), "the delete has to be remembered");
            view.store();
        }
        assert_eq!(view.fold(tombstone("s")), Stale, "cut: {cut}");
        view.assert_lives(2, "b");
    }
}

#[test]
fn a_tombstone_behind_another_record_of_its_key_is_alone() {
    let stale_delete = [told("b", 2, 7), deleted("s", 6)];
    for between in [told("b", 2, 7), told("c", 3, 8), told("a", 1, 5), absent(2, 7), told("b", 2, None)] {
        for cut in [false, true] {
            let mut view = after(stale_delete.clone());
            view.fold(between.clone());
            if cut {
                view.store();
            }
            assert_eq!(view.fold(tombstone("s")), Applied, "after {between:?}, cut: {cut}");
            view.assert_gone("s");
        }
    }
}

#[test]
fn a_tombstone_shares_the_fate_of_a_delete_in_its_own_partition_only() {
    let mut view = after([told("b", 2, 7)]);
    assert_eq!(view.at(0).fold(deleted("s", 6)), Stale);
    assert_eq!(view.at(1).fold(tombstone("s")), Applied, "alone in its partition");
}

#[test]
fn a_tombstone_shares_its_deletes_fate_when_the_key_has_moved_on_to_another_partition() {
    // Partitions were added between the delete and a new insert; the new partition is read first.
    let mut view = after([told("a", 1, 5), deleted("s", 6)]);
    assert_eq!(view.at(1).fold(told("b", 2, 7)), Applied);
    assert_eq!(view.at(0).fold(tombstone("s")), Stale);
    view.assert_lives(2, "b");
}

#[test]
fn a_repeat_of_delete_and_tombstone_does_not_remove_a_live_site() {
    let history = || [told("a", 1, 5), deleted("s", 6), tombstone("s"), told("b", 2, 7)];
    let mut view = after(history());
    assert_eq!(view.fold_all(history()), [Stale, Stale, Stale, Unchanged]);
    view.assert_lives(2, "b");
}

#[test]
fn deletes_of_what_is_gone_change_nothing_visible() {
    let mut unknown = Following::new();
    assert_eq!(unknown.fold(tombstone("s")), Unchanged);
    assert!(!unknown.is_dirty("s"));
    let mut marker = after([told("a", 1, 5), deleted("s", 6), tombstone("s")]);
    assert_eq!(marker.fold_all([deleted("s", 6), tombstone("s")]), [Unchanged; 2]);
    assert!(!marker.is_dirty("s"), "a repeat writes nothing");
    assert_eq!(marker.fold(deleted("s", 8)), Unchanged);
    assert_eq!(marker.fold(told("a", 1, 7)), Stale, "the newer delete guards");
}

// Only the concern is written.

#[test]
fn an_unrelated_update_writes_nothing() {
    let mut view = after([told("a", 1, 5)]);
    let before = view.site("s").clone();
    assert_eq!(view.fold_all([told("a", 2, 6), absent(3, 7), told("a", 4, None)]), [Unchanged; 3]);
    assert!(!view.is_dirty("s"));
    assert_eq!(view.site("s"), &before, "version and guard are those of the last change of the apps");
}

#[test]
fn the_version_is_the_one_at_which_the_apps_last_changed_wherever_batches_are_cut() {
    let history = || [told("a", 1, 5), told("b", 2, 6), told("a", 3, 7), told("a", 4, 8)];
    let mut one = Following::new();
    one.fold_all(history());
    one.store();
    let each = after(history());
    one.assert_lives(3, "a");
    assert_eq!(one.site("s"), each.site("s"));

    let mut stored = after([told("a", 1, 5)]);
    assert_eq!(stored.fold_all([told("b", 2, 6), told("a", 3, 7)]), [Applied; 2]);
    stored.assert_lives(3, "a");
    assert!(stored.is_dirty("s"));
}

#[test]
fn a_site_deleted_and_inserted_again_has_the_version_of_the_insert() {
    let mut view = after([told("a", 1, 5)]);
    assert_eq!(view.fold_all([deleted("s", 6), tombstone("s"), told("a", 2, 6)]), [Applied, Unchanged, Applied]);
    view.assert_lives(2, "a");
    assert_eq!(view.site("s").last_delete_partition, None);
}

#[test]
fn a_key_that_moves_unchanged_takes_its_guard_along() {
    let mut view = Following::new();
    assert_eq!(view.fold(told("a", 1, 10)), Applied);
    view.store();
    // The new partition tells it first; what the old one says late is older.
    assert_eq!(view.at(2).fold(told("a", 3, 30)), Unchanged);
    view.store();
    assert_eq!(view.at(0).fold_all([told("b", 2, 20), deleted("s", 25), tombstone("s")]), [Stale, Stale, Stale]);
    let site = view.sites[&id("s")].folded.as_ref().expect("there");
    assert!(site.alive && site.partition == 2 && site.version == Some(1));
}

#[test]
fn a_document_comes_along_where_its_apps_may_differ() {
    let hash = apps("a").hash;
    for (event, expected) in [
        (told("a", 1, 5), vec![("s", Along::DocumentUnless(hash))]),
        (absent(1, 5), vec![("s", Along::Nothing)]),
        (deleted("s", 5), vec![("s", Along::Document)]),
        (tombstone("s"), vec![("s", Along::Document)]),
        (renamed("old", "new", Told::Absent, 1, 5), vec![("new", Along::Nothing), ("old", Along::Nothing)]),
    ] {
        let along: Vec<_> = keys_along(&event).map(|(key, along)| (key.as_str(), along)).collect();
        assert_eq!(along, expected, "{event:?}");
    }
    let unless = [Along::Nothing, Along::Document, Along::DocumentUnless(0xab)].map(Along::unless);
    assert_eq!(unless, [None, Some(String::new()), Some(format!("{:032x}", 0xab))]);
    assert_eq!(
        crate::apps::hash_of_etag(&apps("a").etag(Some(7))),
        Some(hash),
        "a tag starts with what the hash is compared with"
    );
    assert!(apps("a").etag(Some(7)).starts_with(&Along::DocumentUnless(hash).unless().unwrap()));
}
