// The table, as Markdown.

import { CASES, STAMPEDE, WARM_SESSIONS } from './cases.mjs';
import { PEERS } from './peers.mjs';

const inEnglish = (digits) => (value) => value.toLocaleString('en-US', { minimumFractionDigits: digits, maximumFractionDigits: digits });
/** Three digits say what a benchmark knows. */
const readable = (value) => inEnglish(value < 1 ? 2 : value < 100 ? 1 : 0)(value);
const whole = inEnglish(0);

function spread({ median, min, max }, format = readable) {
  const [middle, lowest, highest] = [median, min, max].map(format);
  return lowest === highest ? middle : `${middle} (${lowest}–${highest})`;
}

const line = (cells) => `| ${cells.join(' | ')} |`;

function caseTable({ id, title }, rows) {
  const here = rows.filter((row) => row.case === id);
  if (here.length === 0) return [];
  const head = ['', 'calls a second', 'p50, us', 'p99, us', 'main thread, us a call', 'event loop busy, %', 'process CPU, us a call', 'Postgres queries a call'];
  return [
    `### ${title[0].toUpperCase()}${title.slice(1)}`,
    '',
    line(head),
    line(head.map((_, index) => (index === 0 ? '---' : '--:'))),
    ...here.map((row) =>
      line([
        PEERS[row.peer].title,
        spread(row.throughput, whole),
        spread(row.p50),
        spread(row.p99),
        spread(row.mainThread),
        spread(row.loop, whole),
        spread(row.cpu),
        row.queries.median.toFixed(2),
      ]),
    ),
    '',
    ...here.filter(({ failed }) => failed > 0).map((row) => `${PEERS[row.peer].title}: ${whole(row.failed)} calls were rejected, the first with \`${row.failure}\`.\n`),
  ];
}

function stampedeLines(rows) {
  const counted = rows.filter(({ stampede }) => stampede !== null);
  if (counted.length === 0) return [];
  return [
    `Queries to Postgres for ${STAMPEDE} simultaneous first calls with one token that nobody has cached:`,
    `${counted.map((row) => `${PEERS[row.peer].title} ${whole(row.stampede)}`).join(', ')}.`,
    '',
  ];
}

const VERDICTS = new Map([
  [true, 'met'],
  [false, '**missed**'],
  [null, ''],
]);

function footprintLines({ binary, require }) {
  const lines = [];
  if (binary) lines.push(`- \`${binary.name}\`, stripped: ${readable(binary.bytes / 1_000_000)} MB`);
  if (require) {
    lines.push(`- \`require('@studio/redis-native')\`: ${spread(require.addon)} ms, median of ${require.count} fresh processes, Node's start not counted`);
    lines.push(`- \`require('ioredis')\` and \`require('pg')\`, in the same way: ${spread(require.peers)} ms`);
  }
  return lines.length > 0 ? ['## Size and start', '', ...lines, ''] : [];
}

/** The whole page; `chart` is the name of the picture beside it, if there is one. */
export function markdown({ rows, targets, footprint, run, chart }) {
  return [
    '# Session validation',
    '',
    'Written by `make bench`. To run it again: `make bench`; without building: `node __test__/bench/run.mjs`.',
    '',
    ...run.facts.map(([name, value]) => `- ${name}: ${value}`),
    ...run.warnings.map((warning) => `- **Warning**: ${warning}`),
    '',
    ...(chart ? [`![Throughput and main-thread time of session validation](${chart})`, ''] : []),
    '## Targets',
    '',
    line(['target', 'measured', '']),
    line(['---', '--:', '---']),
    ...targets.map(({ text, measured, met }) => line([text, measured, VERDICTS.get(met)])),
    '',
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
    `- Main thread: ${run.mainThreadMeasure} by calls. Event loop busy: \`performance.eventLoopUtilization\`, which counts waiting for a processor as work. Process CPU: \`process.cpuUsage\`, all threads, by calls. All include what the benchmark itself does, which is the same for every peer.`,
    `- Postgres queries: counted where they are sent (around \`pool.query\`; \`getSessionCacheMetrics().databaseReads\`) and compared with Postgres's own count of transactions over each process's whole life, which differed by at most ${whole(run.uncounted)} a process (connections, start-up checks). For \`validateSession\`, which keeps no count, Postgres's own is taken.`,
    '',
  ].join('\n');
}
