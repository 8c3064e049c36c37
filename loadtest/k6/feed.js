// Followers of the change feed by long poll: each goes on from the token of the answer before. Wants a source that changes.

import http from 'k6/http';
import { check } from 'k6';
import { Counter } from 'k6/metrics';
import exec from 'k6/execution';
import { freshness, freshnessMoved, isFresh } from './requests.js';
import { BASE_URL, DURATION, TREND_STATS } from './settings.js';
import { summaryOf } from './summary.js';

// Followers; here RATE means nothing, the source's changes set the pace.
const FOLLOWERS = Number(__ENV.FOLLOWERS || 20);
const WAIT_SECONDS = 5;

const changes = new Counter('feed_changes');

export const options = {
  scenarios: { feed: { executor: 'constant-vus', exec: 'follow', vus: FOLLOWERS, duration: DURATION, gracefulStop: '10s' } },
  thresholds: {
    http_req_failed: ['rate==0'],
    checks: ['rate==1'],
    feed_changes: ['count>0'],
    freshness_moved_seconds: ['value>0'],
    // An answer comes when there is a change, or when the wait is over; not later.
    'http_req_duration{purpose:load}': [`max<${(WAIT_SECONDS + 2) * 1000}`],
  },
  summaryTrendStats: TREND_STATS,
};

export const setup = () => ({ since: freshness() });
export const teardown = ({ since }) => freshnessMoved(since);
export const handleSummary = summaryOf('feed');

// A virtual user's own position.
let token = '';

export function follow() {
  const after = token ? `?after=${encodeURIComponent(token)}` : '';
  const answer = http.get(`${BASE_URL}/v1/changes${after}`, {
    headers: { Accept: 'application/json', Prefer: `wait=${WAIT_SECONDS}` },
    tags: { purpose: 'load', name: 'feed' },
  });
  if (answer.status === 404) exec.test.abort('this reader has no /v1/changes');
  const is = check(answer, {
    'feed: 200': (a) => a.status === 200,
    'feed: says how fresh': isFresh,
    'feed: names the next token': (a) => a.status === 200 && typeof a.json('next') === 'string',
    'feed: changes name their site': (a) => a.status === 200 && a.json('changes').every((change) => change.site_id),
  });
  if (!is) return;
  changes.add(answer.json('changes').length);
  token = answer.json('next');
}
