// The first table, as Markdown.

import { failures, page as wholePage, processNote, readable, spread, table, whole } from '../report.mjs';
import { CACHED_SESSIONS, CASES, REVOKED_USERS, SESSIONS_A_USER, STAMPEDE, STEADY } from './cases.mjs';
import { PEERS } from './peers.mjs';

const capital = (text) => text[0].toUpperCase() + text.slice(1);
const optional = (value, format) => (value === null ? '' : spread(value, format));
const milliseconds = (value) => readable(value / 1000);

/** A column is a heading and what it says of a row. */
const PEER = ['', ({ peer }) => PEERS[peer].title];
const THROUGHPUT = ['calls a second', ({ throughput }) => spread(throughput, whole)];
const P50 = ['p50, us', ({ p50 }) => spread(p50)];
const P99 = ['p99, us', ({ p99 }) => spread(p99)];
const MAIN_THREAD = ['main thread, us a call', ({ mainThread }) => spread(mainThread)];
const LOOP = ['event loop busy, %', ({ loop }) => spread(loop, whole)];
const CPU = ['process CPU, us a call', ({ cpu }) => spread(cpu)];
const QUERIES = ['Postgres queries a call', ({ queries }) => queries.median.toFixed(2)];
const AWAITED = ['a call, awaited, us', ({ awaited }) => spread(awaited)];
const LOCAL = ['answered in the process, %', ({ local }) => optional(local)];
const BYTES = ['bytes a session', ({ bytes }) => optional(bytes, whole)];
const NATIVE = ["of them outside of V8's heap", ({ nativeBytes }) => optional(nativeBytes, whole)];

const REMOTE = [PEER, THROUGHPUT, P50, P99, MAIN_THREAD, LOOP, CPU, QUERIES];
const COLUMNS = {
  hot: [PEER, AWAITED, P50, P99, THROUGHPUT, MAIN_THREAD, CPU, LOCAL],
  million: [PEER, AWAITED, P50, P99, THROUGHPUT, CPU, LOCAL, BYTES, NATIVE],
  revoke: [
    PEER,
    ['p50, ms', ({ p50 }) => spread(p50, milliseconds)],
    ['p99, ms', ({ p99 }) => spread(p99, milliseconds)],
    ['sessions in the process', ({ cachedLocally }) => optional(cachedLocally, whole)],
  ],
  steady: [
    PEER,
    P50,
    P99,
    MAIN_THREAD,
    CPU,
    QUERIES,
    ['the same a session, in the life of a copy', ({ reads }) => readable(reads.median)],
    ['statements for activity in 1,000 calls', ({ updates, peer }) => (PEERS[peer].addon ? updates.median.toFixed(2) : 'keeps none')],
  ],
};

function caseTable({ id, set, title }, { rows, omitted }) {
  const here = rows.filter((row) => row.case === id);
  const missing = omitted.filter((each) => each.case === id);
  if (here.length + missing.length === 0) return [];
  const columns = COLUMNS[set] ?? REMOTE;
  const lines = here.map((row) => columns.map(([, text]) => text(row)));
  for (const { peer, reason } of missing) lines.push([PEERS[peer].title, `could not be measured: ${reason}`, ...columns.slice(2).map(() => '')]);
  const head = columns.map(([text]) => text);
  return [`### ${capital(title)}`, '', ...table(head, lines), '', ...failures(here, ({ peer }) => PEERS[peer].title)];
}

const of = (...sets) => CASES.filter(({ set }) => sets.includes(set));

function stampedeLines(rows) {
  const counted = rows.filter(({ stampede }) => stampede !== null);
  if (counted.length === 0) return [];
  return [
    `Queries to Postgres for ${STAMPEDE} simultaneous first calls with one token that nobody has cached:`,
    `${counted.map((row) => `${PEERS[row.peer].title} ${whole(row.stampede.median)}`).join(', ')}.`,
    '',
  ];
}

function footprintLines({ binary, require }) {
  const lines = [];
  if (binary) lines.push(`- \`${binary.name}\`, stripped: ${readable(binary.bytes / 1_000_000)} MB`);
  if (require) {
    lines.push(`- \`require('@studio/redis-native')\`: ${spread(require.addon)} ms, median of ${require.count} fresh processes, Node's start not counted`);
    lines.push(`- \`require('ioredis')\` and \`require('pg')\`, in the same way: ${spread(require.peers)} ms`);
  }
  return lines.length > 0 ? ['## Size and start', '', ...lines, ''] : [];
}

