//! What is asked for: the paths with their shares, and the draw of each request.

use std::fmt;
use std::str::FromStr;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Serialize, Serializer};

use crate::dataset::{APPS, Keys, zipf};

/// A path of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// The apps of a site.
    Site,
    /// The apps of many sites.
    Batch,
    /// The first page of the sites that have an app.
    Sites,
    /// How many sites have an app.
    Count,
    /// Where an instance is.
    Instance,
}

impl Path {
    /// All of them; the order is that of a mix.
    pub const ALL: [Self; 5] = [Self::Site, Self::Batch, Self::Sites, Self::Count, Self::Instance];

    /// Its name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Batch => "batch",
            Self::Sites => "sites",
            Self::Count => "count",
            Self::Instance => "instance",
        }
    }
}

/// Shares of the paths in percent, together 100: `site=80,batch=5,count=15`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix([u8; Path::ALL.len()]);

impl Mix {
    /// Nothing but this path.
    pub fn is_only(self, path: Path) -> bool {
        self.0[path as usize] == 100
    }

    /// The path at this place of a hundred.
    fn at(self, mut place: u8) -> Path {
        for path in Path::ALL {
            match place.checked_sub(self.0[path as usize]) {
                Some(rest) => place = rest,
                None => return path,
            }
        }
        unreachable!("the shares are together 100 and a place is below it")
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut shares = [0; Path::ALL.len()];
        for pair in text.split(',') {
            let (name, share) = pair.split_once('=').ok_or("expected PATH=PERCENT,…, as in site=90,batch=10")?;
            let path = Path::ALL.into_iter().find(|path| path.name() == name);
            let path = path.ok_or_else(|| format!("`{name}` is none of site, batch, sites, count, instance"))?;
            shares[path as usize] = share.parse().map_err(|_| format!("`{share}` is no percentage"))?;
        }
        match shares.iter().map(|share| u32::from(*share)).sum() {
            100_u32 => Ok(Self(shares)),
            sum => Err(format!("the shares are together {sum} and not 100")),
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shares = Path::ALL.into_iter().zip(self.0).filter(|(_, share)| *share > 0);
        let pairs: Vec<String> = shares.map(|(path, share)| format!("{}={share}", path.name())).collect();
        f.write_str(&pairs.join(","))
    }
}

impl Serialize for Mix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One request, as numbers. A number behind the last site or app is of one that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    /// This site; with the tag of its document where the client is said to know it.
    Site { site: u64, knows_tag: bool },
    /// These sites.
    Batch(Vec<u64>),
    /// The sites of the app of this rank.
    Sites(u16),
    /// Their number.
    Count(u16),
    /// The instance at this place (modulo the number of them) of this site.
    Instance { site: u64, place: u8 },
}

impl Ask {
    pub(super) fn path(&self) -> Path {
        match self {
            Self::Site { .. } => Path::Site,
            Self::Batch(_) => Path::Batch,
            Self::Sites(_) => Path::Sites,
            Self::Count(_) => Path::Count,
            Self::Instance { .. } => Path::Instance,
        }
    }
}

/// What decides the requests.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Wanted {
    pub(super) mix: Mix,
    pub(super) keys: Keys,
    pub(super) sites: u64,
    /// Percent of the keys that name what is not there.
    pub(super) unknown_percent: u8,
    /// Percent of the look-ups of a site that know its tag.
    pub(super) tagged_percent: u8,
    /// Sites of a batch.
    pub(super) batch_sites: u16,
    pub(super) seed: u64,
}

/// Draws requests; the same seed draws the same ones.
#[derive(Debug)]
pub(super) struct Asks {
    wanted: Wanted,
    /// Scatters ranks over the table: popular sites would stand side by side in it otherwise, and share pages.
    stride: u64,
    random: StdRng,
}

impl Asks {
    pub(super) fn new(wanted: Wanted) -> Self {
        // About the golden section of the table, and the next number that has no divisor in common with its size.
        let from = (wanted.sites as f64 * 0.618) as u64;
        let stride = (from.max(1)..).find(|stride| divisor(*stride, wanted.sites) == 1).expect("1 + sites is one");
        Self { wanted, stride, random: StdRng::seed_from_u64(wanted.seed) }
    }

    pub(super) fn draw(&mut self) -> Ask {
        match self.wanted.mix.at(self.random.random_range(0..100)) {
            Path::Site => {
                let (site, knows_tag) = (self.site(), self.percent(self.wanted.tagged_percent));
                Ask::Site { site, knows_tag }
            }
            Path::Batch => Ask::Batch((0..self.wanted.batch_sites).map(|_| self.site()).collect()),
            Path::Sites => Ask::Sites(self.app()),
            Path::Count => Ask::Count(self.app()),
            Path::Instance => Ask::Instance { site: self.site(), place: self.random.random() },
        }
    }

    fn site(&mut self) -> u64 {
        let sites = self.wanted.sites;
        if self.percent(self.wanted.unknown_percent) {
            return sites + self.random.random_range(0..sites);
        }
        match self.wanted.keys {
            Keys::Uniform => self.random.random_range(0..sites),
            Keys::Zipf => {
                (u128::from(zipf(sites, &mut self.random)) * u128::from(self.stride) % u128::from(sites)) as u64
            }
        }
    }

    fn app(&mut self) -> u16 {
        let unknown = if self.percent(self.wanted.unknown_percent) { APPS } else { 0 };
        (unknown + zipf(APPS, &mut self.random)) as u16
    }

    fn percent(&mut self, percent: u8) -> bool {
        self.random.random_range(0..100) < percent
    }
}

/// The greatest common divisor.
fn divisor(one: u64, other: u64) -> u64 {
    if other == 0 { one } else { divisor(other, one % other) }
}

#[cfg(test)]
#[path = "mix/tests.rs"]
mod tests;
