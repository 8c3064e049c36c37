//! The way of a batch: decode → fold → plan → store. The one place that knows all stages.
//!
//! Duties: records of a partition take effect in offset order, each once; the position moves with them, in their transaction.
//! A record that cannot be applied cuts its partition there: what precedes it is stored, it and what follows are not.

use std::collections::{BTreeMap, HashMap, HashSet};

use shared::ids::SiteId;

use crate::{
    batch::{Batch, Part},
    decode::{Event, Limits, decode},
    ends::Samples,
    error::StoreError,
    fold::{Entry, Place, Sites, Undecided, fold, keys},
    observe::RecordOutcome,
    plan::{documents_needed, plan},
    projection::Projection,
    rejection::{Reason, Rejection},
    store::{Blocked, BlockedState, NextPosition, Store, Transaction},
    trace::{Stage, Stages},
};

/// A decoded batch; attempts to store it leave it as it is.
#[derive(Debug)]
pub struct Prepared {
    events: Vec<(i32, i64, Option<Event>)>,
    parts: Vec<Part>,
    rejections: BTreeMap<i32, Cut>,
}

/// Where a partition stops within a batch, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The record that cannot be applied; the position stays at it.
    pub offset: i64,
    /// Why not.
    pub why: Stop,
}

/// Why a partition stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The record cannot be projected.
    Rejected(Rejection),
    /// The record is the create of a key change and leaves out its apps; the delete of this key is still to come.
    AwaitsOldKey(SiteId),
}

/// What a stored batch came to.
#[derive(Debug, Default)]
pub struct Stored {
    /// Records by partition and outcome.
    pub outcomes: BTreeMap<(i32, RecordOutcome), u64>,
    /// The positions as they stand now.
    pub positions: Vec<NextPosition>,
    /// Partitions that stop here.
    pub cuts: BTreeMap<i32, Cut>,
    /// When the source committed what this batch holds, in milliseconds since the Unix epoch.
    pub committed_at_ms: Vec<i64>,
}

/// What an attempt has to know beside the batch.
pub struct Context<'a> {
    /// Ends of the partitions at moments past, for `as_of`.
    pub samples: &'a Samples,
    /// Creates of key changes that have waited long enough for the old key's delete, as (partition, offset).
    pub waited_enough: &'a HashSet<(i32, i64)>,
    /// Where the times of the stages are noted.
    pub stages: &'a Stages,
}

/// Decodes a batch. Pure; the records behind a rejected one of their partition are not looked at.
pub fn prepare(batch: &Batch, projection: &Projection, limits: Limits) -> Prepared {
    let mut prepared = Prepared { events: Vec::new(), parts: batch.parts.clone(), rejections: BTreeMap::new() };
    for record in &batch.records {
        if prepared.rejections.contains_key(&record.partition) {
            continue;
        }
        match decode(&batch.raw(record), projection, limits) {
            Ok(event) => prepared.events.push((record.partition, record.offset, event)),
            Err(rejection) => {
                let cut = Cut { offset: record.offset, why: Stop::Rejected(rejection) };
                prepared.rejections.insert(record.partition, cut);
            }
        }
    }
    prepared
}

impl Prepared {
    /// Drops the partitions whose claim is over.
    pub fn drop_ended(&mut self) {
        self.parts.retain(|part| !part.tenure.has_ended());
        let live: HashSet<i32> = self.parts.iter().map(|part| part.tenure.partition).collect();
        self.events.retain(|(partition, ..)| live.contains(partition));
        self.rejections.retain(|partition, _| live.contains(partition));
    }

    /// Whether nothing is left to store.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Number of records.
    pub fn len_records(&self) -> usize {
        self.events.len()
    }

    /// The partitions of the batch.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }
}

