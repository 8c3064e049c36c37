//! The MetaSite table and its Debezium, played: random changes of random sites, as plain envelopes with rising positions.
//!
//! Everything that a real topic holds and that touches the apps is in it: the snapshot's rows that share one position,
//! changes that share a transaction, updates that leave the apps out because they are large and unchanged, deletes with
//! and without their tombstone, tombstones alone, re-inserts, and key changes whose delete and create lie on different
//! partitions.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::model::{App, Site};
use crate::record::{Record, UNAVAILABLE, envelope, key, partition_of};

/// Position of all rows of the snapshot.
const SNAPSHOT_LSN: u64 = 1000;
/// Different apps; few, so that each has many sites.
const APPS: u32 = 40;

/// Bytes of the column that the view does not project.
const FILLER_BYTES: usize = 350;

/// The played table. The same seed gives the same records.
#[derive(Debug)]
pub struct Source {
    rng: StdRng,
    partitions: i32,
    sites_wanted: usize,
    sites: BTreeMap<String, Arc<Site>>,
    site_ids: Vec<String>,
    deleted: Vec<String>,
    sites_made: usize,
    lsn: u64,
    filler: String,
    records: Vec<Record>,
}

/// What an update tells of the apps.
enum Told {
    Value,
    Unavailable,
}

