//! Changes of the source's MetaSite table, as its owning service makes them: seeding, then a mixed life.

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_postgres::Client;

use crate::catalog::Site;

/// Rows of one seeding statement.
const SEED_ROWS: usize = 500;
/// Of a hundred changes: upgrades, installs, uninstalls, renames (which touch no app), deletes or inserts of sites.
const UPGRADES: u32 = 35;
const INSTALLS: u32 = 20;
const UNINSTALLS: u32 = 15;
const RENAMES: u32 = 20;

const INSERT: &str = "insert into meta_site (site_id, owner_id, version, name, display_url, published, premium, locale, \
    created_at, updated_at, installed_apps) \
    select site_id::uuid, owner_id::uuid, version, name, 'https://' || site_id || '.example', true, false, locale, now(), \
    now(), installed_apps::jsonb from unnest($1::text[], $2::text[], $3::int8[], $4::text[], $5::text[], $6::text[]) \
    as row (site_id, owner_id, version, name, locale, installed_apps)";
const UPDATE: &str = "update meta_site set version = $2, name = $3, installed_apps = $4::text::jsonb, updated_at = now() \
    where site_id = $1::text::uuid";
const DELETE: &str = "delete from meta_site where site_id = $1::text::uuid";

/// The source with a model of what is in it.
pub(crate) struct Source {
    client: Client,
    sites: Vec<Site>,
    /// Sites that were deleted and may come back.
    absent: Vec<Site>,
    random: StdRng,
}

/// A committed change by which the view's delay can be seen: the site's document has at least this version, or is gone.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    pub(crate) site_id: String,
    pub(crate) version: i64,
}

impl Source {
    /// A source whose table is empty.
    pub(crate) fn new(client: Client) -> Self {
        Self { client, sites: Vec::new(), absent: Vec::new(), random: StdRng::seed_from_u64(1) }
    }

    /// Inserts the sites numbered 0 up to `count`, telling how many are in after each statement.
    pub(crate) async fn seed(&mut self, count: usize, mut told: impl FnMut(usize)) -> Result<()> {
        while self.sites.len() < count {
            let next = self.sites.len()..count.min(self.sites.len() + SEED_ROWS);
            let sites: Vec<Site> = next.map(|number| Site::new(number as u64)).collect();
            self.insert(&sites).await?;
            self.sites.extend(sites);
            told(self.sites.len());
        }
        Ok(())
    }

    /// The site whose number is 0. It is never deleted, so that a printed address keeps answering.
    pub(crate) fn first(&self) -> &Site {
        &self.sites[0]
    }

    /// Makes one change and returns its trace, none for a change that touches no app.
    pub(crate) async fn change(&mut self) -> Result<Option<Trace>> {
        let (which, number) = (self.random.random_range(0..100), self.random.random_range(0..self.sites.len()));
        if which >= UPGRADES + INSTALLS + UNINSTALLS + RENAMES {
            return if self.absent.is_empty() { self.delete(number.max(1)).await } else { self.insert_again().await };
        }
        let site = &mut self.sites[number];
        let before = site.apps.clone();
        match which {
            _ if which < UPGRADES => site.upgrade(&mut self.random),
            _ if which < UPGRADES + INSTALLS => site.install(&mut self.random),
            _ if which < UPGRADES + INSTALLS + UNINSTALLS => site.uninstall(&mut self.random),
            _ => site.name = format!("Renamed {}", site.version),
        }
        site.version += 1;
        let (id, apps) = (&site.site_id, site.apps_json());
        self.client.execute(UPDATE, &[id, &site.version, &site.name, &apps]).await.context("source: update")?;
        Ok((site.apps != before).then(|| Trace { site_id: id.clone(), version: site.version }))
    }

    async fn delete(&mut self, number: usize) -> Result<Option<Trace>> {
        let site = self.sites.swap_remove(number);
        self.client.execute(DELETE, &[&site.site_id]).await.context("source: delete")?;
        self.absent.push(site);
        Ok(None)
    }

    async fn insert_again(&mut self) -> Result<Option<Trace>> {
        let Some(mut site) = self.absent.pop() else {
            return Ok(None);
        };
        site.version += 1;
        self.insert(std::slice::from_ref(&site)).await?;
        let trace = Trace { site_id: site.site_id.clone(), version: site.version };
        self.sites.push(site);
        Ok(Some(trace))
    }

    async fn insert(&self, sites: &[Site]) -> Result<()> {
        let texts = |text: fn(&Site) -> &str| sites.iter().map(text).collect::<Vec<_>>();
        let versions: Vec<i64> = sites.iter().map(|site| site.version).collect();
        let apps: Vec<String> = sites.iter().map(Site::apps_json).collect();
        let (ids, owners) = (texts(|site| &site.site_id), texts(|site| &site.owner_id));
        let (names, locales) = (texts(|site| &site.name), texts(|site| site.locale));
        let inserted = self.client.execute(INSERT, &[&ids, &owners, &versions, &names, &locales, &apps]).await;
        inserted.context("source: insert").map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::SITES_MIN;
    use crate::options::{Options, Part};
    use crate::postgres::client;
    use crate::stack::Devstack;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_fewest_sites_bear_every_change_and_the_first_stays() {
        let dir = tempfile::tempdir().unwrap();
        let stack = Devstack::start(Options::new([Part::Source], dir.path()).unwrap()).await.unwrap();
        let url = stack.endpoints().source_database_url.as_deref().unwrap();
        let (mut source, table) = (Source::new(client(url).await.unwrap()), client(url).await.unwrap());
        source.seed(SITES_MIN as usize, |_| {}).await.unwrap();
        let first = source.first().site_id.clone();
        let mut deletes = 0;
        for _ in 0..200 {
            source.change().await.unwrap();
            deletes += usize::from(!source.absent.is_empty());
            assert_eq!(source.first().site_id, first);
        }
        assert!(deletes > 0);
        let rows: i64 = table.query_one("select count(*) from meta_site", &[]).await.unwrap().get(0);
        assert_eq!(rows, source.sites.len() as i64);
    }
}
