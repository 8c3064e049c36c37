//! The sites and apps of the demo: invented, but spread as in life. Some 200 apps of Zipf popularity, 1 to 60 of them on a
//! site; all ids follow from numbers, so that every demo has the same.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use crate::lock::sha256;

/// Different apps.
pub(crate) const APPS: usize = 200;
/// Most apps of one site.
pub(crate) const SITE_APPS_MAX: usize = 60;
const PERMISSIONS: [&str; 6] =
    ["contacts.read", "contacts.write", "orders.read", "orders.write", "site.publish", "members.read"];
const LOCALES: [&str; 5] = ["en", "de", "fr", "ja", "pt"];

/// An element of `installed_apps`, named as the platform names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct App {
    pub(crate) app_def_id: String,
    pub(crate) instance_id: String,
    pub(crate) version: String,
    pub(crate) status: &'static str,
    pub(crate) installed_at: String,
    pub(crate) permissions: Vec<&'static str>,
}

/// A site as the source has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) site_id: String,
    pub(crate) owner_id: String,
    pub(crate) version: i64,
    pub(crate) name: String,
    pub(crate) locale: &'static str,
    pub(crate) apps: Vec<App>,
}

impl Site {
    /// The site of this number, with the apps of its beginning.
    pub(crate) fn new(number: u64) -> Self {
        let mut random = StdRng::seed_from_u64(number);
        // Most sites have few apps and some have very many: a long tail from 1 to the most.
        let apps = 60f64.powf(random.random::<f64>().powf(1.6)).round() as usize;
        let mut site = Self {
            site_id: uuid("site", number),
            owner_id: uuid("owner", number / 3),
            version: 1,
            name: format!("Site {number}"),
            locale: LOCALES[random.random_range(0..LOCALES.len())],
            apps: Vec::new(),
        };
        (0..apps.clamp(1, SITE_APPS_MAX)).for_each(|_| site.install(&mut random));
        site
    }

    /// Installs one app that is not there yet, popular ones more likely. A site that is full stays as it is.
    pub(crate) fn install(&mut self, random: &mut StdRng) {
        if self.apps.len() >= SITE_APPS_MAX {
            return;
        }
        let id = loop {
            let id = app_id(zipf(random));
            if self.apps.iter().all(|app| app.app_def_id != id) {
                break id;
            }
        };
        let permissions = PERMISSIONS.iter().copied().filter(|_| random.random_bool(0.4)).collect();
        let instance = random.random::<u64>();
        let (month, day, hour) = (random.random_range(1..=12), random.random_range(1..=28), random.random_range(0..24));
        self.apps.push(App {
            instance_id: uuid(&self.site_id, instance),
            app_def_id: id,
            version: format!("1.{}.0", random.random_range(0..20)),
            status: if random.random_bool(0.95) { "INSTALLED" } else { "PAUSED" },
            installed_at: format!("2025-{month:02}-{day:02}T{hour:02}:00:00Z"),
            permissions,
        });
    }

    /// Takes one app off; a site with one app keeps it.
    pub(crate) fn uninstall(&mut self, random: &mut StdRng) {
        if self.apps.len() > 1 {
            self.apps.remove(random.random_range(0..self.apps.len()));
        }
    }

    /// Gives one app a newer version.
    pub(crate) fn upgrade(&mut self, random: &mut StdRng) {
        let number = random.random_range(0..self.apps.len());
        self.apps[number].version = format!("2.{}.{}", self.version, random.random_range(0..10));
    }

    /// The column `installed_apps`.
    pub(crate) fn apps_json(&self) -> String {
        serde_json::to_string(&self.apps).expect("texts always serialise")
    }
}

/// The id of the app of this rank; 0 is the most popular.
pub(crate) fn app_id(rank: usize) -> String {
    uuid("app", rank as u64)
}

/// A rank with probability proportional to `1 / (rank + 1)`.
fn zipf(random: &mut StdRng) -> usize {
    // The inverse of the integral of 1/x: close enough to the sum for 200 apps.
    let rank = (APPS as f64 + 1.0).powf(random.random::<f64>()) - 1.0;
    (rank as usize).min(APPS - 1)
}

/// A well-formed uuid (version 8, by hash) that follows from a kind and a number.
fn uuid(kind: &str, number: u64) -> String {
    let hash = sha256(format!("{kind}/{number}").as_bytes());
    format!("{}-{}-8{}-a{}-{}", &hash[..8], &hash[8..12], &hash[13..16], &hash[17..20], &hash[20..32])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn sites_follow_from_their_number_and_are_spread_from_1_to_60_apps() {
        assert_eq!(Site::new(7), Site::new(7));
        let counts: Vec<usize> = (0..2000).map(|number| Site::new(number).apps.len()).collect();
        assert_eq!((counts.iter().min(), counts.iter().max()), (Some(&1), Some(&60)));
        let mean = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
        assert!((5.0..15.0).contains(&mean), "{mean}");
        let ids: BTreeSet<String> = (0..2000).map(|number| Site::new(number).site_id).collect();
        assert_eq!(ids.len(), 2000);
    }

    #[test]
    fn popular_apps_are_on_more_sites() {
        let on =
            |rank| (0..500).filter(|n| Site::new(*n).apps.iter().any(|app| app.app_def_id == app_id(rank))).count();
        assert!(on(0) > 2 * on(20) && on(20) > on(199), "{} {} {}", on(0), on(20), on(199));
    }

    #[test]
    fn changes_keep_the_bounds_and_touch_one_app() {
        let (mut site, mut random) = (Site::new(3), StdRng::seed_from_u64(1));
        (0..100).for_each(|_| site.install(&mut random));
        let ids: BTreeSet<_> = site.apps.iter().map(|app| &app.app_def_id).collect();
        assert_eq!((site.apps.len(), ids.len()), (SITE_APPS_MAX, SITE_APPS_MAX));
        let before = site.clone();
        site.upgrade(&mut random);
        assert_eq!(site.apps.iter().zip(&before.apps).filter(|(new, old)| new != old).count(), 1);
        (0..100).for_each(|_| site.uninstall(&mut random));
        assert_eq!(site.apps.len(), 1);
    }

    #[test]
    fn an_app_is_written_as_the_platform_names_it() {
        let json: serde_json::Value = serde_json::from_str(&Site::new(1).apps_json()).unwrap();
        let names: Vec<&String> = json[0].as_object().unwrap().keys().collect();
        assert_eq!(names, ["appDefId", "installedAt", "instanceId", "permissions", "status", "version"]);
        assert_eq!(json[0]["instanceId"].as_str().unwrap().len(), 36);
    }
}
