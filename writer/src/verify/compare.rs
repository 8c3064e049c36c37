//! What the source says against what the view holds. Pure.
//!
//! The apps decide, not the version: the view's version is the one at which the apps last changed, so the source's may be any
//! other. A stored document is right when it is, to the byte, the one that the writer would store for the source's apps under
//! the row's own version.

use std::{collections::VecDeque, sync::Arc};

use shared::{
    envelope::{Headers, SchemaHead},
    ids::SiteId,
};

use super::source::SourceRow;
use crate::{
    apps::{InstalledApps, hash_of_etag, write_json},
    decode::{Event, Kind, Limits, Raw, Told, decode},
    projection::Projection,
    rejection::{Reason, Rejection},
    store::SiteSeen,
};

/// What the source says of one site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It exists, with these apps, under this version.
    Site(Arc<InstalledApps>, Option<i64>),
    /// It exists, but the writer would reject its row.
    Rejected(Rejection),
    /// It does not exist.
    Nothing,
}

/// How view and source differ in one site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The source has it, the view does not.
    Missing,
    /// The view has it, the source does not.
    OnlyInView,
    /// Both have it.
    Different {
        /// The apps are others.
        apps: bool,
        /// The stored document or its tag is none that a writer stores; the next change of the site may not be applicable.
        damaged: bool,
    },
    /// The source's row cannot be projected, so the view holds an older one or none.
    Rejected(Rejection),
}

impl Difference {
    /// The kind, as reports name it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::OnlyInView => "only-in-view",
            Self::Different { .. } => "different",
            Self::Rejected(_) => "rejected",
        }
    }

    /// What differs, without values.
    pub fn detail(&self) -> String {
        match self {
            Self::Missing => "the source has it, the view does not".to_owned(),
            Self::OnlyInView => "the view has it, the source does not".to_owned(),
            Self::Different { apps: true, damaged: false } => "the apps".to_owned(),
            Self::Different { apps: true, damaged: true } => "the apps; the stored document is damaged".to_owned(),
            Self::Different { apps: false, .. } => "the stored document is damaged".to_owned(),
            Self::Rejected(rejection) => format!("the source's row cannot be projected: {rejection}"),
        }
    }
}

struct NoHeaders;

impl Headers for NoHeaders {
    fn get(&self, _name: &str) -> Option<&[u8]> {
        None
    }
}

/// Projects a row as the record of a snapshot would be.
pub fn project(row: &SourceRow, key: &str, projection: &Projection, limits: Limits) -> Said {
    let mut record_key = b"{".to_vec();
    write_json(&mut record_key, key);
    record_key.push(b':');
    write_json(&mut record_key, &row.site_id);
    record_key.push(b'}');
    let value = format!("{{\"before\":null,\"after\":{},\"source\":{{}},\"op\":\"r\"}}", row.row);
    let record = Raw { key: Some(&record_key), value: Some(value.as_bytes()), headers: NoHeaders };
    match decode(&record, projection, limits, &mut SchemaHead::default()) {
        Ok(Some(Event { kind: Kind::Write { apps: Told::Value(apps), version, .. }, .. })) => {
            Said::Site(apps, if let Told::Value(version) = version { version } else { None })
        }
        // The column holds the placeholder of an unchanged value, as a value.
        Ok(_) => Said::Rejected(Rejection::new(Reason::IncompleteRow, "the row does not tell the apps".to_owned())),
        Err(rejection) => Said::Rejected(rejection),
    }
}

/// The event of a site that the source does not have: a delete without a position, so that whatever comes later counts.
pub fn absence(site_id: &SiteId) -> Event {
    Event { site_id: site_id.clone(), kind: Kind::Delete, source_position: None, committed_at_ms: None }
}

/// Compares one site.
pub fn compare(said: &Said, seen: Option<&SiteSeen>) -> Option<Difference> {
    match (said, seen.filter(|seen| seen.alive)) {
        (Said::Rejected(rejection), _) => Some(Difference::Rejected(rejection.clone())),
        (Said::Nothing, None) => None,
        (Said::Nothing, Some(_)) => Some(Difference::OnlyInView),
        (Said::Site(..), None) => Some(Difference::Missing),
        (Said::Site(apps, _), Some(seen)) => {
            if holds(seen, apps) {
                return None;
            }
            let differ = hash_of_etag(&seen.etag) != Some(apps.hash);
            Some(Difference::Different { apps: differ, damaged: !differ || is_damaged(seen) })
        }
    }
}

/// Whether the row is, to the byte, what a writer stores for these apps.
fn holds(seen: &SiteSeen, apps: &InstalledApps) -> bool {
    let Ok(site_id) = SiteId::new(seen.site_id.as_str()) else { return false };
    seen.etag == apps.etag(seen.version) && seen.document == apps.document(&site_id, seen.version)
}

/// Whether document, tag and version of a row do not belong together.
pub fn is_damaged(seen: &SiteSeen) -> bool {
    InstalledApps::of_document(&seen.document).map_or(true, |apps| !holds(seen, &apps))
}

/// Rows that have a place in the order of keys.
pub trait Keyed {
    /// The key; compared by bytes.
    fn key(&self) -> &str;
}

impl Keyed for SourceRow {
    fn key(&self) -> &str {
        &self.site_id
    }
}

impl Keyed for SiteSeen {
    fn key(&self) -> &str {
        &self.site_id
    }
}

/// One of two streams that are ordered by key: what has been read of it and not yet been joined.
#[derive(Debug)]
pub struct Stream<T> {
    rows: VecDeque<T>,
    /// Up to which key the stream has been read; `None` when it has been read to its end.
    read_to: Option<String>,
}

impl<T: Keyed> Stream<T> {
    /// A stream of which nothing has been read.
    pub fn unread() -> Self {
        Self { rows: VecDeque::new(), read_to: Some(String::new()) }
    }

    /// Whether a next chunk is needed before anything can be joined.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.read_to.is_some()
    }

    /// Up to which key the stream has been read; `None` at its end.
    pub fn read_to(&self) -> Option<&str> {
        self.read_to.as_deref()
    }

    /// Adds a chunk, which was read up to this key; `None` when nothing follows. Rows may be fewer than the keys that were read.
    pub fn push(&mut self, rows: Vec<T>, read_to: Option<String>) {
        self.rows.extend(rows);
        self.read_to = read_to;
    }

    fn take(&mut self, key: &str) -> Option<T> {
        let is_next = self.rows.front().is_some_and(|row| row.key() == key);
        if is_next { self.rows.pop_front() } else { None }
    }
}

/// Takes the pairs of equal keys, in order, as far as both streams have been read; a key that only one stream has is a pair
/// with nothing.
pub fn join<A: Keyed, B: Keyed>(left: &mut Stream<A>, right: &mut Stream<B>) -> Vec<(Option<A>, Option<B>)> {
    let bound = match (&left.read_to, &right.read_to) {
        (Some(a), Some(b)) => Some(a.min(b).clone()),
        (a, b) => a.clone().or_else(|| b.clone()),
    };
    let mut pairs = Vec::new();
    loop {
        let heads = (left.rows.front().map(Keyed::key), right.rows.front().map(Keyed::key));
        let key = match heads {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => match a.or(b) {
                Some(key) => key,
                None => return pairs,
            },
        };
        if bound.as_deref().is_some_and(|bound| key > bound) {
            return pairs;
        }
        let key = key.to_owned();
        pairs.push((left.take(&key), right.take(&key)));
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
