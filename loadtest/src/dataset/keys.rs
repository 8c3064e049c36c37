//! Which site the next update is of.

use clap::ValueEnum;
use rand::RngExt;
use rand::rngs::StdRng;
use serde::Serialize;

/// How updates are spread over the sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Keys {
    /// All sites alike: a batch hardly meets a site twice, which is the expensive case.
    Uniform,
    /// The n-th site with probability proportional to 1/n.
    Zipf,
}

/// Chooses sites by number.
#[derive(Debug)]
pub(super) struct Chooser {
    keys: Keys,
    sites: u64,
}

impl Chooser {
    pub(super) fn new(keys: Keys, sites: u64) -> Self {
        Self { keys, sites }
    }

    pub(super) fn choose(&self, random: &mut StdRng) -> usize {
        match self.keys {
            Keys::Uniform => random.random_range(0..self.sites) as usize,
            Keys::Zipf => zipf(self.sites, random) as usize,
        }
    }
}

/// A rank below `count` with probability proportional to about `1 / (rank + 1)`, by the inverse of the integral of 1/x.
pub fn zipf(count: u64, random: &mut StdRng) -> u64 {
    let rank = (count as f64 + 1.0).powf(random.random::<f64>()) - 1.0;
    (rank as u64).min(count - 1)
}
