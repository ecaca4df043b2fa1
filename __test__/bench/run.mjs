// Session validation against what one would write without this package. `--help` prints the options.

import { fork } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { CASES } from './cases.mjs';
import { chart } from './chart.mjs';
import { binarySize, requireTime } from './footprint.mjs';
import { busyShare, machineFacts } from './machine.mjs';
import { mainThreadMeasure } from './main-thread.mjs';
import { PEERS } from './peers.mjs';
import { markdown } from './report.mjs';
import { Servers } from './servers.mjs';
import { summarize, targets } from './summary.mjs';

const HELP = `node __test__/bench/run.mjs [options]
  --quick            one short round of everything, as a smoke test; writes no files
  --peers a,b        only these peers (${Object.keys(PEERS).join(', ')}); writes no files
  --cases a,b        only these cases (${CASES.map(({ id }) => id).join(', ')}); writes no files
  --rounds n         default 3
  --seconds s        measured time of a cell, default 3
  --addon folder     another build of the package
  --out folder       where sessions.md and sessions.svg go, default bench/results; also writes what a part measured`;

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', '..');
const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    peers: { type: 'string' },
    cases: { type: 'string' },
    rounds: { type: 'string' },
    seconds: { type: 'string' },
    addon: { type: 'string', default: root },
    out: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
});

/** The scale of a run. Sessions: enough for a cold cell at full speed, so that it rarely ends early. */
const scale = options.quick
  ? { rounds: 1, seconds: 0.3, warmUpMs: 150, sessions: 8000, requires: 5 }
  : { rounds: 3, seconds: 3, warmUpMs: 600, sessions: 50_000, requires: 20 };

function positive(name, fallback) {
  if (options[name] === undefined) return fallback;
  const value = Number(options[name]);
  if (!(value > 0)) throw new RangeError(`--${name} must be a positive number, got ${options[name]}.`);
  return value;
}

function chosen(name, known) {
  const names = options[name]?.split(',') ?? known;
  const unknown = names.find((one) => !known.includes(one));
  if (unknown !== undefined) throw new RangeError(`--${name}: there is no ${unknown}, only ${known.join(', ')}.`);
  return known.filter((one) => names.includes(one));
}

/** The environment of a cell: only the peers' own defaults, whatever the shell has set. */
function environment(servers) {
  const inherited = Object.entries(process.env).filter(([name]) => !/^(REDIS|DATABASE|SESSION|RATE_LIMIT|STUDIO)_/.test(name));
  return {
    ...Object.fromEntries(inherited),
    NODE_ENV: 'production',
    REDIS_URL: servers.redis.url,
    DATABASE_URL: servers.databaseUrl,
  };
}

/** Measures one cell in a process of its own; `timeoutMs` is for a peer that hangs. */
function measure(servers, cell, timeoutMs) {
  return new Promise((resolve, reject) => {
    const child = fork(path.join(root, '__test__', 'bench', 'cell.mjs'), [], { env: environment(servers), execArgv: [] });
    const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
    let reply = null;
    child.once('message', (message) => (reply = message));
    child.once('error', reject);
    child.once('exit', (code, signal) => {
      clearTimeout(timer);
      if (reply?.result) resolve(reply.result);
      else reject(new Error(`${cell.peer}, ${cell.title}: ${reply?.error ?? `the process ended with ${signal ?? code}`}`));
    });
    child.send(cell, (error) => error && reject(error));
  });
}

/** All cells of all rounds, the peers of one case next to each other, and each round beginning with another peer. */
function* plan(rounds, peers, cases) {
  for (let round = 0; round < rounds; round += 1) {
    for (const each of CASES.filter(({ id }) => cases.includes(id))) {
      const able = peers.filter((peer) => (PEERS[peer].only ?? [each.id]).includes(each.id));
      for (let index = 0; index < able.length; index += 1) yield { round, each, peer: able[(index + round) % able.length] };
    }
  }
}

