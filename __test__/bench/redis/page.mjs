// The second table, as Markdown.

import { failures, page as wholePage, processNote, spread, table, whole } from '../report.mjs';
import { ratio } from '../summary.mjs';
import { BATCH, CASES, KEYS, OPERATIONS } from './cases.mjs';
import { PEERS } from './peers.mjs';

const times = (value) => (value === null ? '' : `${value.toFixed(2)}x`);
const caseOf = (row) => CASES.find(({ id }) => id === row.case);

/** One table of all clients and numbers in flight; each ratio is the row's client by the named one. */
function operationTable({ set, title, commands }, rows, results) {
  const here = rows.filter((row) => caseOf(row).set === set);
  if (here.length === 0) return [];
  const against = (row, measure, peer) => (row.peer === peer ? null : ratio(results, measure, row.case, row.peer, peer));
  const head = ['in flight', '', 'calls a second', 'by ioredis', 'by auto-pipelining', 'p50, us', 'p99, us', 'main thread, us a call', 'by ioredis', 'event loop busy, %', 'process CPU, us a call'];
  if (commands) head.splice(3, 0, 'commands a second');
  const lines = here.map((row) => {
    const line = [
      whole(caseOf(row).inFlight),
      PEERS[row.peer].title,
      spread(row.throughput, whole),
      times(against(row, 'throughput', 'ioredis')),
      times(against(row, 'throughput', 'ioredis-auto')),
      spread(row.p50),
      spread(row.p99),
      spread(row.mainThread),
      times(against(row, 'mainThread', 'ioredis')),
      spread(row.loop, whole),
      spread(row.cpu),
    ];
    if (commands) line.splice(3, 0, whole(row.throughput.median * commands));
    return line;
  });
  const nameOf = (row) => `${PEERS[row.peer].title}, ${caseOf(row).inFlight} in flight`;
  return [`### ${title[0].toUpperCase()}${title.slice(1)}`, '', ...table(head, lines, 2), '', ...failures(here, nameOf)];
}

/** Ours by the others, all cases at a glance. */
function overview(rows, results) {
  const others = Object.keys(PEERS).filter((peer) => peer !== 'ours' && rows.some((row) => row.peer === peer));
  const ours = rows.filter((row) => row.peer === 'ours');
  if (ours.length === 0 || others.length === 0) return [];
  const tableOf = (measure) =>
    table(
      ['', ...others.map((peer) => PEERS[peer].title)],
      ours.map((row) => [caseOf(row).title, ...others.map((peer) => times(ratio(results, measure, row.case, 'ours', peer)))]),
    );
  return [
    '## This package by the others',
    '',
    'Throughput, where more is better:',
    '',
    ...tableOf('throughput'),
    '',
    'Main-thread time a call, where less is better:',
    '',
    ...tableOf('mainThread'),
    '',
  ];
}

export function page({ rows, results, targets, run, picture }) {
  return wholePage({
    title: 'Redis commands',
    command: 'node __test__/bench/run.mjs redis',
    pictureText: 'Throughput and main-thread time of Redis commands by client',
    run,
    picture,
    targets,
    body: [
      ...overview(rows, results),
      '## Commands',
      '',
      ...OPERATIONS.flatMap((operation) => operationTable(operation, rows, results)),
      '## How the numbers are made',
      '',
      `- Every number is the median over the rounds (${run.rounds}), with the lowest and the highest in brackets; every ratio is the median of the rounds' ratios. Each cell is a process of its own, warmed up for ${run.warmUpSeconds} s, so that V8 has compiled what it will, and then measured for ${run.seconds} s; the clients take turns within a round, because machines drift.`,
      '- Redis and the measured process share the machine and talk over loopback: absolute figures are of this machine, ratios travel better. The Cluster has three primaries and no replicas; through TLS (1.3) the certificate of the server is checked.',
      `- In flight: so many loops that each await their call. ${KEYS} keys in turn; an MGET or pipeline has ${BATCH} of them, and one pipeline is one call. For INCR each loop has a counter of its own. Replies are checked.`,
      '- Every client is as its constructor makes it, but for `enableAutoPipelining` where it is named and a longer deadline for valkey-glide (5 s; its 250 ms end calls of the largest cases). Pipelines: `pipeline().exec()`, `multi().execAsPipeline()`, and `exec(new Batch(false))`. ioredis, node-redis and valkey-glide have one connection, this package the pool of its smallest tier. Redis hashes come as objects, from valkey-glide as a list of pairs.',
      processNote(run),
    ],
  });
}
