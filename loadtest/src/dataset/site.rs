//! A site and its apps as numbers, and the changes that are made to them.

use rand::RngExt;
use rand::rngs::StdRng;

use super::keys::zipf;

/// Different apps, of Zipf popularity.
pub const APPS: u64 = 200;

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its id and all that never changes follow from it.
    pub number: u64,
    /// Raised by each change.
    pub version: i64,
    /// The version at which the apps last changed.
    pub apps_version: i64,
    /// In the order of installation, as in the array.
    pub apps: Vec<App>,
    /// Apps installed so far, also those that are gone.
    installations: u32,
}

/// An installed app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct App {
    /// Which app.
    pub rank: u16,
    /// Which of the site's installations.
    pub installation: u32,
    /// Raised by each upgrade.
    pub version: u32,
}

impl Site {
    /// A new site with `mean` apps, one or two more or less.
    pub(super) fn new(number: u64, mean: u16, random: &mut StdRng) -> Self {
        let mut site = Self { number, version: 1, apps_version: 1, apps: Vec::new(), installations: 0 };
        let spread = mean.saturating_sub(1).min(2);
        for _ in 0..random.random_range(mean - spread..=mean + spread) {
            site.install(random);
        }
        site
    }

    /// A change that touches no app.
    pub(super) fn rename(&mut self) {
        self.version += 1;
    }

    /// Upgrades an app (half of the time), installs or uninstalls one; the mean number of apps stays about `mean`.
    pub(super) fn change_apps(&mut self, mean: u16, random: &mut StdRng) {
        let chosen = random.random_range(0..self.apps.len().max(1));
        let (upgrade, fuller) = (random.random_ratio(1, 2), self.apps.len() > usize::from(mean));
        match upgrade {
            true if !self.apps.is_empty() => self.apps[chosen].version += 1,
            _ if fuller || (self.apps.len() == usize::from(mean) && mean > 1 && random.random_ratio(1, 2)) => {
                self.apps.remove(chosen);
            }
            _ => self.install(random),
        }
        self.version += 1;
        self.apps_version = self.version;
    }

    fn install(&mut self, random: &mut StdRng) {
        let rank = loop {
            let rank = zipf(APPS, random) as u16;
            if self.apps.iter().all(|app| app.rank != rank) {
                break rank;
            }
        };
        self.apps.push(App { rank, installation: self.installations, version: random.random_range(0..20) });
        self.installations += 1;
    }
}

impl App {
    /// The version as text.
    pub(super) fn version_text(self) -> String {
        format!("2.{}.0", self.version)
    }

    /// The status; a few are paused, which is installed.
    pub(super) fn status(self) -> &'static str {
        if self.installation % 19 == 7 { "PAUSED" } else { "INSTALLED" }
    }

    /// When it was installed, as text.
    pub(super) fn installed_at(self) -> String {
        format!("2024-{:02}-{:02}T10:00:00Z", 1 + self.rank % 12, 1 + self.installation % 28)
    }

    /// What it may do.
    pub(super) fn permissions(self) -> &'static [&'static str] {
        const ALL: [&str; 3] = ["SITE.READ", "CONTACTS.READ", "ORDERS.READ"];
        &ALL[..1 + usize::from(self.rank % 2)]
    }
}
