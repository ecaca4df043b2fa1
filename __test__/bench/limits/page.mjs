// The third table, as Markdown.

import { failures, page as wholePage, processNote, spread, table, whole } from '../report.mjs';
import { ratio } from '../summary.mjs';
import { BUSY, CASES, CLIENTS, CONNECTIONS, KEYS, MOST_KEYS, keysText } from './cases.mjs';
import { PEERS } from './peers.mjs';

const capital = (text) => text[0].toUpperCase() + text.slice(1);
const times = (value) => (value === null ? '' : `${value.toFixed(2)}x`);
const optional = (value, format) => (value === null ? '' : spread(value, format));
const caseOf = (row) => CASES.find(({ id }) => id === row.case);

/** The throughput of a row by that of a peer in the same case; nothing for the peer itself. */
const against = (row, results, peer) => (row.peer === peer ? null : ratio(results, 'throughput', row.case, row.peer, peer));

function kept(row, results) {
  const share = against(row, results, 'none');
  return share === null ? '' : (share * 100).toFixed(1);
}

/** A column is a heading and what it says of a row. */
const IN_FLIGHT = ['in flight', (row) => whole(caseOf(row).inFlight)];
const KEY_COUNT = ['keys', (row) => whole(caseOf(row).keys)];
const PEER = ['', ({ peer }) => PEERS[peer].title];
const THROUGHPUT = ['calls a second', ({ throughput }) => spread(throughput, whole)];
const BY_FLEXIBLE = ['by rate-limiter-flexible', (row, results) => times(against(row, results, 'flexible'))];
const P50 = ['p50, us', ({ p50 }) => spread(p50)];
const P99 = ['p99, us', ({ p99 }) => spread(p99)];
const AWAITED = ['a call, awaited, us', ({ awaited }) => spread(awaited)];
const MAIN_THREAD = ['main thread, us a call', ({ mainThread }) => spread(mainThread)];
const CPU = ['process CPU, us a call', ({ cpu }) => spread(cpu)];
const LOCAL = ['answered in the process, %', ({ local }) => optional(local)];
const ASKED = ['scripts in 100 calls', ({ asked }) => optional(asked)];
const DENIED = ['denied, %', ({ denied }) => optional(denied)];

const COLUMNS = {
  allowed: [IN_FLIGHT, PEER, THROUGHPUT, BY_FLEXIBLE, P50, P99, MAIN_THREAD, CPU, ASKED],
  denied: [IN_FLIGHT, PEER, AWAITED, P50, P99, THROUGHPUT, BY_FLEXIBLE, MAIN_THREAD, CPU, LOCAL, ASKED],
  busy: [IN_FLIGHT, PEER, THROUGHPUT, BY_FLEXIBLE, P50, P99, MAIN_THREAD, CPU, DENIED, ASKED],
  process: [
    KEY_COUNT,
    PEER,
    AWAITED,
    P50,
    P99,
    THROUGHPUT,
    ['by rate-limiter-flexible in memory', (row, results) => times(against(row, results, 'flexible-memory'))],
    CPU,
  ],
  http: [
    ['clients', (row) => whole(caseOf(row).clients)],
    PEER,
    ['requests a second', ({ throughput }) => spread(throughput, whole)],
    ['kept, %', kept],
    P50,
    P99,
    ['main thread, us a request', ({ mainThread }) => spread(mainThread)],
    ['event loop busy, %', ({ loop }) => spread(loop, whole)],
    ['process CPU, us a request', ({ cpu }) => spread(cpu)],
  ],
};

/** One table of all the cases that `wanted` names, in which each row says which one it is of. */
function tableOf(title, set, wanted, { rows, results, omitted }) {
  const belongs = (row) => caseOf(row).set === set && wanted(caseOf(row));
  const here = rows.filter(belongs);
  const missing = omitted.filter(belongs);
  if (here.length + missing.length === 0) return [];
  const columns = COLUMNS[set];
  const lines = here.map((row) => columns.map(([, text]) => text(row, results)));
  const nameOf = (row) => `${PEERS[row.peer].title}, ${caseOf(row).title}`;
  const reasons = missing.map((row) => `${nameOf(row)}: a round could not be measured: ${row.reason}.\n`);
  return [`### ${capital(title)}`, '', ...table(columns.map(([head]) => head), lines, 2), '', ...failures(here, nameOf), ...reasons];
}

