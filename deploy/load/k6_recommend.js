// Pages at rising rates in an open loop, with limits that fail the run.
//
//   k6 run deploy/load/k6_recommend.js
//   k6 run -e TARGET=10.0.0.7:7700 -e RATES=50,100,200 -e SECONDS_EACH=30 -e P99_MS=100 ...
import { check } from 'k6';
import exec from 'k6/execution';
import grpc from 'k6/net/grpc';
import { Counter, Rate } from 'k6/metrics';

const target = __ENV.TARGET || '127.0.0.1:7700';
const rates = (__ENV.RATES || '10,20,40').split(',').map(Number);
const seconds = Number(__ENV.SECONDS_EACH || 15);
const p99 = Number(__ENV.P99_MS || 100);
const users = Number(__ENV.USERS || 900);

const complete = new Rate('page_complete'); // OK, full, nothing missing
const degraded = new Counter('page_degraded');

// One scenario a rate, one after the other; `constant-arrival-rate` waits for no answer.
const scenarios = Object.fromEntries(
  rates.map((rate, at) => [
    `rps_${rate}`,
    {
      executor: 'constant-arrival-rate',
      rate,
      timeUnit: '1s',
      duration: `${seconds}s`,
      startTime: `${at * (seconds + 2)}s`,
      preAllocatedVUs: Math.max(4, Math.ceil(rate / 4)),
      maxVUs: Math.max(20, rate * 3),
      gracefulStop: '2s',
    },
  ]),
);

export const options = {
  scenarios,
  summaryTrendStats: ['med', 'p(95)', 'p(99)', 'max'],
  thresholds: Object.assign(
    { page_complete: ['rate>0.999'], dropped_iterations: ['count<1'] },
    // The limit is that of the lowest rate; the others are shown beside it.
    ...rates.map((rate, at) => ({
      [`grpc_req_duration{scenario:rps_${rate}}`]: [at === 0 ? `p(99)<${p99}` : 'p(99)<60000'],
    })),
  ),
};

const client = new grpc.Client();
let connected = false;

export default function () {
  if (!connected) {
    client.connect(target, { plaintext: true, reflect: true });
    connected = true;
  }
  const number = 100 + (exec.scenario.iterationInTest % users);
  const answer = client.invoke(
    'shortlist.v1.Orchestrator/Recommend',
    { user: { id: `user-${String(number).padStart(6, '0')}` }, page_size: 20 },
    { timeout: '5s' },
  );
  const page = answer.message || {};
  const missing = (page.degradations || []).length;
  if (missing) degraded.add(1);
  complete.add(
    check(answer, {
      'status is OK': (one) => one.status === grpc.StatusOK,
      'page is full': () => (page.items || []).length === 20,
      'nothing is missing': () => missing === 0,
    }),
  );
}
