// The first table, as Markdown.

import { failures, page as wholePage, processNote, readable, spread, table, whole } from '../report.mjs';
import { CASES, STAMPEDE, WARM_SESSIONS } from './cases.mjs';
import { PEERS } from './peers.mjs';

const HEAD = ['', 'calls a second', 'p50, us', 'p99, us', 'main thread, us a call', 'event loop busy, %', 'process CPU, us a call', 'Postgres queries a call'];

function caseTable({ id, title }, rows) {
  const here = rows.filter((row) => row.case === id);
  if (here.length === 0) return [];
  const lines = here.map((row) => [
    PEERS[row.peer].title,
    spread(row.throughput, whole),
    spread(row.p50),
    spread(row.p99),
    spread(row.mainThread),
    spread(row.loop, whole),
    spread(row.cpu),
    row.queries.median.toFixed(2),
  ]);
  return [`### ${title[0].toUpperCase()}${title.slice(1)}`, '', ...table(HEAD, lines), '', ...failures(here, ({ peer }) => PEERS[peer].title)];
}

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

export function page({ rows, targets, servers, footprint, run, picture }) {
  return wholePage({
    title: 'Session validation',
    command: 'node __test__/bench/run.mjs sessions',
    pictureText: 'Throughput and main-thread time of session validation',
    run,
    picture,
    targets,
    body: [
      '## Validations',
      '',
      ...CASES.flatMap((each) => caseTable(each, rows)),
      ...stampedeLines(rows),
      ...footprintLines(footprint),
      '## How the numbers are made',
      '',
      `- Every number is the median over the rounds (${run.rounds}), with the lowest and the highest in brackets. Each cell is a process of its own, warmed up and then measured for ${run.seconds} s (a cold one ends earlier when every session has been asked for); the peers take turns within a round, because machines drift.`,
      '- Redis, Postgres and the measured process share the machine and talk over loopback: absolute figures are of this machine, ratios travel better.',
      `- Warm: ${whole(WARM_SESSIONS)} cached sessions in turn, so that calls in flight do not share a token. Cold: each call has a token that was never asked for, and Redis is empty at the start. Every answer is checked to be the right session.`,
      '- Every peer has at most 10 connections to Postgres, asks the same question (session not expired, user neither deleted nor banned) by a prepared statement, and answers with the same object.',
      processNote(run),
      `- Postgres queries: counted where they are sent (around \`pool.query\`; \`getSessionCacheMetrics().databaseReads\`) and compared with Postgres's own count of transactions over each process's whole life, which differed by at most ${whole(servers.uncounted)} a process (connections, start-up checks). For \`validateSession\`, which keeps no count, Postgres's own is taken.`,
    ],
  });
}
