// One request of each kind, with the checks that hold for it. Every answer must say how fresh it is.

import http from 'k6/http';
import { check, sleep } from 'k6';
import { Gauge } from 'k6/metrics';
import { APP, BASE_URL } from './settings.js';

// 304 and 404 are answers too.
http.setResponseCallback(http.expectedStatuses(200, 304, 404));

const moved = new Gauge('freshness_moved_seconds');
const load = (name, more = {}) => ({ ...more, tags: { purpose: 'load', name } });

export const isFresh = (answer) =>
  /^\d+\/(\d+:\d+(,|$))+/.test(answer.headers['Projection-Position'] || '') && !Number.isNaN(asOf(answer));
const asOf = (answer) => Date.parse(answer.headers['Projection-As-Of']);

export function site(id, headers = {}) {
  const answer = http.get(`${BASE_URL}/v1/sites/${id}/installed-apps`, load('site', { headers }));
  check(answer, {
    'site: 200, 304 or 404': (a) => [200, 304, 404].includes(a.status),
    'site: is the one asked for': (a) => a.status !== 200 || a.body.includes(id),
    'site: says how fresh': isFresh,
  });
  return answer;
}

// Asks again with the tag of the answer before: 304 unless the site has changed meanwhile.
export function conditional(id) {
  const first = site(id);
  const again = site(id, { 'If-None-Match': first.headers['Etag'] || '"none"' });
  check(again, { 'conditional: 304 unless it changed': (a) => a.status === 304 || a.headers['Etag'] !== first.headers['Etag'] || a.status === 404 });
}

export function unknownSite(id) {
  check(site(id), { 'unknown site: 404': (a) => a.status === 404 });
}

export function reverse() {
  const answer = http.get(`${BASE_URL}/v1/apps/${APP}/sites?limit=100`, load('reverse'));
  check(answer, {
    'reverse: 200': (a) => a.status === 200,
    'reverse: has sites': (a) => a.status === 200 && a.json('sites').length > 0,
    'reverse: says how fresh': isFresh,
  });
  return answer;
}

export function batch(ids) {
  const headers = { 'content-type': 'application/json' };
  const answer = http.post(`${BASE_URL}/v1/installed-apps/batch-get`, JSON.stringify({ site_ids: ids }), load('batch', { headers }));
  check(answer, {
    'batch: 200': (a) => a.status === 200,
    'batch: as many as asked': (a) => a.status === 200 && a.json('results').length === ids.length,
    'batch: says how fresh': isFresh,
  });
}

// The moment up to which the reader's answers are complete.
export function freshness() {
  return asOf(http.get(`${BASE_URL}/v1/apps/${APP}`, { tags: { purpose: 'setup' } }));
}

// Called in teardown(): how far that moment has moved since setup(). On an idle system it moves once a second, and a run may be shorter.
export function freshnessMoved(since) {
  const deadline = Date.now() + 5000;
  let now = freshness();
  while (now <= since && Date.now() < deadline) {
    sleep(0.1);
    now = freshness();
  }
  moved.add((now - since) / 1000);
}
