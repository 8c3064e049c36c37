//! The rules of the view: what an event makes of what the view holds. Pure; property-tested in `tests/fold.rs`.
//!
//! Events of one partition are folded in offset order. What the view holds for their keys has been loaded before; what it
//! shall hold afterwards is read off when the batch is done. The outcome for a site never depends on where batches were cut.

use std::{collections::HashMap, sync::Arc};

use shared::{envelope::SourcePosition, ids::SiteId};

use crate::{
    apps::InstalledApps,
    decode::{Event, Kind, Told},
};

/// What the view holds for a site: the site, or the marker that a deleted one left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Whether the site exists; a marker does not.
    pub alive: bool,
    /// The MetaSite version at which the apps last changed.
    pub version: Option<i64>,
    /// The apps; a marker keeps those that the site had last.
    pub content: Content,
    /// Position of the last change that counted; the guard against older ones.
    pub source_position: Option<SourcePosition>,
    /// The source epoch in which `source_position` was given.
    pub source_epoch: i32,
    /// Partition of the record that wrote this.
    pub partition: i32,
    /// Offset of the record that wrote this.
    pub offset: i64,
    /// Partition in which the last record of this key was a delete; the tombstone that follows it there says nothing new.
    pub last_delete_partition: Option<i32>,
}

/// The apps of a site, as far as they are in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Never told: the marker of a site that the view has not seen alive.
    Nothing,
    /// In the document that the view stores under this id.
    Stored {
        /// Whose document; another site's only after a key change.
        of: SiteId,
        /// [`InstalledApps::hash`].
        hash: u128,
    },
    /// Told by an event of this batch.
    Told(Arc<InstalledApps>),
}

impl Content {
    /// Equal hash is taken for equal apps; `None` where none were told.
    pub fn hash(&self) -> Option<u128> {
        match self {
            Self::Nothing => None,
            Self::Stored { hash, .. } => Some(*hash),
            Self::Told(apps) => Some(apps.hash),
        }
    }
}

/// A site before and after the events of a batch.
#[derive(Debug, Clone, Default)]
pub struct Entry {
    /// What the view holds.
    pub stored: Option<Site>,
    /// What it shall hold.
    pub folded: Option<Site>,
    /// Whether an event changed anything that is stored.
    pub dirty: bool,
}

impl Entry {
    /// An entry that no event has touched.
    pub fn new(stored: Option<Site>) -> Self {
        Self { folded: stored.clone(), stored, dirty: false }
    }
}

/// The keys of a batch.
pub type Sites = HashMap<SiteId, Entry>;

/// Where an event stands in the topic, and the source epoch that holds for it.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// Raised when the source's positions went back; positions of different epochs are not compared.
    pub source_epoch: i32,
}

/// What became of an event; a value of the metric label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The view changes.
    Applied,
    /// The view holds this already.
    Unchanged,
    /// Older than what the view holds.
    Stale,
}

/// An event that cannot be folded as things stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undecided {
    /// It leaves out the apps, and the view does not have them.
    IncompleteRow,
    /// It leaves out the apps; they are those of this key, whose delete (of the same source position) is still to come.
    AwaitsOldKey(SiteId),
}

/// Whether the document of a site that lives is read along with its row: a guess of what [`crate::plan::documents_needed`] will say, which
/// saves asking for it then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Along {
    /// The event leaves the apps as they are.
    Nothing,
    /// The event takes the apps away.
    Document,
    /// The event tells apps with this hash; where the stored ones have it too, nothing changes.
    DocumentUnless(u128),
}

impl Along {
    /// The text that the hash of the stored apps must differ from; `None` where no document is wanted.
    pub fn unless(self) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Document => Some(String::new()),
            Self::DocumentUnless(hash) => Some(format!("{hash:032x}")),
        }
    }
}

