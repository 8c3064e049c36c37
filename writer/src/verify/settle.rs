//! The second pass: sites that seemed to differ are looked at again until the difference is explained, or proven.
//!
//! A round: where the source's log ends now; until the slots have confirmed that (or the pause is over); the ends of the
//! topic; until the view has passed them; then the view's rows and the source's rows once more. A difference is over when
//! the view holds what the source said at any look, or when a record behind those ends has written the row meanwhile: the
//! topic is alive for that site, and its rows are whole.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    Said, Verification,
    compare::{Difference, compare},
};
use crate::{
    position::Topic,
    store::{PositionRow, SiteSeen},
};

/// First and longest pause between two rounds; each is twice as long as the one before.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A site that seems to differ.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The site.
    pub site_id: String,
    /// How, at the last look.
    pub difference: Difference,
    /// Whether the view has certainly passed everything that the source had told when it was looked at.
    pub proven: bool,
    /// Why the difference counts.
    pub reason: String,
    /// Apps that the source had at some look, the newest last; `None` where the site did not exist.
    said: Vec<Option<u128>>,
}

/// How long differences are looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Until each is over or proven.
    UntilProven,
    /// As long as it may take: a repair is on its way that no position tells of.
    ToTheEnd,
}

impl Candidate {
    /// A difference as it was seen for the first time.
    pub fn new(site_id: String, difference: Difference, said: &Said) -> Self {
        let mut candidate =
            Self { site_id, difference, proven: false, reason: String::new(), said: Vec::with_capacity(2) };
        candidate.remember(said);
        candidate
    }

    /// Keeps what the source said, the newest last; gives whether it says the same as at the look before.
    fn remember(&mut self, said: &Said) -> bool {
        let apps = match said {
            Said::Site(apps, _) => Some(apps.hash),
            Said::Nothing => None,
            Said::Rejected(_) => return true,
        };
        let unchanged = self.said.last() == Some(&apps);
        self.said.retain(|earlier| *earlier != apps);
        self.said.push(apps);
        unchanged
    }

    /// Looks again; gives whether a difference remains.
    fn look(&mut self, said: &Said, seen: Option<&SiteSeen>, round: &Round) -> bool {
        let Some(difference) = compare(said, seen) else { return false };
        let is_rejected = matches!(difference, Difference::Rejected(_));
        if !is_rejected && (self.was_said(seen) || round.is_passed_by(seen)) {
            return false;
        }
        self.difference = difference;
        // A site that has changed since the look before may be seen between two of its changes.
        self.proven = self.remember(said) && round.proves;
        true
    }

    /// Whether the view holds what the source said at an earlier look.
    fn was_said(&self, seen: Option<&SiteSeen>) -> bool {
        self.said.iter().any(|apps| match (apps, seen.filter(|seen| seen.alive)) {
            (None, None) => true,
            (Some(hash), Some(seen)) => {
                !super::compare::is_damaged(seen) && crate::apps::hash_of_etag(&seen.etag) == Some(*hash)
            }
            _ => false,
        })
    }
}

/// What is known when the rows are looked at again.
#[derive(Debug, Default)]
struct Round {
    /// The view contains everything that the source had told at the look before.
    proves: bool,
    /// Ends of the topic after that look; empty when they are not known.
    ends: BTreeMap<i32, i64>,
}

impl Round {
    /// Whether a record behind the ends has written this row. Such a record told the whole row, as an intact one holds it.
    fn is_passed_by(&self, seen: Option<&SiteSeen>) -> bool {
        seen.is_some_and(|seen| {
            self.ends.get(&seen.partition).is_some_and(|end| seen.offset >= *end)
                && !(seen.alive && super::compare::is_damaged(seen))
        })
    }
}

