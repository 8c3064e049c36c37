//! What a repair writes to the view itself, by the same fold, plan and store as a record: the removal of sites that the
//! source does not have, and rows that no record could put right because they contradict themselves.
//!
//! Everything happens under a take-over of the topic's partitions (see [`crate::store::Taken`]): the view's rows are read
//! again there and must be as they were, and the source is asked again. The reasoning stands in
//! `docs/adr/0009-repairs-without-a-record.md`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use serde_json::json;
use shared::ids::SiteId;

use super::{
    Candidate, Said, Verification,
    compare::{Difference, absence, is_damaged},
    report::Repaired,
};
use crate::{
    apps::{InstalledApps, hash_of_etag, write_json},
    error::StoreError,
    fold::{Along, Content, Entry, Place, Site, Sites, fold},
    plan::{Documents, Membership, plan},
    store::{self, SiteSeen, Store, Taken},
};

/// Sites of one transaction: the writers stand still while it works.
const SITES_MAX: usize = 200;
/// Sites that are looked up together, whole tables being read for them.
const KNOWN_MAX: usize = 5_000;
/// Attempts at one transaction; a frozen writer holds its locks for ten seconds, a statement waits five.
const ATTEMPTS_MAX: u32 = 4;

type Memberships = HashMap<SiteId, BTreeSet<Membership>>;

/// What is known of one site before the partitions are taken over.
struct Known<'c> {
    candidate: &'c Candidate,
    site_id: SiteId,
    seen: Option<SiteSeen>,
    members: BTreeSet<Membership>,
    /// Where the change is written when the view has no row.
    partition: Option<i32>,
}

