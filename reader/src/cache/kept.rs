//! What is kept in memory of one replica's sites, and that none of it is older than it is said to be.
//!
//! ```text
//! look-up:   1. covered   2. entry, or a place to fill   3. read from the same replica   4. fill, if the place is still there
//! change:    1. its entry, or the place that waits for it, is removed                    2. covered moves past the change
//! ```
//!
//! An answer from here claims what was *covered* before the entry was looked at. Take any change below that. It had been
//! heard, and its site's entry and place removed, before it was covered. So whatever the look-up finds was put there, or its
//! place was taken, after the removal; and the replica, which had told the change by then, was read after the place was
//! taken. Hence the entry has the change. No clock and no order of threads is part of this. An entry may be newer than what
//! is covered; it was read with the position of its own snapshot, and that is claimed then.
//!
//! A site that is not there is kept as well, and the marker of a deleted one. Entries are copies: the bytes of a row hold on to all that came with it.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle, PlaceholderGuard};
use quick_cache::{DefaultHashBuilder, Weighter};

use crate::position::{Generation, Sample};
use crate::queries::{Document, FoundSite};

/// What an entry takes besides its texts: maps, lists, counters.
const AROUND_BYTES: u64 = 160;

/// Bytes of a usual entry; a guess of how many entries there will be.
const ENTRY_BYTES_USUAL: u64 = 1500;

/// The kept documents of one generation on one replica. Given up, never emptied: what is being filled goes with it.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) generation: Generation,
    entries: Cache<String, Option<FoundSite>, Weight>,
    /// Everything below this sample's positions was heard. Only its keeper moves it.
    covered: RwLock<Arc<Sample>>,
}

/// A place in [`Kept`] that whoever holds it is to fill; others that want the same wait for him.
pub(crate) type Place<'a> = PlaceholderGuard<'a, String, Option<FoundSite>, Weight, DefaultHashBuilder, Evicted>;

type Evicted = DefaultLifecycle<String, Option<FoundSite>>;

#[derive(Debug, Clone)]
pub(crate) struct Weight;

impl Weighter<String, Option<FoundSite>> for Weight {
    fn weight(&self, site_id: &String, found: &Option<FoundSite>) -> u64 {
        let document = found.as_ref().and_then(|found| found.document.as_ref());
        let document_bytes =
            document.map_or(0, |document| document.text.len() + document.etag.as_ref().map_or(0, |etag| etag.len()));
        AROUND_BYTES + (site_id.len() + document_bytes) as u64
    }
}

impl Kept {
    /// Empty. All changes that are not below the sample's positions will be heard.
    pub(crate) fn new(bytes_max: u64, covered: Arc<Sample>) -> Self {
        let entries = Cache::with_weighter((bytes_max / ENTRY_BYTES_USUAL) as usize, bytes_max, Weight);
        Self { generation: covered.generation, entries, covered: RwLock::new(covered) }
    }

    /// What an answer from here may claim, if it is taken before [`Self::get`].
    pub(crate) fn covered(&self) -> Arc<Sample> {
        self.covered.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The document, or that there is none; else the place for it. Waits for whoever fills it.
    pub(crate) async fn get(&self, site_id: &str) -> Result<Option<FoundSite>, Place<'_>> {
        self.entries.get_value_or_guard_async(site_id).await
    }

    /// A site has changed.
    pub(crate) fn changed(&self, site_id: &str) {
        self.entries.remove(site_id);
    }

    /// Everything below these positions was heard.
    pub(crate) fn cover(&self, sample: Arc<Sample>) {
        *self.covered.write().unwrap_or_else(PoisonError::into_inner) = sample;
    }

    /// Bytes that entries take.
    pub(crate) fn bytes(&self) -> u64 {
        self.entries.weight()
    }
}

