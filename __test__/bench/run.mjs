// Sessions against what one would write without this package, alone and inside Next.js, and the Redis client and rate
// limits against others. `--help` prints the options.

import { mkdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { machineFacts, restWarnings } from './machine.mjs';
import { table as limits } from './limits/table.mjs';
import { mainThreadMeasure } from './main-thread.mjs';
import { measureAll, plan } from './measure.mjs';
import { table as next } from './next/table.mjs';
import { table as redis } from './redis/table.mjs';
import { table as sessions } from './sessions/table.mjs';
import { summarize } from './summary.mjs';

const TABLES = { sessions, redis, limits, next };

/** Names of cases: whole groups such as `cold`, then single ones such as `cold-50`. */
const caseNames = ({ cases }) => [...new Set([...cases.map(({ set }) => set), ...cases.map(({ id }) => id)])];

const help = ({ id, peers, cases, scales: { full } }) => `
  ${id}: ${full.rounds} rounds of ${full.seconds} s a cell by default
    peers: ${Object.keys(peers).join(', ')}
    cases: ${caseNames({ cases }).join(', ')}`;

const HELP = `node __test__/bench/run.mjs [${Object.keys(TABLES).join('] [')}] [options]
  --quick            one short round of everything, as a smoke test; writes no files
  --peers a,b        only these peers, of one table; writes no files
  --cases a,b        only these cases or groups of cases, of one table; writes no files
  --rounds n         how often each cell is measured
  --seconds s        measured time of a cell
  --addon folder     another build of the package
  --out folder       where the tables and pictures go, default bench/results; also writes what a part measured
${Object.values(TABLES).map(help).join('\n')}`;

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', '..');
const { values: options, positionals } = parseArgs({
  allowPositionals: true,
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
const addon = path.resolve(options.addon);

function positive(name, fallback) {
  if (options[name] === undefined) return fallback;
  const value = Number(options[name]);
  if (!(value > 0)) throw new RangeError(`--${name} must be a positive number, got ${options[name]}.`);
  return value;
}

function checked(what, names, known) {
  const unknown = names.find((one) => !known.includes(one));
  if (unknown !== undefined) throw new RangeError(`${what}: there is no ${unknown}, only ${known.join(', ')}.`);
  return names;
}

function chosenTables() {
  const names = checked('tables', positionals, Object.keys(TABLES));
  const chosen = Object.values(TABLES).filter(({ id }) => names.length === 0 || names.includes(id));
  if (chosen.length > 1 && (options.peers ?? options.cases) !== undefined) {
    throw new RangeError(`--peers and --cases are of one table: name it, ${Object.keys(TABLES).join(' or ')}.`);
  }
  return chosen;
}

function chosenPeers(table) {
  const known = Object.keys(table.peers);
  const names = checked('--peers', options.peers?.split(',') ?? known, known);
  return known.filter((one) => names.includes(one));
}

function chosenCases(table) {
  const ids = table.cases.map(({ id }) => id);
  const names = checked('--cases', options.cases?.split(',') ?? ids, caseNames(table));
  return table.cases.filter(({ id, set }) => names.includes(id) || names.includes(set)).map(({ id }) => id);
}

/** Says now, rather than after minutes, that there is nothing to measure. */
function requireAddon() {
  try {
    createRequire(import.meta.url)(addon);
  } catch (error) {
    throw new Error(`The addon does not load; \`npm run build\` builds it. ${error.message.split('\n')[0]}`);
  }
}

async function runTable(table) {
  const scale = options.quick ? table.scales.quick : table.scales.full;
  const rounds = positive('rounds', scale.rounds);
  const seconds = positive('seconds', scale.seconds);
  const peers = chosenPeers(table);
  const cases = chosenCases(table);
  if (peers.some((peer) => table.peers[peer].addon)) requireAddon();

  const warnings = await restWarnings();
  const servers = await table.start(scale);
  try {
    const cells = [...plan(table, { rounds, peers, cases })];
    const secondsOf = ({ secondsMore }) => seconds + scale.warmUpMs / 1000 + table.secondsAround + (secondsMore?.(scale) ?? 0);
    const minutes = cells.reduce((sum, { each }) => sum + secondsOf(each), 0) / 60;
    console.log(`${table.id}: ${cells.length} cells, about ${Math.ceil(minutes)} min.`);
    const { results, omitted } = await measureAll(table, servers, cells, { seconds, scale, addon });
    const facts = machineFacts({ servers: await servers.versions(), packages: table.packages });
    const rows = summarize(table, results);
    const whole = !options.quick && options.peers === undefined && options.cases === undefined;
    const out = options.out ?? (whole ? path.join(root, 'bench', 'results') : null);
    const page = table.page({
      rows,
      results,
      omitted,
      servers,
      scale,
      footprint: await table.footprint({ peers, scale, addon, root }),
      run: { rounds, seconds, warmUpSeconds: scale.warmUpMs / 1000, warnings, facts, mainThreadMeasure },
      picture: out && `${table.id}.svg`,
    });
    console.log(`\n${page}`);
    if (out) {
      mkdirSync(out, { recursive: true });
      writeFileSync(path.join(out, `${table.id}.md`), page);
      writeFileSync(path.join(out, `${table.id}.svg`), table.picture(rows));
      console.log(`Written: ${path.relative(process.cwd(), out)}/${table.id}.md and ${table.id}.svg`);
    }
  } finally {
    await servers.stop();
  }
}

if (options.help) {
  console.log(HELP);
} else {
  try {
    for (const table of chosenTables()) await runTable(table);
  } catch (error) {
    console.error(error.message);
    // Whatever is still open: the servers end with this process.
    process.exit(1);
  }
}
