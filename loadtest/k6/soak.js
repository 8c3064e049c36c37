// Hours of the mixture: what grows, leaks or drifts shows here. DURATION=4h; watch the dashboards meanwhile (memory, lag).

import { TREND_STATS } from './settings.js';
import { options as mixture } from './mixed.js';
import { summaryOf } from './summary.js';

export { appSites, ifChanged, many, setup, single, teardown } from './mixed.js';

export const options = {
  scenarios: mixture.scenarios,
  // Of hours, ten times fewer requests may fail than of a minute, in which there are not enough to tell.
  thresholds: { ...mixture.thresholds, http_req_failed: ['rate<0.00001'] },
  summaryTrendStats: TREND_STATS,
};

export const handleSummary = summaryOf('soak');