async function measureAll(servers, cells, seconds) {
  const results = [];
  let uncounted = 0;
  for (const [index, { round, each, peer }] of cells.entries()) {
    await servers.forgetEverything();
    const before = await servers.transactions();
    const cell = {
      ...each,
      peer,
      sessions: servers.sessions,
      warmUpMs: scale.warmUpMs,
      measuredMs: seconds * 1000,
      addon: path.resolve(options.addon),
      redisUrl: servers.redis.url,
      databaseUrl: servers.databaseUrl,
    };
    const { life, ...result } = await measure(servers, cell, seconds * 1000 + 60_000);
    const transactions = (await servers.transactions()) - before;
    if (life.queries === null) result.queries = transactions / life.calls;
    else uncounted = Math.max(uncounted, Math.abs(transactions - life.queries));
    results.push({ ...result, round, peer, case: each.id });
    const speed = Math.round(result.throughput).toLocaleString('en-US');
    const failures = result.failed > 0 ? `, ${result.failed} REJECTED: ${result.failure}` : '';
    const numbers = `${speed} calls/s, p50 ${result.p50.toFixed(1)} us, main thread ${result.mainThread.toFixed(1)} us, ${result.queries.toFixed(2)} queries`;
    console.log(`[${index + 1}/${cells.length}] round ${round + 1}, ${each.title}, ${peer}: ${numbers}${failures}`);
  }
  return { results, uncounted };
}

/** The machine must be at rest: whatever else runs takes from all peers, but not from all alike. */
async function restWarnings() {
  const cores = os.cpus().length;
  const load = os.loadavg()[0] / cores;
  const busy = await busyShare(2000);
  console.log(`Load average a core ${load.toFixed(2)} over the last minute; processors ${Math.round(busy * 100)} % busy over the last 2 s.`);
  const warnings = [];
  // A build just before leaves a load average behind, but no busy processor.
  if (load > 0.5 && busy > 0.1) warnings.push(`the machine was not at rest (load average ${load.toFixed(2)} a core, ${Math.round(busy * 100)} % busy).`);
  else if (busy > 0.25) warnings.push(`the processors were ${Math.round(busy * 100)} % busy at the start.`);
  for (const warning of warnings) console.log(`WARNING: ${warning}`);
  return warnings;
}

async function footprint(peers) {
  if (!peers.includes('addon')) return { binary: null, require: null };
  const require = {
    count: scale.requires,
    addon: await requireTime([path.resolve(options.addon)], { count: scale.requires, cwd: root }),
    peers: await requireTime(['ioredis', 'pg'], { count: scale.requires, cwd: root }),
  };
  return { binary: binarySize(path.resolve(options.addon)), require };
}

/** Says now, rather than after minutes, that there is nothing to measure. */
function requireAddon() {
  try {
    createRequire(import.meta.url)(path.resolve(options.addon));
  } catch (error) {
    throw new Error(`The addon does not load; \`npm run build\` builds it. ${error.message.split('\n')[0]}`);
  }
}

async function main() {
  const rounds = positive('rounds', scale.rounds);
  const seconds = positive('seconds', scale.seconds);
  const peers = chosen('peers', Object.keys(PEERS));
  const cases = chosen('cases', CASES.map(({ id }) => id));
  if (peers.some((peer) => peer.startsWith('addon'))) requireAddon();

  const warnings = await restWarnings();
  const servers = await Servers.start(scale.sessions);
  try {
    const cells = [...plan(rounds, peers, cases)];
    console.log(`${cells.length} cells, about ${Math.ceil((cells.length * (seconds + scale.warmUpMs / 1000 + 0.6)) / 60)} min.`);
    const { results, uncounted } = await measureAll(servers, cells, seconds);
    const size = await footprint(peers);
    const rows = summarize(results);
    const facts = machineFacts(await servers.versions());
    const whole = !options.quick && options.peers === undefined && options.cases === undefined;
    const out = options.out ?? (whole ? path.join(root, 'bench', 'results') : null);
    const page = markdown({
      rows,
      targets: targets(results, size),
      footprint: size,
      run: { rounds, seconds, uncounted, warnings, facts, mainThreadMeasure },
      chart: out && 'sessions.svg',
    });
    console.log(`\n${page}`);
    if (out) {
      mkdirSync(out, { recursive: true });
      writeFileSync(path.join(out, 'sessions.md'), page);
      writeFileSync(path.join(out, 'sessions.svg'), chart(rows));
      console.log(`Written: ${path.relative(process.cwd(), out)}/sessions.md and sessions.svg`);
    }
  } finally {
    await servers.stop();
  }
}

if (options.help) {
  console.log(HELP);
} else {
  try {
    await main();
  } catch (error) {
    console.error(error.message);
    // Whatever is still open: the servers end with this process.
    process.exit(1);
  }
}