/// Fills a place with what was read after it was taken, unless the site has changed meanwhile.
pub(crate) fn fill(place: Place<'_>, found: &Option<FoundSite>) {
    let copy = |found: &FoundSite| {
        let document = found.document.as_ref();
        let text = |document: &Document| Bytes::copy_from_slice(&document.text);
        let document = document.map(|document| Document { text: text(document), ..document.clone() });
        FoundSite { document, ..*found }
    };
    // An error says that the place is gone.
    let _ = place.insert(found.as_ref().map(copy));
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

    use futures_util::FutureExt;

    use super::*;
    use crate::position::{PartitionPosition, Position, Progress, RowPosition};

    const MIB: u64 = 1 << 20;

    fn sample(next_offset: i64) -> Arc<Sample> {
        let position = PartitionPosition { partition: 0, next_offset, as_of: None };
        Arc::new(Sample::new(1, 1, vec![position], Progress::default()))
    }

    /// The site as the record before `next_offset` has made it; that is its version, too.
    fn site(next_offset: i64, bytes: usize) -> Option<FoundSite> {
        let text = Bytes::from(vec![b'x'; bytes]);
        let document = Some(Document { text, etag: None, version: Some(next_offset) });
        Some(FoundSite { document, position: RowPosition { partition: 0, next_offset } })
    }

    fn version(found: &Option<FoundSite>) -> i64 {
        found.as_ref().and_then(|found| found.document.as_ref()?.version).unwrap_or_default()
    }

    #[tokio::test]
    async fn a_change_between_the_read_and_the_fill_keeps_the_fill_out() {
        let kept = Kept::new(MIB, sample(0));
        let place = kept.get("a").await.expect_err("empty");
        kept.changed("a");
        fill(place, &site(1, 10));
        let place = kept.get("a").await.expect_err("what was read before the change is not kept");
        fill(place, &site(2, 10));
        assert_eq!(kept.get("a").await.map(|found| version(&found)).ok(), Some(2));
        kept.changed("a");
        assert!(kept.get("a").await.is_err());
    }

    #[tokio::test]
    async fn those_who_come_meanwhile_wait_for_one_and_the_unknown_is_kept_too() {
        let kept = Kept::new(MIB, sample(0));
        let place = kept.get("a").await.expect_err("empty");
        let fill_it = async { fill(place, &None) };
        let (second, ()) = tokio::join!(kept.get("a"), fill_it);
        assert!(second.is_ok_and(|found| found.is_none()));

        let place = kept.get("b").await.expect_err("empty");
        let give_up = async { drop(place) };
        let (second, ()) = tokio::join!(kept.get("b"), give_up);
        assert!(second.is_err(), "the place passes on when its holder gives up");
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let kept = Kept::new(MIB, sample(0));
        for number in 0..5_000 {
            if let Err(place) = kept.get(&format!("site-{number}")).await {
                fill(place, &site(1, 1000));
            }
        }
        assert!((MIB / 2..=MIB).contains(&kept.bytes()), "{}", kept.bytes());
    }

    /// A replica of a few sites; the change at offset `n` is one of site `n % SITES`. Threads look up while another one changes,
    /// tells and covers. Whatever they are answered is what the claim says, or later: who returns the claim and is answered by
    /// a replica that stands exactly there is not taken back either.
    #[test]
    fn no_answer_lacks_what_it_claims_however_threads_meet() {
        const SITES: i64 = 3;
        const CHANGES: i64 = 20_000;
        const HITS: u32 = 20_000;
        let (kept, over, hits) = (&Kept::new(MIB, sample(0)), &AtomicBool::new(false), &AtomicU32::new(0));
        // Of each site what stands behind its newest change.
        let replica: &[AtomicI64; SITES as usize] = &Default::default();
        let looks_up = |seed: i64| {
            let mut number = seed;
            while !over.load(Ordering::Relaxed) {
                number += 1;
                let site_number = number % SITES;
                let covered = kept.covered();
                let found = match kept.get(&site_number.to_string()).now_or_never() {
                    Some(Ok(found)) => found,
                    Some(Err(place)) => {
                        fill(place, &site(replica[site_number as usize].load(Ordering::SeqCst), 10));
                        continue;
                    }
                    None => continue,
                };
                hits.fetch_add(1, Ordering::Relaxed);
                let position = found.as_ref().expect("every site is there").position;
                let claim = covered.of_site(position).position.to_str().map(Position::parse).unwrap().unwrap();
                let claimed = claim.offsets[0].1;
                let shown = version(&found);
                let next_change = if shown > 0 { shown - 1 + SITES } else { site_number };
                assert!(claimed >= shown, "site {site_number} of {shown} claims {claimed}, and may be older next time");
                assert!(
                    claimed <= next_change,
                    "site {site_number} of {shown} claims {claimed}, and lacks {next_change}"
                );
            }
        };
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..3).map(|seed| scope.spawn(move || looks_up(seed))).collect();
            for offset in 0.. {
                let site_number = offset % SITES;
                replica[site_number as usize].store(offset + 1, Ordering::SeqCst);
                kept.changed(&site_number.to_string());
                kept.cover(sample(offset + 1));
                let failed = readers.iter().any(|reader| reader.is_finished());
                if failed || offset > CHANGES && hits.load(Ordering::Relaxed) > HITS {
                    break;
                }
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}
