// Measures the cells of a table one after the other, each in a process of its own.

import { fork } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const CELL = path.join(path.dirname(fileURLToPath(import.meta.url)), 'cell.mjs');

/** The environment of a cell: only the peers' own defaults, whatever the shell has set. */
function environment(servers, settings = {}) {
  const inherited = Object.entries(process.env).filter(([name]) => !/^(REDIS|DATABASE|SESSION|RATE_LIMIT|STUDIO)_/.test(name));
  return { ...Object.fromEntries(inherited), NODE_ENV: 'production', ...servers.environment, ...settings };
}

/** `timeoutMs` is for a peer that hangs. */
function measureCell(servers, cell, timeoutMs) {
  return new Promise((resolve, reject) => {
    const child = fork(CELL, [], { env: environment(servers, cell.environment), execArgv: [] });
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

/**
 * All cells of all rounds, the peers of one case next to each other, and each round beginning with another peer. `last` cases
 * come after all others, because they leave much behind in the servers; `once` is for those that take long.
 */
export function* plan(table, { rounds, peers, cases }) {
  const chosen = table.cases.filter(({ id }) => cases.includes(id));
  for (const late of [false, true]) {
    for (let round = 0; round < rounds; round += 1) {
      for (const each of chosen.filter(({ last = false, once }) => last === late && !(once && round > 0))) {
        const able = peers.filter((peer) => (table.peers[peer].only ?? [each.id]).includes(each.id));
        for (let index = 0; index < able.length; index += 1) yield { round, each, peer: able[(index + round) % able.length] };
      }
    }
  }
}

/**
 * A case may have settings of its own for its cells (`settings`), and a peer that cannot do the largest is named rather
 * than ending it all (`optional`).
 */
export async function measureAll(table, servers, cells, { seconds, scale, addon }) {
  const results = [];
  const omitted = [];
  for (const [index, { round, each, peer }] of cells.entries()) {
    const { settings, secondsMore, ...fixed } = each;
    const cell = {
      ...fixed,
      table: table.id,
      peer,
      round,
      warmUpMs: scale.warmUpMs,
      measuredMs: seconds * 1000,
      addon,
      ...servers.forCells,
      ...settings?.(scale),
    };
    const patience = cell.warmUpMs + cell.measuredMs + (cell.patienceMs ?? 60_000);
    let result;
    try {
      result = await servers.around((more) => measureCell(servers, { ...cell, ...more }, patience), cell);
    } catch (error) {
      if (!each.optional) throw error;
      omitted.push({ case: each.id, peer, reason: error.message.split('\n')[0] });
      console.log(`[${index + 1}/${cells.length}] ${each.title}, ${peer}: COULD NOT: ${error.message}`);
      continue;
    }
    results.push({ ...result, round, peer, case: each.id });
    const speed = Math.round(result.throughput).toLocaleString('en-US');
    const failures = result.failed > 0 ? `, ${result.failed} REJECTED: ${result.failure}` : '';
    const numbers = `${speed} calls/s, p50 ${result.p50.toFixed(1)} us, main thread ${result.mainThread.toFixed(1)} us, ${table.progress(result)}`;
    console.log(`[${index + 1}/${cells.length}] round ${round + 1}, ${each.title}, ${peer}: ${numbers}${failures}`);
  }
  return { results, omitted };
}
