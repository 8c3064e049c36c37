// The sites that are asked for: from a file, else read from the reader itself, page by page.

import http from 'k6/http';
import { SharedArray } from 'k6/data';
import { fail } from 'k6';
import { APP, BASE_URL, SITES } from './settings.js';

const fromReader = /^\d+$/.test(SITES);
const file = fromReader
  ? null
  : new SharedArray('sites', () => open(SITES).split('\n').map((line) => line.trim()).filter(Boolean));

// Called in setup(): ids to hand to the virtual users, or null when they stand in a file.
export function readSites() {
  if (file) return null;
  const ids = [];
  let next = null;
  do {
    const after = next === null ? '' : `&after=${encodeURIComponent(next)}`;
    const answer = http.get(`${BASE_URL}/v1/apps/${APP}/sites?limit=1000${after}`, { tags: { purpose: 'setup' } });
    if (answer.status !== 200) fail(`${answer.url}: ${answer.status} ${answer.error || answer.body}`);
    const page = answer.json();
    page.sites.forEach((site) => ids.push(site.site_id));
    next = page.next;
  } while (next !== null && ids.length < Number(SITES));
  if (ids.length === 0) fail(`no site has app ${APP}: name another with APP, or a file of site ids with SITES`);
  return ids.slice(0, Number(SITES));
}

// A site; few of them often, most of them rarely, as in life (probability about 1 / rank).
export function pick(sites) {
  const ids = sites || file;
  return ids[Math.min(ids.length - 1, Math.floor(Math.pow(ids.length + 1, Math.random()) - 1))];
}

// So many different sites.
export function pickMany(sites, count) {
  const ids = sites || file;
  const first = Math.floor(Math.random() * ids.length);
  return Array.from({ length: Math.min(count, ids.length) }, (_, n) => ids[(first + n) % ids.length]);
}

// An id that no site has.
export const unknown = () => `unknown-${Math.floor(Math.random() * 1e9)}`;
