//! The way of a batch: decode → fold → plan → store. The one place that knows all stages.
//!
//! Duties: records of a partition take effect in offset order, each once, each with one outcome; the position moves with
//! them, in their transaction. A record that cannot be applied is a dead letter, delivered while no transaction is open and
//! before the position moves past it; where it may not or cannot be one, its partition is cut: what precedes the record is
//! stored, it and what follows are not.

mod bisection;
mod judge;
mod prepared;

use std::collections::{BTreeMap, HashMap};

use shared::{envelope::SchemaHead, ids::SiteId};

pub use bisection::Refused;
pub use judge::{Brakes, Judgement, Rules, Stop, Verdict, Verdicts};
use judge::{Cut, judge};
use prepared::Decoded;
pub use prepared::Prepared;

use crate::{
    batch::{Batch, Part},
    decode::{Limits, decode},
    ends::Samples,
    error::StoreError,
    fold::{Along, Entry, Sites, keys_along},
    plan::{documents_needed, plan},
    projection::Projection,
    rejection::Rejection,
    store::{Blocked, BlockedState, NextPosition, Store, Transaction},
    trace::{Stage, Stages},
};

/// What an attempt came to.
#[derive(Debug)]
pub enum Attempt {
    /// What was attempted is stored.
    Stored(Stored),
    /// Nothing is: these records, (partition, offset, why), must be delivered as dead letters first.
    Undelivered(Vec<(i32, i64, Rejection)>),
}

/// What was stored.
#[derive(Debug)]
pub struct Stored {
    /// What became of the records.
    pub judgement: Judgement,
    /// The positions as they stand now.
    pub positions: Vec<NextPosition>,
}

/// Decodes a batch. Pure.
pub fn prepare(batch: Batch, projection: &Projection, limits: Limits) -> Prepared {
    let mut head = SchemaHead::default();
    Prepared::new(batch, |batch, index| decode(&batch.raw(&batch.records[index]), projection, limits, &mut head))
}

/// Stores what [`Prepared`] has for the next attempt, in one transaction. On error nothing of it is stored (or, when the
/// connection died in the commit, all of it; the next attempt finds out by the position).
pub async fn store(
    store: &mut Store,
    prepared: &Prepared,
    samples: &Samples,
    rules: Rules<'_>,
    stages: &Stages,
) -> Result<Attempt, StoreError> {
    let mut transaction = store.begin().await?;
    let reached = lock(&mut transaction, prepared.parts()).await?;
    let records = prepared.attempted_from(&reached);
    let mut sites = load(&mut transaction, &records).await?;
    let source_epochs = prepared.parts().iter().map(|part| (part.tenure.partition, part.tenure.source_epoch)).collect();
    let judgement = judge(&mut sites, records.into_iter(), &source_epochs, rules);
    if !judgement.undelivered.is_empty() {
        transaction.rollback().await?;
        return Ok(Attempt::Undelivered(judgement.undelivered));
    }
    stages.done(Stage::Fold);
    let documents = transaction.documents(&documents_needed(&sites)).await?;
    transaction.write(&plan(&sites, &documents)).await?;
    let positions = next_positions(prepared, &reached, &judgement.cuts, samples);
    transaction.advance(&positions).await?;
    stages.done(Stage::Store);
    transaction.commit().await?;
    stages.done(Stage::Commit);
    Ok(Attempt::Stored(Stored { judgement, positions }))
}

/// Locks the positions; a stored one behind the batch means that somebody has moved it.
async fn lock(transaction: &mut Transaction<'_>, parts: &[Part]) -> Result<HashMap<i32, i64>, StoreError> {
    let tenures: Vec<_> = parts.iter().map(|part| part.tenure.clone()).collect();
    let reached = transaction.lock_positions(&tenures).await?;
    let moved_back = |part: &&Part| reached[&part.tenure.partition] < part.from_offset;
    let moved_back: Vec<i32> = parts.iter().filter(moved_back).map(|part| part.tenure.partition).collect();
    match moved_back.is_empty() {
        true => Ok(reached),
        // A replica without the last transactions was promoted, or an operator set the position.
        false => Err(StoreError::ClaimsOver(moved_back)),
    }
}

async fn load(transaction: &mut Transaction<'_>, records: &[&Decoded]) -> Result<Sites, StoreError> {
    let events = records.iter().filter_map(|record| record.event.as_ref().ok()?.as_ref());
    let mut wanted: HashMap<&SiteId, Along> = HashMap::new();
    for (key, along) in events.flat_map(keys_along) {
        // Of several events of a key the last decides that says anything of its apps.
        let known = wanted.entry(key).or_insert(along);
        if along != Along::Nothing {
            *known = along;
        }
    }
    if wanted.is_empty() {
        return Ok(Sites::new());
    }
    let wanted: Vec<_> = wanted.into_iter().collect();
    let mut stored = transaction.sites(&wanted).await?;
    let entry = |(site_id, _): (&SiteId, Along)| (site_id.clone(), Entry::new(stored.remove(site_id)));
    Ok(wanted.into_iter().map(entry).collect())
}

fn next_positions(
    prepared: &Prepared,
    reached: &HashMap<i32, i64>,
    cuts: &BTreeMap<i32, Cut>,
    samples: &Samples,
) -> Vec<NextPosition> {
    let next_offsets = prepared.next_offsets();
    let next = |part: &Part| {
        let partition = part.tenure.partition;
        let cut = cuts.get(&partition);
        let next_offset = cut.map_or(next_offsets[&partition], |cut| cut.offset).max(reached[&partition]);
        NextPosition {
            tenure: part.tenure.clone(),
            next_offset,
            as_of: samples.as_of(partition, next_offset),
            blocked: cut.and_then(blocked),
        }
    };
    prepared.parts().iter().map(next).collect()
}

/// How a partition that stops here is seen to stand.
fn blocked(cut: &Cut) -> Option<Blocked> {
    let (state, reason) = match &cut.why {
        Stop::Rejected(rejection) => (BlockedState::Blocked, rejection.to_string()),
        Stop::Braked(tripped, rejection) => (BlockedState::Braked, format!("{tripped}; the next one is {rejection}")),
        Stop::AwaitsDeadLetter(why) => (BlockedState::Blocked, why.clone()),
        Stop::AwaitsOldKey(_) => return None,
    };
    Some(Blocked { state, offset: cut.offset, reason })
}
