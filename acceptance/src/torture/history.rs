//! Every state that every site has had, and by which offset; and whether an answer of the reader is one that was allowed.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use crate::kafka::Ends;
use crate::model::{Model, Site};
use crate::record::Record;

/// What a reader answered about a site.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) site_id: String,
    /// The claim: every record before this offset of the site's partition is in the answer.
    pub(super) next_offset: i64,
    /// None for a 404.
    pub(super) document: Option<Value>,
    /// Chunks that were in the topic for sure when the answer came; a further one may have been on its way.
    pub(super) chunks: usize,
}

/// A site from a chunk on; none when it is not there.
type State = (i64, Option<Arc<Site>>);

/// The states of all sites, by the topic's records so far.
#[derive(Debug, Default)]
pub(super) struct History {
    sites: HashMap<String, Vec<State>>,
    /// The newest state.
    pub(super) model: Model,
    /// Chunks added.
    pub(super) chunks: usize,
    /// Records added, and behind the last one of each partition.
    pub(super) records: usize,
    pub(super) ends: Ends,
}

impl History {
    /// Adds records that are in the topic for good, each with its offset.
    pub(super) fn add(&mut self, records: &[Record], offsets: &[i64]) {
        for (record, offset) in records.iter().zip(offsets) {
            self.sites.entry(record.site_id.clone()).or_default().push((*offset, record.after.clone()));
            self.model.apply(record);
            self.ends.insert(record.partition, offset + 1);
        }
        self.records += records.len();
        self.chunks += 1;
    }

    /// Whether an answer can be judged: everything that it may have seen is known here.
    pub(super) fn knows(&self, answer: &Answer) -> bool {
        self.chunks > answer.chunks
    }

    /// Whether it is the state of its site at the offset that it claims, or a later one; else what it had to be.
    pub(super) fn judge(&self, answer: &Answer) -> Result<(), String> {
        let states = self.sites.get(&answer.site_id).map_or(&[][..], Vec::as_slice);
        let contained = states.partition_point(|(offset, _)| *offset < answer.next_offset);
        let at_claim = contained.checked_sub(1).and_then(|last| states[last].1.as_deref());
        let later = states[contained..].iter().map(|(_, site)| site.as_deref());
        let is_it = |site: Option<&Site>| site.map(|site| site.document(&answer.site_id)) == answer.document;
        if std::iter::once(at_claim).chain(later).any(is_it) {
            return Ok(());
        }
        let expected = at_claim.map(|site| site.document(&answer.site_id));
        Err(format!("{answer:?} is no state of the site from its position on; there it is {expected:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Source;

    #[test]
    fn an_answer_from_before_its_claim_or_from_nowhere_is_found() {
        let mut history = History::default();
        let records = Source::new(3, 1, 5).records(200);
        let offsets: Vec<i64> = (0..).step_by(2).take(records.len()).collect();
        history.add(&records, &offsets);
        let site_id = &records[100].site_id;
        let states = history.sites[site_id].clone();
        let answer = |next_offset: i64, site: Option<&Site>| Answer {
            site_id: site_id.clone(),
            next_offset,
            document: site.map(|site| site.document(site_id)),
            chunks: 0,
        };
        assert!(states.len() > 3, "a site with a past");
        for (n, (offset, site)) in states.iter().enumerate() {
            let (claims_it, claims_less) = (answer(offset + 1, site.as_deref()), answer(*offset, site.as_deref()));
            assert_eq!((history.judge(&claims_it), history.judge(&claims_less)), (Ok(()), Ok(())));
            let next_change = states[n + 1..].iter().find(|(_, next)| next != site);
            let comes_back = states[n + 1..].iter().skip_while(|(_, next)| next == site).any(|(_, next)| next == site);
            if let (Some((changed_at, _)), false) = (next_change, comes_back) {
                let too_old = answer(changed_at + 1, site.as_deref());
                let seen = site.as_deref().map(|site| site.document(site_id));
                let same = states[n + 1..].iter().any(|(_, s)| s.as_deref().map(|s| s.document(site_id)) == seen);
                assert!(same || history.judge(&too_old).is_err(), "{too_old:?}");
            }
        }
        let mut never = Site::clone(states.iter().find_map(|(_, site)| site.as_deref()).expect("it lived"));
        never.apps_version += 1000;
        assert!(history.judge(&answer(0, Some(&never))).is_err());
        assert!(!history.knows(&Answer { chunks: 1, ..answer(0, None) }));
    }
}
