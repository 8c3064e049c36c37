//! The cache of sites: off by default, bounded in bytes, true without a clock.
//!
//! One per replica, which listens to the change log *of that replica*: no reader learns of a change before its replica has
//! it, so nothing is removed too early, to be filled with what was before. `kept` says why an answer from here never
//! lacks what it claims. Whatever ends the tail (a lost connection, another generation, a position set back) ends what was
//! kept; it begins anew, empty, with the next one.

mod kept;

use std::sync::Arc;

use tokio::sync::broadcast::error::{RecvError, TryRecvError};

pub(crate) use kept::{Kept, fill};

use crate::changes::{News, Subscription, Tail};
use crate::observe;
use crate::position::Sample;
use crate::replicas::Replica;

/// What was kept can't be kept true any more.
struct Over;

/// Keeps what is kept of one replica true, for ever.
pub(crate) async fn keep(tail: Arc<Tail>, bytes_max: u64) {
    loop {
        let subscription = tail.subscribe().await;
        let Over = Keeper { replica: tail.replica(), subscription, bytes_max, kept: None }.follow().await;
        tail.replica().keep(None);
    }
}

struct Keeper<'a> {
    replica: &'a Arc<Replica>,
    subscription: Subscription,
    bytes_max: u64,
    kept: Option<Arc<Kept>>,
}

impl Keeper<'_> {
    async fn follow(mut self) -> Over {
        let mut seen = None;
        loop {
            // First how far the log was read, then what it told up to there.
            let (sample, reached) = (self.subscription.sample(), self.subscription.reached());
            if let Err(over) = self.hear_all() {
                return over;
            }
            if let Some(sample) = sample.filter(|sample| reached.covers(sample)) {
                self.cover(sample);
            }
            tokio::select! {
                news = self.subscription.news.recv() => match news {
                    Ok(news) => if let Err(over) = self.hear(&news) {
                        return over;
                    },
                    Err(RecvError::Closed | RecvError::Lagged(_)) => return Over,
                },
                sample = self.replica.sample_after(seen) => seen = Some(sample.taken_at),
            }
        }
    }

    fn hear_all(&mut self) -> Result<(), Over> {
        loop {
            match self.subscription.news.try_recv() {
                Ok(news) => self.hear(&news)?,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Closed | TryRecvError::Lagged(_)) => return Err(Over),
            }
        }
    }

    fn hear(&self, news: &News) -> Result<(), Over> {
        let News::Batch(batch) = news else { return Err(Over) };
        if let Some(kept) = &self.kept {
            batch.changes.iter().for_each(|change| kept.changed(&change.site_id));
        }
        Ok(())
    }

    fn cover(&mut self, sample: Arc<Sample>) {
        match &self.kept {
            Some(kept) => {
                kept.cover(sample);
                observe::cache(self.replica.name(), kept.bytes());
            }
            None => {
                let kept = Arc::new(Kept::new(self.bytes_max, sample));
                self.replica.keep(Some(kept.clone()));
                self.kept = Some(kept);
            }
        }
    }
}