impl Verification<'_> {
    /// Puts right what only the verb can, of these sites; the others are left as they are.
    pub(super) async fn put_right(&mut self, sites: &[Candidate], reason: &str) -> anyhow::Result<Repaired> {
        let options = store::connect_options(&self.config.database, &format!("view_g{}", self.generation));
        let mut store = Store::new(options, self.config.topic.as_str().into(), "writer verify".into());
        let mut repaired = Repaired::default();
        let wanted: Vec<Candidate> = sites.iter().filter(|site| is_for_the_verb(site)).cloned().collect();
        for sites in wanted.chunks(KNOWN_MAX) {
            for known in self.know(sites).await?.chunks(SITES_MAX) {
                let done = self.take_over_patiently(&mut store, known, reason).await?;
                repaired.removed += done.removed;
                repaired.restored += done.restored;
            }
        }
        Ok(repaired)
    }

    async fn know<'s>(&mut self, sites: &'s [Candidate]) -> anyhow::Result<Vec<Known<'s>>> {
        let keys: Vec<String> = sites.iter().map(|site| site.site_id.clone()).collect();
        let mut seen: HashMap<String, SiteSeen> =
            SiteSeen::of_keys(&mut self.view, &keys).await?.into_iter().map(|row| (row.site_id.clone(), row)).collect();
        let needs_members = |key: &&String| seen.get(*key).is_none_or(|row| !row.alive || is_damaged(row));
        let unsure: Vec<&str> = keys.iter().filter(needs_members).map(String::as_str).collect();
        let mut members = match unsure.is_empty() {
            true => Memberships::new(),
            false => store::memberships(&mut self.view, &unsure).await?,
        };
        let orphans: Vec<&str> = members.keys().map(SiteId::as_str).filter(|key| !seen.contains_key(*key)).collect();
        let partitions = match orphans.is_empty() {
            true => HashMap::new(),
            false => store::last_partitions(&mut self.view, &orphans).await?,
        };
        let known = sites.iter().filter_map(|candidate| {
            let site_id = SiteId::new(candidate.site_id.as_str()).ok()?;
            let (seen, members) = (seen.remove(&candidate.site_id), members.remove(&site_id).unwrap_or_default());
            let partition = partitions.get(&candidate.site_id).copied();
            Some(Known { candidate, site_id, seen, members, partition })
        });
        // A site that is plainly missing is Debezium's alone.
        let has_work =
            |known: &Known<'_>| known.candidate.difference != Difference::Missing || !known.members.is_empty();
        Ok(known.filter(has_work).collect())
    }

    /// Tries again when the positions are locked for longer than a statement waits: a batch may be large, a writer frozen.
    async fn take_over_patiently(
        &mut self,
        store: &mut Store,
        known: &[Known<'_>],
        reason: &str,
    ) -> anyhow::Result<Repaired> {
        let mut attempts = 1;
        loop {
            match self.take_over(store, known, reason).await {
                Err(error) if attempts < ATTEMPTS_MAX && error.is::<StoreError>() => {
                    tracing::warn!(%error, attempts, "the view does not take the repair; trying again");
                    store.disconnect();
                    attempts += 1;
                }
                done => return done,
            }
        }
    }

    /// One transaction; what has changed meanwhile is left out.
    async fn take_over(&mut self, store: &mut Store, known: &[Known<'_>], reason: &str) -> anyhow::Result<Repaired> {
        let keys: Vec<String> = known.iter().map(|known| known.candidate.site_id.clone()).collect();
        let mut transaction = store.begin().await?;
        let taken = transaction.take_over().await?;
        let seen: HashMap<String, SiteSeen> =
            transaction.seen(&keys).await?.into_iter().map(|row| (row.site_id.clone(), row)).collect();
        let wanted: Vec<_> = known.iter().map(|known| (&known.site_id, Along::Nothing)).collect();
        let mut stored = transaction.sites(&wanted).await?;
        let rows = self.source.rows_by_key(&keys).await?;
        let (mut sites, mut documents, mut repaired) = (Sites::new(), Documents::new(), Repaired::default());
        let mut done = Vec::new();
        for known in known.iter().filter(|known| known.seen.as_ref() == seen.get(&known.candidate.site_id)) {
            let said = rows.get(&known.candidate.site_id).map_or(Said::Nothing, |row| self.project(row));
            let Some(change) = Change::new(known, &said, stored.remove(&known.site_id), &taken)? else { continue };
            *(if change.restores { &mut repaired.restored } else { &mut repaired.removed }) += u64::from(change.counts);
            done.push(json!({"site_id": known.candidate.site_id, "was": known.candidate.difference.kind()}));
            documents.insert(known.site_id.clone(), change.before);
            sites.insert(known.site_id.clone(), change.entry);
        }
        if sites.is_empty() {
            drop(transaction);
            store.disconnect();
            return Ok(repaired);
        }
        let mut plan = plan(&sites, &documents);
        let changes = std::mem::take(&mut plan.changes);
        transaction.write(&plan).await?;
        transaction.write_changes_without_record(&changes).await?;
        let detail = json!({"generation": self.generation, "topic": self.config.topic, "put_right": done});
        transaction.audit("verify --repair", reason, &detail).await?;
        transaction.commit().await?;
        Ok(repaired)
    }
}

/// Whether Debezium cannot help, or not alone.
fn is_for_the_verb(site: &Candidate) -> bool {
    match site.difference {
        // Nothing is deleted that may still be on its way, or whose next change could leave out what was deleted.
        Difference::OnlyInView => site.proven,
        Difference::Different { damaged, .. } => damaged,
        // It may have left rows in the look-up tables behind.
        Difference::Missing => true,
        Difference::Rejected(_) => false,
    }
}

/// What becomes of one site.
struct Change {
    entry: Entry,
    /// The apps by which the look-up tables hold the site now.
    before: InstalledApps,
    /// Whether the site lives on.
    restores: bool,
    /// Whether it is one of those that the report counts.
    counts: bool,
}

impl Change {
    /// `None` where there is nothing to do, or no longer.
    fn new(
        known: &Known<'_>,
        said: &Said,
        stored: Option<Site>,
        taken: &BTreeMap<i32, Taken>,
    ) -> Result<Option<Self>, StoreError> {
        match (&known.candidate.difference, said, stored) {
            (Difference::OnlyInView, Said::Nothing, Some(stored)) if stored.alive => {
                Self::removal(known, stored, taken, true).map(Some)
            }
            (Difference::Different { .. }, Said::Site(apps, version), Some(stored)) if stored.alive => {
                Self::restoral(known, apps, *version, stored, taken).map(Some)
            }
            (Difference::Missing, _, stored)
                if !known.members.is_empty() && stored.as_ref().is_none_or(|stored| !stored.alive) =>
            {
                let stored = stored.unwrap_or_else(|| unstored(known.partition, taken));
                Self::removal(known, Site { alive: true, content: Content::Nothing, ..stored }, taken, false).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// As the delete of a record without a position.
    fn removal(
        known: &Known<'_>,
        stored: Site,
        taken: &BTreeMap<i32, Taken>,
        counts: bool,
    ) -> Result<Self, StoreError> {
        let before = known.before(None)?;
        let place = place(&stored, taken);
        let mut sites = Sites::from([(known.site_id.clone(), Entry::new(Some(stored)))]);
        let deleted = fold(&mut sites, &absence(&known.site_id), place);
        deleted.expect("a delete tells all that it needs");
        let entry = sites.remove(&known.site_id).expect("just folded");
        Ok(Self { entry, before, restores: false, counts })
    }

    /// The row as a writer would have stored it. What it says of the apps is what the source says now.
    fn restoral(
        known: &Known<'_>,
        apps: &Arc<InstalledApps>,
        version: Option<i64>,
        stored: Site,
        taken: &BTreeMap<i32, Taken>,
    ) -> Result<Self, StoreError> {
        let seen = known.seen.as_ref().expect("a stored site was seen");
        let is_the_tagged = hash_of_etag(&seen.etag) == Some(apps.hash);
        let before = known.before(is_the_tagged.then_some(&**apps))?;
        let folded = Site {
            version: if is_the_tagged { stored.version } else { version },
            content: Content::Told(Arc::clone(apps)),
            offset: place(&stored, taken).offset,
            ..stored.clone()
        };
        // The stored content is unknown, so the look-up tables are compared whatever the tag says.
        let stored = Some(Site { content: Content::Nothing, ..stored });
        let entry = Entry { stored, folded: Some(folded), dirty: true };
        Ok(Self { entry, before, restores: true, counts: true })
    }
}

impl Known<'_> {
    /// The apps by which the look-up tables hold the site: those of an intact document; else those of `app_site`, with the
    /// members that the document, or the apps it is tagged with, still tell.
    fn before(&self, tagged: Option<&InstalledApps>) -> Result<InstalledApps, StoreError> {
        let read = self.seen.as_ref().and_then(|seen| InstalledApps::of_document(&seen.document).ok());
        let intact = self.seen.as_ref().is_some_and(|seen| seen.alive && !is_damaged(seen));
        let told = tagged.or(read.as_ref());
        if let (true, Some(apps)) = (intact, told) {
            return Ok(apps.clone());
        }
        let mut document = b"{\"apps\":[".to_vec();
        for (n, member) in self.members.iter().enumerate() {
            document.extend_from_slice(if n > 0 { b"," } else { b"" });
            let same =
                |app: &&crate::apps::InstalledApp| app.app_id == member.app_id && app.instance_id == member.instance_id;
            match told.and_then(|apps| apps.apps.iter().find(same).map(|app| apps.json_of(app))) {
                Some(json) => document.extend_from_slice(json.as_bytes()),
                None => write_ids(&mut document, member),
            }
        }
        document.extend_from_slice(b"]}");
        let document = String::from_utf8_lossy(&document);
        let unreadable = |error| StoreError::Document { site_id: self.site_id.to_string(), error };
        InstalledApps::of_document(&document).map_err(unreadable)
    }
}

fn write_ids(out: &mut Vec<u8>, member: &Membership) {
    out.extend_from_slice(b"{\"app_id\":");
    write_json(out, member.app_id.as_str());
    if let Some(instance_id) = &member.instance_id {
        out.extend_from_slice(b",\"instance_id\":");
        write_json(out, instance_id.as_str());
    }
    out.push(b'}');
}

/// Behind all that the partition's records have said. A position that an operator has set back lies before the row's own.
fn place(stored: &Site, taken: &BTreeMap<i32, Taken>) -> Place {
    let taken = taken.get(&stored.partition);
    Place {
        partition: stored.partition,
        offset: taken.map_or(0, |taken| taken.next_offset - 1).max(stored.offset),
        source_epoch: taken.map_or(stored.source_epoch, |taken| taken.source_epoch),
    }
}

/// A site of which only the look-up tables know.
fn unstored(partition: Option<i32>, taken: &BTreeMap<i32, Taken>) -> Site {
    Site {
        alive: true,
        version: None,
        content: Content::Nothing,
        source_position: None,
        source_epoch: 0,
        partition: partition.or(taken.keys().next().copied()).unwrap_or(0),
        offset: 0,
        last_delete_partition: None,
    }
}