const notes = ({ run, servers, scale: { many, ttlSeconds } }) => [
  `- Every number is the median over the rounds (${run.rounds}), with the lowest and the highest in brackets. Each cell is a process of its own, warmed up and then measured for ${run.seconds} s (a cold one ends earlier when every session has been asked for); the peers take turns within a round, because machines drift. The million and the steady state are measured once.`,
  '- Redis, Postgres and the measured process share the machine and talk over loopback: absolute figures are of this machine, ratios travel better.',
  '- Every peer has at most 10 connections to Postgres, asks the same question (session not expired, user neither deleted nor banned) by a prepared statement, caches by the SHA-256 of the token, and answers with the same object. `lru-cache` and `bentocache` do not hear of what other processes revoke, and serve it until their copy ends.',
  `- Hot: ${whole(CACHED_SESSIONS)} sessions in turn, each cached in the process of the peer. Postgres by \`pg\` and cache-aside have nothing there; what they do with cached sessions is in the tables of Redis hits.`,
  '- A call, awaited: time of at least a thousand calls, each caller awaiting one before it makes the next, divided by their number; the median of such samples. p50 and p99 there are of single calls, with the clock read around each and the cost of reading it, measured in the same process, taken off; with 50 and 500 in flight they include the turns of the other callers. The event loop turns between samples. Calls a second are those within samples. Node has `crypto.hash` since 20.12: `lru-cache` and `bentocache` get their keys by it.',
  `- A million: ${many === 1_000_000 ? '' : `in this run ${whole(many)}; `}the sessions in turn. This package has read them from Postgres and from Redis; the others, which would take minutes, were handed them, as objects that are like those from Redis. Bytes: by how much the resident memory of the process has grown, after collecting garbage, by sessions; V8's heap (\`heapTotal\`) is where caches in JavaScript have them, and where this package keeps a bounded number of objects.`,
  `- Redis hit: ${whole(CACHED_SESSIONS)} cached sessions in turn, so that calls in flight do not share a token, with the tier in the process switched off (\`SESSION_CACHE_LOCAL_ENABLED=false\`; \`bentocache\` without memory; \`lru-cache\` would be cache-aside). The bare GET gets the same sessions as JSON text. Cold: each call has a token that was never asked for, and Redis is empty at the start. Every answer is checked to be the right session; of hot calls some are, and all to be a session.`,
  `- Revocations: \`revokeAllUserSessionsWithCache\` of ${REVOKED_USERS - 20} users, one after the other, each with ${SESSIONS_A_USER} sessions that are cached in the process and in Redis. That none of them is accepted any more is checked afterwards.`,
  `- Steady state: any of the sessions, ${whole(STEADY.callsASecond)} times a second, with copies that live ${ttlSeconds} s instead of 300 so that many end: for one such life to get there, and measured for the next. Statements for activity: counted in Postgres by a trigger, over the whole life of the process, with what it writes at its end.`,
  processNote(run),
  `- Postgres queries: counted where they are sent (around \`pool.query\`; \`getSessionCacheMetrics().databaseReads\`) and compared with Postgres's own count of transactions over each process's whole life, which differed by at most ${whole(servers.uncounted)} a process (connections, start-up checks, activity). For \`validateSession\`, which keeps no count, Postgres's own is taken.`,
];

export function page({ rows, omitted, targets, servers, scale, footprint, run, picture }) {
  const tables = (...sets) => of(...sets).flatMap((each) => caseTable(each, { rows, omitted }));
  return wholePage({
    title: 'Session validation',
    command: 'node __test__/bench/run.mjs sessions',
    pictureText: 'Time a call, throughput and main-thread time of session validation',
    run,
    picture,
    targets,
    body: [
      '## Validations',
      '',
      ...tables('hot', 'million', 'redis', 'cold', 'one-token'),
      ...stampedeLines(rows),
      '## Revocations, and a running server',
      '',
      ...tables('revoke', 'steady'),
      ...footprintLines(footprint),
      '## How the numbers are made',
      '',
      ...notes({ run, servers, scale }),
    ],
  });
}
