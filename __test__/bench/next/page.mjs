// The fourth table, as Markdown.

import { failures, page as wholePage, readable, spread, table, whole } from '../report.mjs';
import { ratio } from '../summary.mjs';
import { CASES, CONNECTIONS, PEERS, SESSIONS } from './cases.mjs';
import { pinned } from './cores.mjs';

const capital = (text) => text[0].toUpperCase() + text.slice(1);

function byCacheAside(row, results) {
  const times = row.peer === 'cache-aside' ? null : ratio(results, 'throughput', row.case, row.peer, 'cache-aside');
  return times === null ? '' : `${times.toFixed(2)}x`;
}

/** A column is a heading and what it says of a row. */
const COLUMNS = [
  ['', ({ peer }) => PEERS[peer].title],
  ['requests a second', ({ throughput }) => spread(throughput, whole)],
  ['by cache-aside', byCacheAside],
  ['p50, ms', ({ p50 }) => spread(p50, (value) => readable(value / 1000))],
  ['p99, ms', ({ p99 }) => spread(p99, (value) => readable(value / 1000))],
  ['main thread, us a request', ({ mainThread }) => spread(mainThread)],
  ['process CPU, us a request', ({ cpu }) => spread(cpu)],
];

function caseTable({ id, title }, { rows, results }) {
  const here = rows.filter((row) => row.case === id);
  if (here.length === 0) return [];
  const lines = here.map((row) => COLUMNS.map(([, text]) => text(row, results)));
  return [`### ${capital(title)}`, '', ...table(COLUMNS.map(([head]) => head), lines), '', ...failures(here, ({ peer }) => PEERS[peer].title)];
}

const where = pinned
  ? 'The server has one processor for all its threads; the clients, Redis and Postgres share the others.'
  : 'Processes cannot be bound to processors here: the server, its clients, Redis and Postgres share all of them.';

const notes = ({ run }) => [
  `- Every number is the median over the rounds (${run.rounds}), with the lowest and the highest in brackets. Each cell is a server of its own on an empty Redis; every session is asked for twice and the answers are checked, then the server is warmed up for ${run.warmUpSeconds} s and measured for ${run.seconds} s. The peers take turns within a round, because machines drift.`,
  `- The server is what \`next build\` makes of \`__test__/next-app\` (\`output: 'standalone'\`, Pages Router) with one API route, which validates the bearer token and answers with parts of the session as JSON; it differs in what validates. ${CONNECTIONS} connections that are kept, by \`autocannon\`, each with its share of ${whole(SESSIONS)} sessions in turn. ${where}`,
  '- Cache-aside is that of the table of sessions; it has nothing in the process. In Redis alone: with `SESSION_CACHE_LOCAL_ENABLED=false`. No session asked for: what Next.js itself takes.',
  '- Main thread and process CPU are those of the server, from `/proc`, by requests.',
];

export function page({ rows, results, targets, run, picture }) {
  return wholePage({
    title: 'A route of a Next.js server',
    command: 'node __test__/bench/run.mjs next',
    pictureText: 'Throughput and main-thread time of a validated route in Next.js',
    run,
    picture,
    targets,
    body: [
      '## Requests',
      '',
      ...CASES.flatMap((each) => caseTable(each, { rows, results })),
      '## How the numbers are made',
      '',
      ...notes({ run }),
    ],
  });
}
