//! Differences between what was found and what was expected, and the refusal to call such a run a result.

use std::fmt;

use anyhow::{Result, bail, ensure};
use xxhash_rust::xxh3::xxh3_128;

/// Differences that a refusal quotes.
const QUOTED_MAX: usize = 5;
/// How far the achieved rate of an open loop may be from the one asked for; beyond it the run is void.
const RATE_TOLERANCE: f64 = 0.005;

/// Differences, of which the first few are kept.
#[derive(Debug, Default)]
pub struct Differences {
    quoted: Vec<String>,
    count: usize,
}

impl Differences {
    /// Notes one.
    pub fn note(&mut self, line: String) {
        self.count += 1;
        if self.quoted.len() < QUOTED_MAX {
            self.quoted.push(line);
        }
    }

    /// The first few as lines, and how many more there are.
    pub fn into_lines(mut self) -> Vec<String> {
        if self.count > self.quoted.len() {
            self.quoted.push(format!("and {} more", self.count - self.quoted.len()));
        }
        self.quoted
    }
}

/// Passes only when the end state is the expected one: speed at which something else was done is no result.
pub fn refuse_void(who: &str, differences: &[String]) -> Result<()> {
    if differences.is_empty() {
        return Ok(());
    }
    bail!("the run of {who} is void, its end state is not the table's:\n  {}", differences.join("\n  "))
}

/// Passes only when the schedule was kept: what a slower stream met is no result of the one asked for.
pub fn refuse_rate(asked: f64, achieved: f64) -> Result<()> {
    let off = (achieved - asked).abs() / asked;
    ensure!(off <= RATE_TOLERANCE, "the run is void: {achieved:.1} a second were sent, {asked} were asked for");
    Ok(())
}

/// A set of rows by count and an order-free sum of hashes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Digest {
    rows: u64,
    sum: u128,
}

impl Digest {
    /// Adds a row.
    pub fn add(&mut self, row: &[&str]) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(xxh3_128(row.join("\u{1}").as_bytes()));
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rows (digest {:032x})", self.rows, self.sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_with_one_difference_is_refused_and_quotes_it() {
        assert!(refuse_void("writer", &Differences::default().into_lines()).is_ok());
        let mut found = Differences::default();
        (0..9).for_each(|n| found.note(format!("site {n} is missing")));
        let refusal = refuse_void("writer", &found.into_lines()).unwrap_err().to_string();
        assert!(refusal.contains("void") && refusal.contains("site 0") && refusal.contains("and 4 more"), "{refusal}");
    }

    #[test]
    fn a_rate_that_was_missed_makes_the_run_void() {
        assert!(refuse_rate(500.0, 498.0).is_ok() && refuse_rate(500.0, 502.0).is_ok());
        for achieved in [497.0, 503.0, 0.0] {
            let refusal = refuse_rate(500.0, achieved).unwrap_err().to_string();
            assert!(refusal.contains("void"), "{refusal}");
        }
    }

    #[test]
    fn a_digest_knows_rows_and_not_their_order() {
        let digest = |rows: &[[&str; 2]]| {
            let mut digest = Digest::default();
            rows.iter().for_each(|row| digest.add(row));
            digest
        };
        assert_eq!(digest(&[["a", "b"], ["c", "d"]]), digest(&[["c", "d"], ["a", "b"]]));
        for other in
            [&[["a", "b"]][..], &[["a", "b"], ["c", "e"]], &[["a", "b"], ["a", "b"]], &[["ab", ""], ["c", "d"]]]
        {
            assert_ne!(digest(&[["a", "b"], ["c", "d"]]), digest(other));
        }
    }
}
