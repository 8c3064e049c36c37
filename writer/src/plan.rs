//! From folded sites to the rows of one transaction: documents, differences of the look-up tables, and the change log. Pure.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use shared::ids::{AppId, InstanceId, SiteId};

use crate::{
    apps::{InstalledApp, InstalledApps, write_json},
    fold::{Content, Entry, Site, Sites},
};

/// Stored documents by the site they belong to.
pub type Documents = HashMap<SiteId, InstalledApps>;

/// What one transaction writes. Every list is sorted by its table's key, so that transactions lock rows in one order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Rows of `site_apps`, one per site.
    pub sites: Vec<SiteRow>,
    /// Rows to add to `app_site`.
    pub memberships_added: BTreeSet<Membership>,
    /// Rows to remove from `app_site`.
    pub memberships_removed: BTreeSet<Membership>,
    /// What to add to `app_count`, never 0.
    pub counts: BTreeMap<(AppId, i32), i64>,
    /// Rows of `change`, by partition and offset.
    pub changes: Vec<ChangeRow>,
}

/// A row of `site_apps`.
#[derive(Debug, PartialEq, Eq)]
pub struct SiteRow {
    /// The key.
    pub site_id: SiteId,
    /// Everything but the document.
    pub site: Site,
    /// The document and its tag; `None` leaves those that are stored.
    pub document: Option<(String, String)>,
}

/// A row of `app_site`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Membership {
    /// The app.
    pub app_id: AppId,
    /// The site that has it.
    pub site_id: SiteId,
    /// Which installation, where the source tells.
    pub instance_id: Option<InstanceId>,
}

/// A row of `change`: what became of one site's apps.
#[derive(Debug, PartialEq, Eq)]
pub struct ChangeRow {
    /// Partition of the last record that changed the site.
    pub partition: i32,
    /// Offset of that record.
    pub offset: i64,
    /// The site.
    pub site_id: SiteId,
    /// The apps that were added, removed or updated, each once.
    pub app_ids: BTreeSet<AppId>,
    /// `{"site_id","version","added":[],"removed":[],"updated":[]}`, with `"deleted":true` when the site went away. Holds
    /// app objects as in documents; `version` is left out where there is none.
    pub event: String,
}

/// The sites whose stored document [`plan`] has to see.
pub fn documents_needed(sites: &Sites) -> BTreeSet<SiteId> {
    let mut needed = BTreeSet::new();
    for (site_id, entry) in sites.iter().filter(|(_, entry)| entry.dirty) {
        let differ = apps_differ(entry);
        if differ && entry.stored.as_ref().is_some_and(|site| site.alive) {
            needed.insert(site_id.clone());
        }
        if let Some(Site { alive, content: Content::Stored { of, .. }, .. }) = &entry.folded
            && (!keeps_document(site_id, entry) || (differ && *alive))
        {
            needed.insert(of.clone());
        }
    }
    needed
}

/// Whether the document that is stored is also the one that shall be: the same apps under the same version.
fn keeps_document(site_id: &SiteId, entry: &Entry) -> bool {
    let version = |site: &Option<Site>| site.as_ref().map(|site| site.version);
    match entry.folded.as_ref().map(|site| &site.content) {
        Some(Content::Stored { of, .. }) => of == site_id && version(&entry.stored) == version(&entry.folded),
        Some(Content::Nothing) | None => true,
        Some(Content::Told(_)) => false,
    }
}

/// Whether the look-up tables or the change log may have to change.
fn apps_differ(entry: &Entry) -> bool {
    let alive = |site: &Option<Site>| site.clone().filter(|site| site.alive);
    match (alive(&entry.stored), alive(&entry.folded)) {
        (None, None) => false,
        (Some(before), Some(after)) => {
            (before.content.hash(), before.version, before.partition)
                != (after.content.hash(), after.version, after.partition)
        }
        _ => true,
    }
}

/// Whether a site goes to another partition and stays as it is otherwise: its apps are counted there, and no change is told.
fn only_moves(entry: &Entry) -> bool {
    let alike =
        |a: &Site, b: &Site| a.alive && b.alive && a.content.hash() == b.content.hash() && a.version == b.version;
    entry.stored.as_ref().zip(entry.folded.as_ref()).is_some_and(|(stored, folded)| alike(stored, folded))
}

/// Builds the rows of all dirty entries. `documents` holds those of [`documents_needed`].
pub fn plan(sites: &Sites, documents: &Documents) -> Plan {
    let mut plan = Plan::default();
    let mut dirty: Vec<_> = sites.iter().filter(|(_, entry)| entry.dirty).collect();
    dirty.sort_unstable_by_key(|(site_id, _)| *site_id);
    for (site_id, entry) in dirty {
        plan.add(site_id, entry, documents);
    }
    plan.counts.retain(|_, sites| *sites != 0);
    plan.changes.sort_unstable_by_key(|change| (change.partition, change.offset));
    plan
}

