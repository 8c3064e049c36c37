//! What becomes of each record of an attempt: its one outcome, or the end of its partition. Pure.
//!
//! A rejected record changes no state, so the records behind it are folded as if it were not there, whether its dead letter
//! is delivered already or not. One attempt therefore finds all rejections of a batch.

use std::collections::{BTreeMap, HashMap, HashSet};

use messaging::brake::{Brake, BrakeLimits, Tripped};
use shared::ids::SiteId;

use super::prepared::Decoded;
use crate::{
    fold::{Place, Sites, Undecided, fold},
    observe::RecordOutcome,
    projection::OnTruncate,
    rejection::{Reason, Rejection},
};

/// Where a partition stops within a batch, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The record that is not applied; the position stays at it.
    pub offset: i64,
    /// Why not.
    pub why: Stop,
}

/// Why a partition stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The record cannot be projected, and the policy says that it may not be left out either.
    Rejected(Rejection),
    /// The record cannot be projected, and would be one dead letter too many.
    Braked(Tripped, Rejection),
    /// The record cannot be projected, and its dead letter cannot be written.
    AwaitsDeadLetter(String),
    /// The record is the create of a key change and leaves out its apps; the delete of this key is still to come.
    AwaitsOldKey(SiteId),
}

/// Records found to be dead letters, by (partition, offset), until the position has passed them. What stands here stays a dead
/// letter in every later attempt, whatever the fold would say by then.
pub type Verdicts = BTreeMap<(i32, i64), Verdict>;

/// Why a record is a dead letter, and whether it is one already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Why.
    pub rejection: Rejection,
    /// Whether the dead-letter topic has it.
    pub delivered: bool,
}

/// The brakes of partitions, as they stand at their positions.
pub type Brakes = HashMap<i32, Brake>;

/// What the records of an attempt are judged by.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Creates of key changes that have waited long enough for the old key's delete, as (partition, offset).
    pub waited_enough: &'a HashSet<(i32, i64)>,
    /// What a truncate does.
    pub on_truncate: OnTruncate,
    /// What is known from earlier attempts.
    pub verdicts: &'a Verdicts,
    /// Partitions whose dead letters cannot be written now, and why.
    pub unwritable: &'a HashMap<i32, String>,
    /// Before the attempt.
    pub brakes: &'a Brakes,
    /// When a partition is stopped.
    pub brake_limits: BrakeLimits,
}

/// What an attempt comes to, if its transaction commits.
#[derive(Debug, Default)]
pub struct Judgement {
    /// Records by partition and outcome.
    pub outcomes: BTreeMap<(i32, RecordOutcome), u64>,
    /// The dead letters among them, as (partition, offset, reason).
    pub dead_letters: Vec<(i32, i64, Reason)>,
    /// Records whose dead letters must be delivered first, as (partition, offset, why).
    pub undelivered: Vec<(i32, i64, Rejection)>,
    /// Partitions that stop here.
    pub cuts: BTreeMap<i32, Cut>,
    /// When the source committed what this attempt holds, in milliseconds since the Unix epoch.
    pub committed_at_ms: Vec<i64>,
    /// The brakes afterwards.
    pub brakes: Brakes,
}

/// Judges the records in their order. `place` gives where each takes effect.
pub(super) fn judge<'r>(
    sites: &mut Sites,
    records: impl Iterator<Item = &'r Decoded>,
    source_epochs: &HashMap<i32, i32>,
    rules: Rules<'_>,
) -> Judgement {
    let brake = |partition: &i32| rules.brakes.get(partition).cloned().unwrap_or(Brake::new(rules.brake_limits));
    let brakes = source_epochs.keys().map(|partition| (*partition, brake(partition))).collect();
    let mut judgement = Judgement { brakes, ..Judgement::default() };
    for record in records {
        if judgement.cuts.contains_key(&record.partition) {
            continue;
        }
        let place = Place {
            partition: record.partition,
            offset: record.offset,
            source_epoch: source_epochs[&record.partition],
        };
        let stop = match apply(sites, record, place, rules) {
            Ok(outcome) => {
                judgement.pass(record, outcome);
                continue;
            }
            Err(Stop::Rejected(rejection)) => judgement.reject(record, rejection, rules),
            Err(stop) => Some(stop),
        };
        if let Some(why) = stop {
            judgement.cuts.insert(record.partition, Cut { offset: record.offset, why });
        }
    }
    judgement
}

fn apply(sites: &mut Sites, record: &Decoded, place: Place, rules: Rules<'_>) -> Result<RecordOutcome, Stop> {
    let key = (record.partition, record.offset);
    if let Some(verdict) = rules.verdicts.get(&key) {
        return Err(Stop::Rejected(verdict.rejection.clone()));
    }
    match &record.event {
        Err(rejection) => Err(Stop::Rejected(rejection.clone())),
        Ok(None) => Ok(RecordOutcome::Skipped),
        Ok(Some(event)) => match fold(sites, event, place) {
            Ok(outcome) => Ok(outcome.into()),
            Err(Undecided::AwaitsOldKey(old_key)) if !rules.waited_enough.contains(&key) => {
                Err(Stop::AwaitsOldKey(old_key))
            }
            Err(Undecided::AwaitsOldKey(_) | Undecided::IncompleteRow) => {
                let detail = "the record leaves out the apps, and the view does not have them".to_owned();
                Err(Stop::Rejected(Rejection::new(Reason::IncompleteRow, detail)))
            }
        },
    }
}

impl Judgement {
    fn pass(&mut self, record: &Decoded, outcome: RecordOutcome) {
        if let Ok(Some(event)) = &record.event {
            self.committed_at_ms.extend(event.committed_at_ms);
        }
        *self.outcomes.entry((record.partition, outcome)).or_default() += 1;
        self.brake(record.partition).pass();
    }

    /// Makes a record a dead letter, or says why the partition stops at it.
    fn reject(&mut self, record: &Decoded, rejection: Rejection, rules: Rules<'_>) -> Option<Stop> {
        let Decoded { partition, offset, .. } = *record;
        let is_truncate = rejection.reason == Reason::Truncate;
        let delivered = rules.verdicts.get(&(partition, offset)).is_some_and(|verdict| verdict.delivered);
        match delivered {
            // A truncate says nothing about a bad deployment.
            _ if is_truncate && rules.on_truncate == OnTruncate::Block => return Some(Stop::Rejected(rejection)),
            _ if is_truncate => {}
            true => self.brake(partition).count(),
            false => {
                if let Err(tripped) = self.brake(partition).admit() {
                    return Some(Stop::Braked(tripped, rejection));
                }
            }
        }
        if delivered {
            *self.outcomes.entry((partition, RecordOutcome::DeadLettered)).or_default() += 1;
            self.dead_letters.push((partition, offset, rejection.reason));
            return None;
        }
        if let Some(why) = rules.unwritable.get(&partition) {
            return Some(Stop::AwaitsDeadLetter(why.clone()));
        }
        self.undelivered.push((partition, offset, rejection));
        None
    }

    fn brake(&mut self, partition: i32) -> &mut Brake {
        self.brakes.get_mut(&partition).expect("each partition of the attempt has one")
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