/// Stores a batch in one transaction. On error nothing of it is stored (or, when the connection died in the commit, all of
/// it; the next attempt finds out by the position).
pub async fn store(store: &mut Store, prepared: &Prepared, context: &Context<'_>) -> Result<Stored, StoreError> {
    let mut transaction = store.begin().await?;
    let tenures: Vec<_> = prepared.parts.iter().map(|part| part.tenure.clone()).collect();
    let reached = transaction.lock_positions(&tenures).await?;
    let moved_back = |part: &&Part| reached[&part.tenure.partition] < part.from_offset;
    let moved_back: Vec<i32> = prepared.parts.iter().filter(moved_back).map(|part| part.tenure.partition).collect();
    if !moved_back.is_empty() {
        // A replica without the last transactions was promoted, or an operator set the position.
        return Err(StoreError::ClaimsOver(moved_back));
    }
    let events: Vec<_> =
        prepared.events.iter().filter(|(partition, offset, _)| *offset >= reached[partition]).collect();
    let mut sites = load(&mut transaction, &events).await?;
    let mut stored = fold_all(&mut sites, &events, prepared, &reached, context.waited_enough);
    context.stages.done(Stage::Fold);
    let needed = documents_needed(&sites);
    let documents = match needed.is_empty() {
        true => HashMap::new(),
        false => transaction.documents(&needed.iter().map(SiteId::as_str).collect::<Vec<_>>()).await?,
    };
    transaction.write(&plan(&sites, &documents)).await?;
    stored.positions = next_positions(prepared, &reached, &stored.cuts, context.samples);
    transaction.advance(&stored.positions).await?;
    context.stages.done(Stage::Store);
    transaction.commit().await?;
    context.stages.done(Stage::Commit);
    Ok(stored)
}

async fn load(transaction: &mut Transaction<'_>, events: &[&(i32, i64, Option<Event>)]) -> Result<Sites, StoreError> {
    let wanted: HashSet<&SiteId> = events.iter().filter_map(|(.., event)| event.as_ref()).flat_map(keys).collect();
    if wanted.is_empty() {
        return Ok(Sites::new());
    }
    let mut stored = transaction.sites(&wanted.iter().map(|site_id| site_id.as_str()).collect::<Vec<_>>()).await?;
    Ok(wanted.into_iter().map(|site_id| (site_id.clone(), Entry::new(stored.remove(site_id)))).collect())
}

fn fold_all(
    sites: &mut Sites,
    events: &[&(i32, i64, Option<Event>)],
    prepared: &Prepared,
    reached: &HashMap<i32, i64>,
    waited_enough: &HashSet<(i32, i64)>,
) -> Stored {
    let source_epochs: HashMap<i32, i32> =
        prepared.parts.iter().map(|part| (part.tenure.partition, part.tenure.source_epoch)).collect();
    let mut stored = Stored { cuts: BTreeMap::new(), ..Stored::default() };
    for (partition, offset, event) in events {
        if stored.cuts.contains_key(partition) {
            continue;
        }
        let place = Place { partition: *partition, offset: *offset, source_epoch: source_epochs[partition] };
        let outcome = match event {
            None => RecordOutcome::Skipped,
            Some(event) => match fold(sites, event, place) {
                Ok(outcome) => {
                    stored.committed_at_ms.extend(event.committed_at_ms);
                    outcome.into()
                }
                Err(undecided) => {
                    let waited_enough = waited_enough.contains(&(*partition, *offset));
                    let cut = Cut { offset: *offset, why: stop(undecided, waited_enough) };
                    stored.cuts.insert(*partition, cut);
                    continue;
                }
            },
        };
        *stored.outcomes.entry((*partition, outcome)).or_default() += 1;
    }
    for (partition, cut) in prepared.rejections.iter().filter(|(partition, cut)| cut.offset >= reached[partition]) {
        stored.cuts.entry(*partition).or_insert_with(|| cut.clone());
    }
    stored
}

fn stop(undecided: Undecided, waited_enough: bool) -> Stop {
    match undecided {
        Undecided::AwaitsOldKey(old_key) if !waited_enough => Stop::AwaitsOldKey(old_key),
        Undecided::AwaitsOldKey(_) | Undecided::IncompleteRow => {
            let detail = "the record leaves out the apps, and the view does not have them".to_owned();
            Stop::Rejected(Rejection::new(Reason::IncompleteRow, detail))
        }
    }
}

fn next_positions(
    prepared: &Prepared,
    reached: &HashMap<i32, i64>,
    cuts: &BTreeMap<i32, Cut>,
    samples: &Samples,
) -> Vec<NextPosition> {
    let next = |part: &Part| {
        let partition = part.tenure.partition;
        let cut = cuts.get(&partition);
        let next_offset = cut.map_or(part.next_offset, |cut| cut.offset).max(reached[&partition]);
        NextPosition {
            tenure: part.tenure.clone(),
            next_offset,
            as_of: samples.as_of(partition, next_offset),
            blocked: cut.and_then(|cut| match &cut.why {
                Stop::Rejected(rejection) => {
                    let (state, offset) = (BlockedState::Blocked, cut.offset);
                    Some(Blocked { state, offset, reason: rejection.to_string() })
                }
                Stop::AwaitsOldKey(_) => None,
            }),
        }
    };
    prepared.parts.iter().map(next).collect()
}
