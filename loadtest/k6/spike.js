// A quarter of RATE, within two seconds all of it, after a while a quarter again. During the spike answers may take four times
// as long; none may fail.

import { pick, readSites } from './keys.js';
import { freshness, freshnessMoved, site } from './requests.js';
import { P99_MS, RATE, TREND_STATS, VUS_MAX, objectives } from './settings.js';
import { summaryOf } from './summary.js';

const low = Math.max(1, Math.round(RATE / 4));

export const options = {
  scenarios: {
    spike: {
      executor: 'ramping-arrival-rate',
      exec: 'lookUp',
      startRate: low,
      timeUnit: '1s',
      // All made beforehand: a virtual user that is made during the spike costs the very moment that counts.
      preAllocatedVUs: VUS_MAX,
      stages: [
        { target: low, duration: '10s' },
        { target: RATE, duration: '2s' },
        { target: RATE, duration: '10s' },
        { target: low, duration: '2s' },
        { target: low, duration: '10s' },
      ],
    },
  },
  thresholds: objectives({ 'http_req_duration{purpose:load}': [`p(99)<${4 * P99_MS}`] }),
  summaryTrendStats: TREND_STATS,
};

export const setup = () => ({ sites: readSites(), since: freshness() });
export const teardown = ({ since }) => freshnessMoved(since);
export const handleSummary = summaryOf('spike');

export const lookUp = ({ sites }) => site(pick(sites));
