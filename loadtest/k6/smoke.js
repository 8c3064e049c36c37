// Does it work at all? Each kind of request, one after the other, a few times. RATE and DURATION mean nothing here.

import { check } from 'k6';
import { Rate } from 'k6/metrics';
import { pick, pickMany, readSites, unknown } from './keys.js';
import { batch, conditional, freshness, freshnessMoved, reverse, site, unknownSite } from './requests.js';
import { TREND_STATS, objectives } from './settings.js';
import { summaryOf } from './summary.js';

// Nearly all: a site may be deleted between the listing and the look-up.
const found = new Rate('known_sites_found');

export const options = {
  scenarios: { smoke: { executor: 'per-vu-iterations', vus: 1, iterations: 20 } },
  // Too few requests for a quantile.
  thresholds: objectives({ 'http_req_duration{purpose:load}': ['max<2000'], known_sites_found: ['rate>0.9'] }),
  summaryTrendStats: TREND_STATS,
};

export const setup = () => ({ sites: readSites(), since: freshness() });
export const teardown = ({ since }) => freshnessMoved(since);
export const handleSummary = summaryOf('smoke');

export default function ({ sites }) {
  const first = site(pick(sites));
  found.add(first.status === 200);
  // What the answer contained once, it contains again.
  const again = site(pick(sites), { 'Projection-Min-Position': first.headers['Projection-Position'], Prefer: 'wait=2' });
  check(again, { 'a position that was told is reached': (a) => a.status !== 503 });
  conditional(pick(sites));
  unknownSite(unknown());
  reverse();
  batch(pickMany(sites, 100));
}
