//! The view's tables in memory, with the meaning that the writer's statements give them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use shared::ids::SiteId;
use writer::{
    apps::{InstalledApps, hash_of_etag},
    fold::{Content, Site},
    plan::{Documents, Membership, Plan, SiteRow},
};

/// A row of `site_apps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSite {
    /// The columns but the document and its tag; `content` means nothing here.
    site: Site,
    /// The position as the column holds it.
    source_position: Option<String>,
    /// The document; a marker keeps the last one.
    pub document: Option<String>,
    etag: String,
}

/// A row of `change`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredChange {
    pub partition: i32,
    pub offset: i64,
    pub site_id: SiteId,
    pub app_ids: BTreeSet<String>,
    pub event: String,
}

/// The tables of one generation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    pub site_apps: BTreeMap<SiteId, StoredSite>,
    pub app_site: BTreeSet<Membership>,
    /// By app and partition; rows of 0 are left out.
    pub app_count: BTreeMap<(String, i32), i64>,
    pub changes: Vec<StoredChange>,
    /// Next offset by partition.
    pub positions: Vec<i64>,
}

impl View {
    /// An empty view of a topic with so many partitions.
    pub fn new(partitions: usize) -> Self {
        Self { positions: vec![0; partitions], ..Self::default() }
    }

    /// What the writer's `select` gives of a site.
    pub fn load(&self, site_id: &SiteId) -> Option<Site> {
        let StoredSite { site, source_position, document, etag } = self.site_apps.get(site_id)?;
        let content = match (document, hash_of_etag(etag)) {
            (Some(_), Some(hash)) => Content::Stored { of: site_id.clone(), hash },
            _ => Content::Nothing,
        };
        let source_position = source_position.as_ref().map(|text| text.parse().expect("a position's text reads back"));
        Some(Site { content, source_position, ..site.clone() })
    }

    /// The stored documents of these sites, read back.
    pub fn documents<'s>(&self, site_ids: impl IntoIterator<Item = &'s SiteId>) -> Documents {
        let mut documents = HashMap::new();
        for site_id in site_ids {
            if let Some(document) = self.site_apps.get(site_id).and_then(|row| row.document.as_deref()) {
                documents.insert(site_id.clone(), InstalledApps::of_document(document).expect("a document reads back"));
            }
        }
        documents
    }

    /// Writes a plan; errors when it adds what is there, removes what is not, or changes the past of the change log.
    pub fn write(&mut self, plan: Plan) -> Result<(), String> {
        for row in plan.sites {
            self.write_site(row);
        }
        for membership in plan.memberships_removed {
            ensure(self.app_site.remove(&membership), || {
                format!("removed a membership that is not there: {membership:?}")
            })?;
        }
        for membership in plan.memberships_added {
            ensure(self.app_site.insert(membership.clone()), || format!("added a membership twice: {membership:?}"))?;
        }
        for ((app_id, partition), by) in plan.counts {
            let sites = self.app_count.entry((app_id.to_string(), partition)).or_default();
            *sites += by;
            ensure(*sites >= 0, || format!("{app_id} has {sites} sites in partition {partition}"))?;
        }
        self.app_count.retain(|_, sites| *sites != 0);
        for change in plan.changes {
            let key = (change.partition, change.offset);
            let newest = self.changes.iter().filter(|old| old.partition == key.0).map(|old| old.offset).max();
            ensure(newest < Some(key.1), || format!("the change log goes back to {key:?}"))?;
            self.changes.push(StoredChange {
                partition: change.partition,
                offset: change.offset,
                site_id: change.site_id,
                app_ids: change.app_ids.iter().map(ToString::to_string).collect(),
                event: change.event,
            });
        }
        Ok(())
    }

    /// `document` `None` leaves what is stored.
    fn write_site(&mut self, row: SiteRow) {
        let stored = self.site_apps.remove(&row.site_id);
        let (document, etag) = match (row.document, stored) {
            (Some((document, etag)), _) => (Some(document), etag),
            (None, Some(stored)) => (stored.document, stored.etag),
            (None, None) => (None, String::new()),
        };
        let source_position = row.site.source_position.map(|position| position.to_string());
        let site = Site { content: Content::Nothing, source_position: None, ..row.site };
        self.site_apps.insert(row.site_id, StoredSite { site, source_position, document, etag });
    }
}

impl StoredSite {
    /// Whether the site exists.
    pub fn is_alive(&self) -> bool {
        self.site.alive
    }

    /// The column `version`, beside the one in the document.
    pub fn version(&self) -> Option<i64> {
        self.site.version
    }

    /// The tag and what the document says that it must be.
    pub fn tags(&self) -> (&str, String) {
        let apps =
            InstalledApps::of_document(self.document.as_deref().unwrap_or_default()).expect("a document reads back");
        (&self.etag, apps.etag(self.site.version))
    }
}

/// `Err` with the text unless it holds.
pub fn ensure(holds: bool, text: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(text()) }
}
