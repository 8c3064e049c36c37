// What all scripts are told by the environment, and the objectives of the service that they hold it to.

const env = (name, fallback) => __ENV[name] || fallback;

export const BASE_URL = env('BASE_URL', 'http://127.0.0.1:8080').replace(/\/$/, '');
// Requests a second, all kinds together.
export const RATE = Number(env('RATE', 100));
export const DURATION = env('DURATION', '30s');
// A file with one site id per line, or how many to read from the reader itself.
export const SITES = env('SITES', '1000');
// An app whose sites are asked for; the default is the most popular one of the demo.
export const APP = env('APP', '863f70eb-b690-8c2d-a8b6-cdc8e6a838be');
// Milliseconds that 99 of 100 answers take at most.
export const P99_MS = Number(env('P99_MS', 25));
// Virtual users: each holds one connection and one request.
export const VUS_MAX = Number(env('VUS_MAX', 200));

export const TREND_STATS = ['min', 'med', 'p(90)', 'p(99)', 'p(99.9)', 'max'];

// The service's objectives. A request that k6 could not send when it was due (dropped) is as bad as one that failed.
export const objectives = (more = {}) => ({
  http_req_failed: ['rate<0.0001'],
  'http_req_duration{purpose:load}': [`p(99)<${P99_MS}`],
  dropped_iterations: ['count<1'],
  checks: ['rate==1'],
  freshness_moved_seconds: ['value>0'],
  ...more,
});

// A fixed schedule of arrivals: a slow answer does not slow the next request down.
export const arrivals = (exec, rate, more = {}) => ({
  executor: 'constant-arrival-rate',
  exec,
  rate: Math.max(1, Math.round(rate)),
  timeUnit: '1s',
  duration: DURATION,
  preAllocatedVUs: Math.min(VUS_MAX, Math.max(10, Math.ceil(rate / 20))),
  maxVUs: VUS_MAX,
  ...more,
});