const notes = ({ run, scale: { loadMs } }) => [
  `- Every number is the median over the rounds (${run.rounds}), with the lowest and the highest in brackets; every ratio is the median of the rounds' ratios. Each cell is a process of its own, warmed up for ${run.warmUpSeconds} s and then measured for ${run.seconds} s, on an empty Redis; the peers take turns within a round, because machines drift.`,
  '- Redis and the measured process share the machine and talk over loopback: absolute figures are of this machine, ratios travel better.',
  '- In flight: so many loops that each await their call. The keys in turn, each of them called once before anything is measured. Every answer is checked to be allowed or denied as it should be; of denied calls, and of those in the process, some are.',
  `- Allowed: a limit that nobody reaches: ${whole(1e9)} an hour, of sliding windows, which may not have as much, ${whole(100_000)} in 60 s, in 0.1 s for one key, and in 0.01 s in the process. Denied: one an hour.`,
  `- A limit of ${whole(BUSY.points)} a second on ${BUSY.keys} keys, warmed up for longer than a second: each key is called some hundred times a second, which a sliding window has to remember one by one; the other counts. Denied calls are part of it where there are any.`,
  '- `rate-limiter-flexible` and `rate-limit-redis` count in fixed windows, through `ioredis` with one connection; `enableAutoPipelining` where it is named. Of `rate-limit-redis` it is the store alone that is called, without the middleware. Blocked in memory: `inMemoryBlockOnConsumed`, with which it denies in the process until the window ends, and does not hear of a reset elsewhere; this package asks Redis again after a second at most. `rate-limiter-flexible` rejects what it denies; that is caught.',
  `- Of ${whole(MOST_KEYS)} denied keys, a call comes round for each about once a second or less often, so that Redis is asked again for many of them; \`rate-limiter-flexible\` blocked in memory is left out there, because beyond a thousand blocked keys it looks at all of them whenever it blocks another.`,
  '- Scripts: how many Redis ran for the calls that were measured, by its own count (`INFO commandstats`). Less than 100 are calls that were joined, or denied in the process. A cell of this package in which Redis was too late for a call, or calls are missing in that count, was measured again: it would show how fast the process decides without Redis.',
  '- A call, awaited: time of at least a thousand calls, each caller awaiting one before it makes the next, divided by their number; the median of such samples. p50 and p99 beside it are of single calls, with the clock read around each and the cost of reading it, measured in the same process, taken off; with 50 and 500 in flight they include the turns of the other callers. The event loop turns between samples.',
  `- HTTP: a \`node:http\` server that answers ${CONNECTIONS} keep-alive connections with a short JSON text, loaded by \`autocannon\` from another process for ${loadMs / 1000} s. Kept: requests a second by those without a limiter in the same round. This package is \`rateLimitMiddleware\` for sliding windows and \`createRateLimiter\` for GCRA; \`express-rate-limit\` sets the headers of draft 7 and the older ones, its checks of Express switched off. One client: all requests come from one address. ${whole(CLIENTS)} clients: each connection carries ${CLIENTS / CONNECTIONS} of them in turn, told apart by \`X-Forwarded-For\`. All requests are allowed. The clients take a processor of their own, and Redis another: where the event loop of the server is not busy, it is they who set the pace, and what is kept says less than the main thread's time a request.`,
  processNote(run),
];

export function page({ rows, results, omitted, targets, scale, run, picture }) {
  const tables = (set, title, wanted = () => true) => tableOf(title, set, wanted, { rows, results, omitted });
  const byKeys = (set) => [1, KEYS, MOST_KEYS].flatMap((keys) => tables(set, `${set}, ${keysText(keys)}`, (each) => each.keys === keys));
  return wholePage({
    title: 'Rate limits',
    command: 'node __test__/bench/run.mjs limits',
    pictureText: 'Throughput of rate limits, time of a denied call, and requests a second kept',
    run,
    picture,
    targets,
    body: [
      '## Through Redis',
      '',
      ...byKeys('allowed'),
      ...tables('busy', `a limit of ${whole(BUSY.points)} a second, ${BUSY.keys} keys`),
      ...byKeys('denied'),
      '## In the process',
      '',
      ...tables('process', 'allowed', ({ outcome }) => outcome === 'allowed'),
      ...tables('process', 'denied', ({ outcome }) => outcome === 'denied'),
      '## Middleware',
      '',
      ...tables('http', `${CONNECTIONS} connections`),
      '## How the numbers are made',
      '',
      ...notes({ run, scale }),
    ],
  });
}
