//! What the view must hold: a plain replay, one map of sites.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::kafka::Ends;
use crate::record::Record;

/// One installed app of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// The app.
    pub app_id: String,
    /// Which installation; empty when the source names none.
    pub instance_id: String,
    /// Raised with each upgrade.
    pub version: u32,
}

impl App {
    /// As an element of a document.
    pub fn document(&self) -> Value {
        let mut document = json!({
            "app_id": self.app_id,
            "version": format!("{}.0", self.version),
            "status": "INSTALLED",
            "permissions": ["SITE.READ"],
        });
        if !self.instance_id.is_empty() {
            document["instance_id"] = json!(self.instance_id);
        }
        document
    }
}

/// A site as the source has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The MetaSite version.
    pub version: i64,
    /// The version at which the apps last changed: the one that the view serves.
    pub apps_version: i64,
    /// By app and instance.
    pub apps: BTreeMap<(String, String), App>,
}

impl Site {
    /// The document that is served for it.
    pub(crate) fn document(&self, site_id: &str) -> Value {
        let apps: Vec<Value> = self.apps.values().map(App::document).collect();
        json!({"site_id": site_id, "version": self.apps_version, "apps": apps})
    }
}

/// The sites that exist after some records.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// By id.
    pub sites: BTreeMap<String, Arc<Site>>,
}

impl Model {
    /// The sites after all of these records.
    pub fn of(records: &[Record]) -> Self {
        let mut model = Self::default();
        records.iter().for_each(|record| model.apply(record));
        model
    }

    /// The sites after those records that lie before a position, in a topic that holds these records and nothing else.
    pub fn at(records: &[Record], positions: &Ends) -> Self {
        let mut model = Self::default();
        let mut offsets: BTreeMap<i32, i64> = BTreeMap::new();
        for record in records {
            let offset = offsets.entry(record.partition).or_default();
            if *offset < positions.get(&record.partition).copied().unwrap_or_default() {
                model.apply(record);
            }
            *offset += 1;
        }
        model
    }

    pub(crate) fn apply(&mut self, record: &Record) {
        match &record.after {
            Some(site) => self.sites.insert(record.site_id.clone(), Arc::clone(site)),
            None => self.sites.remove(&record.site_id),
        };
    }

    /// The document that is served for each site.
    pub fn documents(&self) -> BTreeMap<String, Value> {
        self.sites.iter().map(|(site_id, site)| (site_id.clone(), site.document(site_id))).collect()
    }

    /// Who has what, as (app, site, instance).
    pub fn memberships(&self) -> BTreeSet<(String, String, String)> {
        let of_site = |(site_id, site): (&String, &Arc<Site>)| {
            let row = |(app_id, instance_id): &(String, String)| (app_id.clone(), site_id.clone(), instance_id.clone());
            site.apps.keys().map(row).collect::<Vec<_>>()
        };
        self.sites.iter().flat_map(of_site).collect()
    }

    /// The number of sites of each app that has any.
    pub fn counts(&self) -> BTreeMap<String, i64> {
        let pairs: BTreeSet<_> = self.memberships().into_iter().map(|(app, site, _)| (app, site)).collect();
        let mut counts = BTreeMap::new();
        for (app, _) in pairs {
            *counts.entry(app).or_default() += 1;
        }
        counts
    }
}