impl Source {
    /// A table that grows to about so many sites and then changes them, captured into a topic of so many partitions.
    pub fn new(seed: u64, partitions: i32, sites_wanted: usize) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            partitions,
            sites_wanted,
            sites: BTreeMap::new(),
            site_ids: Vec::new(),
            deleted: Vec::new(),
            sites_made: 0,
            lsn: SNAPSHOT_LSN,
            filler: "x".repeat(FILLER_BYTES),
            records: Vec::new(),
        }
    }

    /// The same table with another future.
    pub(crate) fn fork(&self, seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            sites: self.sites.clone(),
            site_ids: self.site_ids.clone(),
            deleted: self.deleted.clone(),
            filler: self.filler.clone(),
            records: Vec::new(),
            ..*self
        }
    }

    /// The next records: as many as asked for, or one or two more, where one change makes several.
    pub fn records(&mut self, count: usize) -> Vec<Record> {
        while self.records.len() < count {
            self.change();
        }
        std::mem::take(&mut self.records)
    }

    /// The table as it is.
    #[cfg(test)]
    pub(crate) fn sites(&self) -> &BTreeMap<String, Arc<Site>> {
        &self.sites
    }

    fn change(&mut self) {
        if self.sites_made < self.sites_wanted {
            return self.insert_new("r");
        }
        // Changes of one transaction share a position.
        if self.rng.random_ratio(9, 10) {
            self.lsn += self.rng.random_range(1..200);
        }
        match self.rng.random_range(0..100) {
            0..30 => self.rename(),
            30..80 => self.change_apps(),
            80..84 => self.reorder(),
            84..88 => self.insert_new("c"),
            88..93 => self.delete(),
            93..97 => self.insert_again(),
            _ => self.change_key(),
        }
    }

    fn insert_new(&mut self, op: &str) {
        let site_id = format!("site-{:06}", self.sites_made);
        self.sites_made += 1;
        self.insert(site_id, op);
    }

    fn insert_again(&mut self) {
        let Some(site_id) = self.deleted.pop() else { return };
        self.insert(site_id, "c");
    }

    fn insert(&mut self, site_id: String, op: &str) {
        let apps = (0..self.rng.random_range(0..6)).map(|_| self.new_app(&site_id));
        let apps = apps.collect::<Vec<_>>().into_iter().map(by_key).collect();
        self.site_ids.push(site_id.clone());
        self.write(site_id, Site { version: 1, apps_version: 1, apps }, op, &Told::Value);
    }

    /// An update that does not touch the apps; large unchanged apps are left out of it.
    fn rename(&mut self) {
        let (site_id, mut site) = self.any_site();
        site.version += 1;
        let told = if self.rng.random_ratio(1, 2) { Told::Unavailable } else { Told::Value };
        self.write(site_id, site, "u", &told);
    }

    /// An update that only changes the order of the array: the order is random in each record.
    fn reorder(&mut self) {
        let (site_id, mut site) = self.any_site();
        site.version += 1;
        self.write(site_id, site, "u", &Told::Value);
    }

    fn change_apps(&mut self) {
        let (site_id, mut site) = self.any_site();
        let existing = site.apps.keys().cloned().collect::<Vec<_>>().choose(&mut self.rng).cloned();
        site.version += 1;
        site.apps_version = site.version;
        match (existing, self.rng.random_range(0..3)) {
            (Some(key), 0) => drop(site.apps.remove(&key)),
            (Some(key), 1) => site.apps.get_mut(&key).expect("just chosen").version += 1,
            _ => {
                let (key, mut app) = by_key(self.new_app(&site_id));
                app.version += site.apps.get(&key).map_or(0, |app| app.version);
                site.apps.insert(key, app);
            }
        }
        self.write(site_id, site, "u", &Told::Value);
    }

    fn delete(&mut self) {
        let (site_id, _) = self.any_site();
        let (with_delete, with_tombstone) = match self.rng.random_range(0..10) {
            0 => (false, true),
            1 => (true, false),
            _ => (true, true),
        };
        self.remove(&site_id, with_delete, with_tombstone, Vec::new());
        self.deleted.insert(0, site_id);
    }

    /// The old key is never used again: while the create waits for its apps, the old key must stay deleted.
    fn change_key(&mut self) {
        let (old_id, mut site) = self.any_site();
        let new_id = format!("site-{:06}", self.sites_made);
        self.sites_made += 1;
        self.lsn += 1;
        self.remove(&old_id, true, true, vec![("__debezium.newkey", key(&new_id))]);
        site.version += 1;
        site.apps_version = site.version;
        self.site_ids.push(new_id.clone());
        let told = if self.rng.random_ratio(1, 2) { Told::Unavailable } else { Told::Value };
        self.write(new_id, site, "c", &told);
        let create = self.records.last_mut().expect("just written");
        create.headers.push(("__debezium.oldkey", key(&old_id)));
        self.lsn += 1;
    }

    fn any_site(&mut self) -> (String, Site) {
        let site_id = self.site_ids.choose(&mut self.rng).expect("there are always sites").clone();
        let site = Site::clone(&self.sites[&site_id]);
        (site_id, site)
    }

    fn new_app(&mut self, site_id: &str) -> App {
        let app_id = format!("app-{:02}", self.rng.random_range(0..APPS));
        // Some are installed twice, and some sources name no instance.
        let instance_id = match self.rng.random_range(0..20) {
            0 => String::new(),
            1 | 2 => format!("{site_id}.{app_id}.second"),
            _ => format!("{site_id}.{app_id}"),
        };
        App { app_id, instance_id, version: self.rng.random_range(1..9) }
    }

    fn write(&mut self, site_id: String, site: Site, op: &str, told: &Told) {
        let site = Arc::new(site);
        let installed_apps = match told {
            Told::Value => Value::Array(self.elements(&site)).to_string(),
            Told::Unavailable => UNAVAILABLE.to_owned(),
        };
        let after = json!({
            "site_id": site_id, "owner_id": "owner", "version": site.version, "name": format!("at {}", self.lsn),
            "installed_apps": installed_apps, "document": self.filler,
        });
        let value = envelope(Value::Null, after, op, self.lsn);
        self.sites.insert(site_id.clone(), Arc::clone(&site));
        self.push(site_id, Some(value), Vec::new(), Some(site));
    }

    fn remove(&mut self, site_id: &str, with_delete: bool, with_tombstone: bool, headers: Vec<(&'static str, String)>) {
        // What Debezium puts into the not-null columns of a deleted row; not data.
        let before =
            json!({"site_id": site_id, "owner_id": "", "version": 0, "installed_apps": "[]", "document": null});
        let value = envelope(before, Value::Null, "d", self.lsn);
        self.sites.remove(site_id);
        self.site_ids.retain(|id| id != site_id);
        if with_delete {
            self.push(site_id.to_owned(), Some(value), headers.clone(), None);
        }
        if with_tombstone {
            self.push(site_id.to_owned(), None, headers, None);
        }
    }

    /// The array of the source, in a random order, sometimes with an element that is no longer installed.
    fn elements(&mut self, site: &Site) -> Vec<Value> {
        let element = |app: &App, status: &str| {
            let instance = (!app.instance_id.is_empty()).then_some(&app.instance_id);
            json!({
                "appDefId": app.app_id, "instanceId": instance, "version": format!("{}.0", app.version),
                "status": status, "permissions": ["SITE.READ"], "unprojected": true,
            })
        };
        let mut elements: Vec<Value> = site.apps.values().map(|app| element(app, "INSTALLED")).collect();
        elements.shuffle(&mut self.rng);
        if self.rng.random_ratio(1, 5) {
            let gone = App { app_id: "app-gone".to_owned(), instance_id: String::new(), version: 1 };
            elements.push(element(&gone, "UNINSTALLED"));
        }
        elements
    }

    fn push(
        &mut self,
        site_id: String,
        value: Option<String>,
        headers: Vec<(&'static str, String)>,
        after: Option<Arc<Site>>,
    ) {
        let partition = partition_of(&site_id, self.partitions);
        self.records.push(Record { partition, key: key(&site_id), value, headers, site_id, after });
    }
}

fn by_key(app: App) -> ((String, String), App) {
    ((app.app_id.clone(), app.instance_id.clone()), app)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    #[test]
    fn the_replay_of_the_records_is_the_table_and_the_seed_decides() {
        let mut source = Source::new(7, 4, 50);
        let records = source.records(3000);
        assert_eq!(Model::of(&records).sites, source.sites);
        let again = Source::new(7, 4, 50).records(3000);
        assert!(records.iter().zip(&again).all(|(a, b)| a.value == b.value && a.partition == b.partition));
        let kinds = ["\"op\":\"d\"", "\"op\":\"u\"", "\"op\":\"r\"", "\"op\":\"c\"", UNAVAILABLE, "UNINSTALLED"];
        for kind in kinds {
            let has = |record: &Record| record.value.as_ref().is_some_and(|value| value.contains(kind));
            assert!(records.iter().any(has), "no record with {kind}");
        }
        let partition_of_old_key = |record: &Record| {
            let (_, key) = record.headers.iter().find(|(name, _)| *name == "__debezium.oldkey")?;
            let key: Value = serde_json::from_str(key).ok()?;
            Some(partition_of(key["site_id"].as_str()?, 4))
        };
        let moves = |record: &Record| partition_of_old_key(record).is_some_and(|old| old != record.partition);
        assert!(records.iter().any(moves), "no key change across partitions");
    }
}
