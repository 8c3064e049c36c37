//! Look-ups of a site that may be kept in memory: see `cache`.

use std::sync::Arc;

use shared::ids::SiteId;

use super::Replicas;
use super::replica::{Lease, Replica, read};
use crate::cache::{self, Kept};
use crate::error::Error;
use crate::freshness::Demand;
use crate::observe;
use crate::position::{Grounds, Position};
use crate::queries::{FoundSite, Placing, Query, Site};

impl Replicas {
    /// Asks for a site's row, which may be kept in memory.
    pub(crate) async fn ask_site(
        &self,
        site_id: &SiteId,
        demand: &Demand,
    ) -> Result<(Option<FoundSite>, Grounds), Error> {
        if self.has_cache
            && let Ok(lease) = self.lease(demand, &[], None)
            && let Some((kept, grounds)) = lease.kept(demand.position.as_ref())
            && let Some(answer) = self.ask_kept(site_id, demand, lease, &kept, grounds).await?
        {
            return Ok(answer);
        }
        self.ask(&Site(site_id, Placing::Record), demand).await
    }

    /// Looks in what is kept, and fills it from the same replica. `None` when the client demands more, or when whoever fills
    /// the place at this moment takes too long.
    async fn ask_kept(
        &self,
        site_id: &SiteId,
        demand: &Demand,
        lease: Lease,
        kept: &Kept,
        grounds: Grounds,
    ) -> Result<Option<(Option<FoundSite>, Grounds)>, Error> {
        let reaches = |found: &_| demand.version.is_none_or(|version| Site::reaches(found, version));
        let got = tokio::time::timeout(self.settings.patience, kept.get(site_id.as_str())).await;
        observe::cache_looked_at(matches!(got, Ok(Ok(_))));
        let place = match got {
            Ok(Ok(found)) => return Ok(reaches(&found).then_some((found, grounds))),
            Ok(Err(place)) => place,
            Err(_elapsed) => return Ok(None),
        };
        let replica = lease.replica.clone();
        let (found, lease) = match self.ask_with_retry(&Site(site_id, Placing::Snapshot), demand, &[], lease).await {
            Err(Error::PositionNotReached(_)) => return Ok(None),
            other => other?,
        };
        if lease.may_fill(&replica, kept) {
            cache::fill(place, &found);
        }
        Ok(reaches(&found).then(|| (found, lease.grounds())))
    }
}

impl Lease {
    /// What is kept of the replica's sites, with what an answer from it rests on; nothing while that is older than samples may
    /// be, or not where the client demands. It is taken before anything is looked for, as `cache::Kept` wants it.
    fn kept(&self, position: Option<&Position>) -> Option<(Arc<Kept>, Grounds)> {
        let kept = read(&self.replica.kept).clone().filter(|kept| kept.generation == self.sample.generation)?;
        let sample = kept.covered();
        let settings = &self.replica.settings;
        let is_fresh = sample.taken_at.elapsed() <= settings.silence_max + settings.position_interval;
        let fits = is_fresh && position.is_none_or(|position| sample.reaches(position));
        fits.then(|| (kept, Grounds { sample, ..self.grounds() }))
    }

    /// Whether this lease has read of that replica and that generation, so that what was read may be kept there.
    fn may_fill(&self, replica: &Arc<Replica>, kept: &Kept) -> bool {
        self.is_of(replica) && self.sample.generation == kept.generation
    }
}
