// The end of a run: a few lines for people, and all of it as JSON in the file that SUMMARY names.

const SUMMARY = __ENV.SUMMARY || 'k6-summary.json';
const text = (value, unit) => (value === undefined ? '-' : `${value.toFixed(2)}${unit}`);

export function summaryOf(name) {
  return (data) => ({ stdout: `\n${lines(name, data).join('\n')}\n`, [SUMMARY]: JSON.stringify(data, null, 2) });
}

function lines(name, { metrics, state }) {
  const values = (metric) => (metrics[metric] ? metrics[metric].values : {});
  const took = values('http_req_duration{purpose:load}');
  const seconds = state.testRunDurationMs / 1000;
  const broken = Object.entries(metrics).flatMap(([metric, { thresholds }]) =>
    Object.entries(thresholds || {}).filter(([, { ok }]) => !ok).map(([objective]) => `${metric} ${objective}`),
  );
  return [
    `${name}: ${broken.length === 0 ? 'all objectives hold' : `BROKEN: ${broken.join(', ')}`}`,
    `  requests   ${values('http_reqs').count} in ${seconds.toFixed(0)} s, ${text(values('http_reqs').rate, '/s')}, ` +
      `dropped ${values('dropped_iterations').count || 0}, failed ${text(100 * values('http_req_failed').rate, ' %')}`,
    `  duration   median ${text(took.med, ' ms')}, p90 ${text(took['p(90)'], ' ms')}, p99 ${text(took['p(99)'], ' ms')}, ` +
      `p99.9 ${text(took['p(99.9)'], ' ms')}, max ${text(took.max, ' ms')}`,
    ...(metrics.feed_changes ? [`  changes    ${values('feed_changes').count}`] : []),
    `  checks     ${values('checks').passes} passed, ${values('checks').fails} failed`,
    `  freshness  moved ${text(values('freshness_moved_seconds').value, ' s')}`,
  ];
}
