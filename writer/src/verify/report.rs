//! What a verification came to, for people and for programs.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{Verification, scan::Scanned, settle::Candidate};

/// Differences that a report lists; the others are counted.
const LISTED_MAX: usize = 1000;

/// The answer of `writer verify --json`.
#[derive(Debug, Serialize)]
pub struct Report {
    generation: i32,
    topic: String,
    source_table: String,
    /// Whether view and source agree now.
    agree: bool,
    /// Whether all rows were compared; not when too many differ.
    complete: bool,
    /// Sites that the source or the view has.
    compared: u64,
    equal: u64,
    missing: u64,
    only_in_view: u64,
    different: u64,
    rejected: u64,
    /// Differences that were over when they were looked at again.
    passing: u64,
    /// What was repaired; the counts above are from after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    repair: Option<Repaired>,
    differences: Vec<Line>,
    /// Differences that are not listed.
    differences_left_out: usize,
    duration_seconds: f64,
}

/// What a repair has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// Sites that differed before.
    pub found: u64,
    /// Sites that only the view had, and that were deleted there.
    pub removed: u64,
    /// Sites whose rows were damaged, and put right.
    pub restored: u64,
    /// Sites that Debezium was asked for.
    pub asked: u64,
}

#[derive(Debug, Serialize)]
struct Line {
    site_id: String,
    kind: &'static str,
    detail: String,
    /// Whether the view has certainly passed all that the source had told.
    proven: bool,
    reason: String,
}

impl Report {
    pub(super) fn new(verification: &Verification<'_>, scanned: &Scanned) -> Self {
        Self {
            generation: verification.generation,
            topic: verification.config.topic.clone(),
            source_table: verification.settings.source_table.to_string(),
            agree: false,
            complete: scanned.complete,
            compared: scanned.compared,
            equal: 0,
            missing: 0,
            only_in_view: 0,
            different: 0,
            rejected: 0,
            passing: scanned.candidates.len() as u64,
            repair: None,
            differences: Vec::new(),
            differences_left_out: 0,
            duration_seconds: 0.0,
        }
    }

    /// The differences that have been looked at again.
    pub fn found(&mut self, differing: &[Candidate]) {
        self.passing -= differing.len() as u64;
    }

    /// What was done about them.
    pub fn repaired(&mut self, repaired: Repaired) {
        self.repair = Some(repaired);
    }

    /// The differences that there are in the end.
    pub fn left(&mut self, differing: &[Candidate], duration: Duration) {
        let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
        differing.iter().for_each(|candidate| *kinds.entry(candidate.difference.kind()).or_default() += 1);
        let count = |kind: &str| kinds.get(kind).copied().unwrap_or(0);
        self.missing = count("missing");
        self.only_in_view = count("only-in-view");
        self.different = count("different");
        self.rejected = count("rejected");
        self.equal = self.compared.saturating_sub(differing.len() as u64);
        self.agree = differing.is_empty() && self.complete;
        self.differences = differing.iter().take(LISTED_MAX).map(line).collect();
        self.differences_left_out = differing.len() - self.differences.len();
        self.duration_seconds = duration.as_secs_f64();
    }

    /// Whether view and source agree.
    pub fn agrees(&self) -> bool {
        self.agree
    }

    /// Prints it.
    #[expect(clippy::print_stdout, reason = "a verb answers on standard output")]
    pub fn print(&self, json: bool) -> anyhow::Result<()> {
        match json {
            true => println!("{}", serde_json::to_string(self)?),
            false => print!("{}", self.text()),
        }
        Ok(())
    }

    fn text(&self) -> String {
        let Self { compared, equal, missing, only_in_view, different, rejected, passing, .. } = self;
        let mut text = format!("generation {} against {}\n", self.generation, self.source_table);
        let mut row = |name: &str, count: u64| text.push_str(&format!("{name:<14} {count:>12}\n"));
        row("compared", *compared);
        row("equal", *equal);
        row("missing", *missing);
        row("only in view", *only_in_view);
        row("different", *different);
        row("rejected", *rejected);
        row("passing", *passing);
        if let Some(repaired) = self.repair {
            row("found", repaired.found);
            row("removed", repaired.removed);
            row("restored", repaired.restored);
            row("asked for", repaired.asked);
        }
        for Line { site_id, kind, detail, reason, .. } in &self.differences {
            text.push_str(&format!("{kind:<13} {site_id}: {detail}; {reason}\n"));
        }
        if self.differences_left_out > 0 {
            text.push_str(&format!("and {} more\n", self.differences_left_out));
        }
        let verdict = match (self.agree, self.complete) {
            (true, _) => "view and source agree",
            (false, true) => "view and source differ",
            (false, false) => "view and source differ in so many sites that not all were compared; build the view anew",
        };
        text.push_str(&format!("{verdict} ({:.1} s)\n", self.duration_seconds));
        text
    }
}

fn line(candidate: &Candidate) -> Line {
    Line {
        site_id: candidate.site_id.clone(),
        kind: candidate.difference.kind(),
        detail: candidate.difference.detail(),
        proven: candidate.proven,
        reason: candidate.reason.clone(),
    }
}