/// The keys whose entries must be loaded before the event is folded.
pub fn keys(event: &Event) -> impl Iterator<Item = &SiteId> {
    let old_key = match &event.kind {
        Kind::Write { old_key, .. } => old_key.as_ref(),
        _ => None,
    };
    std::iter::once(&event.site_id).chain(old_key)
}

/// The same with what is read along.
pub fn keys_along(event: &Event) -> impl Iterator<Item = (&SiteId, Along)> {
    let along = match &event.kind {
        Kind::Write { apps: Told::Value(apps), .. } => Along::DocumentUnless(apps.hash),
        Kind::Write { apps: Told::Absent, .. } => Along::Nothing,
        Kind::Delete | Kind::Tombstone => Along::Document,
    };
    // An old key's document is wanted only where the event leaves the apps out, and then it is a marker's.
    keys(event).map(move |key| (key, if *key == event.site_id { along } else { Along::Nothing }))
}

/// Folds one event into the entries of its keys. On `Err` nothing was changed.
pub fn fold(sites: &mut Sites, event: &Event, place: Place) -> Result<Outcome, Undecided> {
    let site = entry(sites, &event.site_id).folded.as_ref();
    let stale = site.is_some_and(|site| is_stale(site, event, place.source_epoch));
    match &event.kind {
        Kind::Tombstone if site.is_some_and(|site| site.last_delete_partition == Some(place.partition)) => {
            // It shares the fate of the delete directly before it: that one was applied, or it was stale.
            Ok(if site.is_some_and(|site| site.alive) { Outcome::Stale } else { Outcome::Unchanged })
        }
        _ if stale => {
            let entry = entry_mut(sites, &event.site_id);
            match event.kind {
                Kind::Delete => remember_delete(entry, place.partition),
                Kind::Write { .. } | Kind::Tombstone => forget_delete(entry, place.partition),
            }
            Ok(Outcome::Stale)
        }
        Kind::Write { version, apps, old_key } => {
            let content = match apps {
                Told::Value(apps) => Content::Told(Arc::clone(apps)),
                Told::Absent => as_before(sites, event, old_key.as_ref())?,
            };
            Ok(write(entry_mut(sites, &event.site_id), event, place, version, content))
        }
        Kind::Delete | Kind::Tombstone => Ok(delete(entry_mut(sites, &event.site_id), event, place)),
    }
}

fn entry<'s>(sites: &'s Sites, site_id: &SiteId) -> &'s Entry {
    sites.get(site_id).expect("keys() of each event have been loaded")
}

fn entry_mut<'s>(sites: &'s mut Sites, site_id: &SiteId) -> &'s mut Entry {
    sites.get_mut(site_id).expect("keys() of each event have been loaded")
}

/// Positions are compared with `>=` within one source epoch only: events share positions, and some have none.
fn is_stale(site: &Site, event: &Event, source_epoch: i32) -> bool {
    match (&event.source_position, &site.source_position) {
        (Some(event), Some(stored)) => site.source_epoch == source_epoch && event.is_older_than(stored),
        _ => false,
    }
}

/// The apps of an event that leaves them out: those that the site has, or, when the event is the create of a key change,
/// those of the old key's marker.
///
/// Delete and create of a key change share their source position; so do the changes of one transaction, which is why a
/// repeat of it may find the site's own marker. A create takes nothing from an earlier life of its key.
fn as_before(sites: &Sites, event: &Event, old_key: Option<&SiteId>) -> Result<Content, Undecided> {
    let same_position = |site: &&Site| site.source_position.is_some() && site.source_position == event.source_position;
    let of_old_key = old_key.and_then(|key| entry(sites, key).folded.as_ref());
    let of_old_key = of_old_key.filter(|site| !site.alive).filter(same_position);
    let own = entry(sites, &event.site_id).folded.as_ref();
    let own = own.filter(|site| same_position(site) || (site.alive && old_key.is_none()));
    match (of_old_key.or(own), old_key) {
        (Some(site), _) if site.content != Content::Nothing => Ok(site.content.clone()),
        (None, Some(old_key)) if event.source_position.is_some() => Err(Undecided::AwaitsOldKey(old_key.clone())),
        _ => Err(Undecided::IncompleteRow),
    }
}

