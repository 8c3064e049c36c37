// Look-ups by site at a constant rate of arrivals, one in ten of them for a site that is not there.

import { pick, readSites, unknown } from './keys.js';
import { freshness, freshnessMoved, site, unknownSite } from './requests.js';
import { RATE, TREND_STATS, arrivals, objectives } from './settings.js';
import { summaryOf } from './summary.js';

export const options = {
  scenarios: { steady: arrivals('lookUp', RATE) },
  thresholds: objectives(),
  summaryTrendStats: TREND_STATS,
};

export const setup = () => ({ sites: readSites(), since: freshness() });
export const teardown = ({ since }) => freshnessMoved(since);
export const handleSummary = summaryOf('steady');

export function lookUp({ sites }) {
  if (Math.random() < 0.1) unknownSite(unknown());
  else site(pick(sites));
}