impl Verification<'_> {
    /// Looks again until each difference is explained or proven, or `--settle-max` is over. Gives those that remain, with
    /// the reason why each counts.
    pub(super) async fn settle(
        &mut self,
        mut candidates: Vec<Candidate>,
        patience: Patience,
    ) -> anyhow::Result<Vec<Candidate>> {
        let (started, mut pause) = (Instant::now(), PAUSE.0);
        let deadline = started + self.settings.settle_max;
        while !candidates.is_empty() {
            let (confirmed, round_deadline) = (self.confirmed(pause, deadline).await?, deadline.max(Instant::now()));
            let (reached, ends) = self.reached(round_deadline).await?;
            let round = Round { proves: confirmed && reached, ends };
            candidates = self.look_again(candidates, &round).await?;
            let is_over = patience == Patience::UntilProven && candidates.iter().all(|candidate| candidate.proven);
            if is_over || Instant::now() >= deadline {
                let why = why(&round, confirmed, reached, started.elapsed());
                candidates.iter_mut().for_each(|candidate| candidate.reason.clone_from(&why));
                break;
            }
            if !candidates.is_empty() {
                tracing::info!(sites = candidates.len(), elapsed = ?started.elapsed(), "sites still differ; looking again");
            }
            pause = (pause * 2).min(PAUSE.1);
        }
        Ok(candidates)
    }

    /// Waits until the slots have confirmed the source's log as it ends now, for the pause at least when they do not.
    async fn confirmed(&mut self, pause: Duration, deadline: Instant) -> anyhow::Result<bool> {
        let (end, until) = (self.source.log_end().await?, (Instant::now() + pause).min(deadline));
        // On an idle source the slots stand short of the end, behind which Postgres writes records of its own; a signal's
        // commit is behind it too, and Debezium sees that one.
        if let Some(signals) = &mut self.signals {
            signals.note("the view is being compared with its source").await?;
        }
        loop {
            if self.source.has_confirmed(&end).await? {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until the view has passed the ends of the topic as they are now, and gives them.
    async fn reached(&mut self, deadline: Instant) -> anyhow::Result<(bool, BTreeMap<i32, i64>)> {
        let ends = Topic::ask(self.config).await?.ends;
        let known = ends.values().all(Option::is_some);
        let ends: BTreeMap<i32, i64> =
            ends.into_iter().filter_map(|(partition, ends)| Some((partition, ends?.high))).collect();
        loop {
            let rows = PositionRow::all(&mut self.view, &self.config.topic).await?;
            let positions: HashMap<i32, i64> = rows.into_iter().map(|row| (row.partition, row.next_offset)).collect();
            let has = |(partition, end): (&i32, &i64)| positions.get(partition).is_some_and(|position| position >= end);
            if known && ends.iter().all(has) {
                return Ok((true, ends));
            }
            if Instant::now() >= deadline {
                return Ok((false, ends));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// The view first, then the source: what the source has told since then is no difference of the view's.
    async fn look_again(&mut self, candidates: Vec<Candidate>, round: &Round) -> anyhow::Result<Vec<Candidate>> {
        let mut remaining = Vec::new();
        for chunk in candidates.chunks(self.settings.chunk_rows) {
            let keys: Vec<String> = chunk.iter().map(|candidate| candidate.site_id.clone()).collect();
            let seen = SiteSeen::of_keys(&mut self.view, &keys).await?;
            let seen: HashMap<&str, &SiteSeen> = seen.iter().map(|seen| (seen.site_id.as_str(), seen)).collect();
            let rows = self.source.rows_by_key(&keys).await?;
            for candidate in chunk {
                let mut candidate = candidate.clone();
                let said = rows.get(&candidate.site_id).map_or(Said::Nothing, |row| self.project(row));
                let seen = seen.get(candidate.site_id.as_str()).copied();
                if candidate.look(&said, seen, round) {
                    remaining.push(candidate);
                }
            }
        }
        Ok(remaining)
    }
}

fn why(round: &Round, confirmed: bool, reached: bool, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    match (round.proves, confirmed, reached) {
        (true, ..) => format!("still differs after {seconds:.1} s; the view has passed all that the source had told"),
        (_, _, false) => format!("still differs after {seconds:.1} s; the view has not reached the end of the topic"),
        (_, false, _) => format!(
            "still differs after {seconds:.1} s; no replication slot has confirmed the source's log, so its change may still be on its way"
        ),
        _ => format!("still differs after {seconds:.1} s"),
    }
}

#[cfg(test)]
#[path = "settle_tests.rs"]
mod tests;