fn write(entry: &mut Entry, event: &Event, place: Place, version: &Told<Option<i64>>, content: Content) -> Outcome {
    let before = entry.folded.as_ref();
    if before.is_some_and(|site| site.alive && site.content.hash() == content.hash()) {
        forget_delete(entry, place.partition);
        move_guard(entry, event, place);
        return Outcome::Unchanged;
    }
    // An event without a position (an incremental snapshot's row) counts, and leaves the guard as it is.
    let (source_position, source_epoch) = match (event.source_position, before) {
        (None, Some(site)) => (site.source_position, site.source_epoch),
        (position, _) => (position, place.source_epoch),
    };
    entry.folded = Some(Site {
        alive: true,
        version: match version {
            Told::Value(version) => *version,
            Told::Absent => before.and_then(|site| site.version),
        },
        content,
        source_position,
        source_epoch,
        partition: place.partition,
        offset: place.offset,
        last_delete_partition: before.and_then(|site| site.last_delete_partition).filter(|p| *p != place.partition),
    });
    entry.dirty = true;
    Outcome::Applied
}

/// A key that moves to another partition (when partitions are added) takes its guard along with its first event there, whatever
/// that changes: what the old partition says late is older, and order no longer keeps it from counting.
fn move_guard(entry: &mut Entry, event: &Event, place: Place) {
    let Some(site) = entry.folded.as_mut() else { return };
    if site.partition != place.partition && event.source_position.is_some() {
        (site.source_position, site.source_epoch) = (event.source_position, place.source_epoch);
        (site.partition, site.offset) = (place.partition, place.offset);
        entry.dirty = true;
    }
}

fn delete(entry: &mut Entry, event: &Event, place: Place) -> Outcome {
    let is_tombstone = event.kind == Kind::Tombstone;
    match entry.folded.as_mut() {
        Some(site) if site.alive => {
            site.alive = false;
            site.source_position = event.source_position;
            site.source_epoch = place.source_epoch;
            (site.partition, site.offset) = (place.partition, place.offset);
            site.last_delete_partition = Some(place.partition);
            entry.dirty = true;
            Outcome::Applied
        }
        Some(_) | None if is_tombstone => Outcome::Unchanged,
        Some(marker) => {
            let known = (marker.source_position, marker.source_epoch) == (event.source_position, place.source_epoch);
            (marker.source_position, marker.source_epoch) = (event.source_position, place.source_epoch);
            entry.dirty |= !known;
            remember_delete(entry, place.partition);
            Outcome::Unchanged
        }
        None => {
            entry.folded = Some(Site {
                alive: false,
                version: None,
                content: Content::Nothing,
                source_position: event.source_position,
                source_epoch: place.source_epoch,
                partition: place.partition,
                offset: place.offset,
                last_delete_partition: Some(place.partition),
            });
            entry.dirty = true;
            Outcome::Applied
        }
    }
}

/// The last record of this key in this partition was a delete.
fn remember_delete(entry: &mut Entry, partition: i32) {
    set_last_delete(entry, |_| Some(partition));
}

/// The last record of this key in this partition was none. What another partition said last stays (keys move when partitions
/// are added).
fn forget_delete(entry: &mut Entry, partition: i32) {
    set_last_delete(entry, |last| last.filter(|last| *last != partition));
}

fn set_last_delete(entry: &mut Entry, set: impl Fn(Option<i32>) -> Option<i32>) {
    let Some(site) = entry.folded.as_mut() else { return };
    let last = set(site.last_delete_partition);
    entry.dirty |= last != site.last_delete_partition;
    site.last_delete_partition = last;
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