impl Plan {
    fn add(&mut self, site_id: &SiteId, entry: &Entry, documents: &Documents) {
        let site = entry.folded.as_ref().expect("a dirty entry holds a site or its marker");
        let after = match &site.content {
            Content::Told(apps) => Some(&**apps),
            Content::Stored { of, .. } => documents.get(of),
            Content::Nothing => None,
        };
        let document = after.filter(|_| !keeps_document(site_id, entry));
        let document = document.map(|apps| (apps.document(site_id, site.version), apps.etag(site.version)));
        if apps_differ(entry) {
            let before = entry.stored.as_ref().filter(|site| site.alive);
            let before = before.map(|site| (documents.get(site_id).expect("loaded as needed"), site.partition));
            let after = after.filter(|_| site.alive).map(|apps| (apps, site.partition));
            self.add_difference(site_id, Some(site).filter(|_| !only_moves(entry)), before, after);
        }
        self.sites.push(SiteRow { site_id: site_id.clone(), site: site.clone(), document });
    }

    fn add_difference(
        &mut self,
        site_id: &SiteId,
        changed: Option<&Site>,
        before: Option<(&InstalledApps, i32)>,
        after: Option<(&InstalledApps, i32)>,
    ) {
        let (was, is) = (counted(before), counted(after));
        let (less, more) = (was.difference(&is), is.difference(&was));
        for ((app_id, partition), by) in less.map(|apps| (*apps, -1)).chain(more.map(|apps| (*apps, 1))) {
            *self.counts.entry((app_id.clone(), partition)).or_default() += by;
        }
        let difference = Difference::new(before.map(|(apps, _)| apps), after.map(|(apps, _)| apps));
        let membership = |app: &&InstalledApp| Membership {
            app_id: app.app_id.clone(),
            site_id: site_id.clone(),
            instance_id: app.instance_id.clone(),
        };
        self.memberships_added.extend(difference.added.iter().map(membership));
        self.memberships_removed.extend(difference.removed.iter().map(membership));
        if let Some(site) = changed {
            self.changes.push(ChangeRow {
                partition: site.partition,
                offset: site.offset,
                site_id: site_id.clone(),
                app_ids: difference.app_ids(),
                event: difference.event(site_id, site),
            });
        }
    }
}

/// Under what a site is counted: each app once, however often it is installed there.
fn counted(side: Option<(&InstalledApps, i32)>) -> BTreeSet<(&AppId, i32)> {
    side.into_iter().flat_map(|(apps, partition)| apps.apps.iter().map(move |app| (&app.app_id, partition))).collect()
}

/// What lies between two lists of apps.
#[derive(Default)]
struct Difference<'a> {
    before: Option<&'a InstalledApps>,
    after: Option<&'a InstalledApps>,
    added: Vec<&'a InstalledApp>,
    removed: Vec<&'a InstalledApp>,
    updated: Vec<&'a InstalledApp>,
}

impl<'a> Difference<'a> {
    /// Merges the two lists, which are sorted by app and instance.
    fn new(before: Option<&'a InstalledApps>, after: Option<&'a InstalledApps>) -> Self {
        let mut difference = Self { before, after, ..Self::default() };
        let mut old = before.map_or(&[][..], |apps| &apps.apps).iter().peekable();
        let mut new = after.map_or(&[][..], |apps| &apps.apps).iter().peekable();
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some(old), Some(new)) => (&old.app_id, &old.instance_id).cmp(&(&new.app_id, &new.instance_id)),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return difference,
            };
            match order {
                Ordering::Less => difference.removed.extend(old.next()),
                Ordering::Greater => difference.added.extend(new.next()),
                Ordering::Equal => {
                    let (app_before, app_after) = (old.next().expect("peeked"), new.next().expect("peeked"));
                    if difference.json(before, app_before) != difference.json(after, app_after) {
                        difference.updated.push(app_after);
                    }
                }
            }
        }
    }

    fn json(&self, apps: Option<&'a InstalledApps>, app: &InstalledApp) -> &'a str {
        apps.expect("the app comes from these apps").json_of(app)
    }

    fn app_ids(&self) -> BTreeSet<AppId> {
        [&self.added, &self.removed, &self.updated].into_iter().flatten().map(|app| app.app_id.clone()).collect()
    }

    fn event(&self, site_id: &SiteId, site: &Site) -> String {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(b"{\"site_id\":");
        write_json(&mut out, site_id.as_str());
        if let Some(version) = site.version {
            out.extend_from_slice(b",\"version\":");
            write_json(&mut out, &version);
        }
        for (name, list, apps) in [
            ("added", &self.added, self.after),
            ("removed", &self.removed, self.before),
            ("updated", &self.updated, self.after),
        ] {
            out.extend_from_slice(format!(",\"{name}\":[").as_bytes());
            for (n, app) in list.iter().enumerate() {
                out.extend_from_slice(if n > 0 { b"," } else { b"" });
                out.extend_from_slice(self.json(apps, app).as_bytes());
            }
            out.push(b']');
        }
        out.extend_from_slice(if site.alive { b"}" } else { b",\"deleted\":true}" });
        String::from_utf8(out).expect("made of UTF-8")
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
