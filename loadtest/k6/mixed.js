// The kinds of requests beside each other, each on a schedule of its own: of a hundred requests 60 single look-ups, 20
// conditional ones (two requests each), 15 pages of an app's sites, 5 batches of 100.

import { pick, pickMany, readSites } from './keys.js';
import { batch, conditional, freshness, freshnessMoved, reverse, site } from './requests.js';
import { P99_MS, RATE, TREND_STATS, arrivals, objectives } from './settings.js';
import { summaryOf } from './summary.js';

export const options = {
  scenarios: {
    single: arrivals('single', 0.6 * RATE),
    conditional: arrivals('ifChanged', 0.1 * RATE),
    reverse: arrivals('appSites', 0.15 * RATE),
    batch: arrivals('many', 0.05 * RATE),
  },
  // A batch is a hundred documents: its own, wider objective.
  thresholds: objectives({
    'http_req_duration{purpose:load}': [`p(99)<${4 * P99_MS}`],
    'http_req_duration{name:site}': [`p(99)<${P99_MS}`],
    'http_req_duration{name:reverse}': [`p(99)<${2 * P99_MS}`],
    'http_req_duration{name:batch}': [`p(99)<${4 * P99_MS}`],
  }),
  summaryTrendStats: TREND_STATS,
};

export const setup = () => ({ sites: readSites(), since: freshness() });
export const teardown = ({ since }) => freshnessMoved(since);
export const handleSummary = summaryOf('mixed');

export const single = ({ sites }) => site(pick(sites));
export const ifChanged = ({ sites }) => conditional(pick(sites));
export const appSites = () => reverse();
export const many = ({ sites }) => batch(pickMany(sites, 100));
