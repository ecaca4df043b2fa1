// Measures the cells of a table one after the other, each in a process of its own.

import { fork } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const CELL = path.join(path.dirname(fileURLToPath(import.meta.url)), 'cell.mjs');

/** The environment of a cell: only the peers' own defaults, whatever the shell has set. */
function environment(servers) {
  const inherited = Object.entries(process.env).filter(([name]) => !/^(REDIS|DATABASE|SESSION|RATE_LIMIT|STUDIO)_/.test(name));
  return { ...Object.fromEntries(inherited), NODE_ENV: 'production', ...servers.environment };
}

/** `timeoutMs` is for a peer that hangs. */
function measureCell(servers, cell, timeoutMs) {
  return new Promise((resolve, reject) => {
    const child = fork(CELL, [], { env: environment(servers), execArgv: [] });
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
export function* plan(table, { rounds, peers, cases }) {
  for (let round = 0; round < rounds; round += 1) {
    for (const each of table.cases.filter(({ id }) => cases.includes(id))) {
      const able = peers.filter((peer) => (table.peers[peer].only ?? [each.id]).includes(each.id));
      for (let index = 0; index < able.length; index += 1) yield { round, each, peer: able[(index + round) % able.length] };
    }
  }
}

export async function measureAll(table, servers, cells, { seconds, warmUpMs, addon }) {
  const results = [];
  for (const [index, { round, each, peer }] of cells.entries()) {
    const cell = { ...each, table: table.id, peer, warmUpMs, measuredMs: seconds * 1000, addon, ...servers.forCells };
    const result = await servers.around(() => measureCell(servers, cell, seconds * 1000 + 60_000));
    results.push({ ...result, round, peer, case: each.id });
    const speed = Math.round(result.throughput).toLocaleString('en-US');
    const failures = result.failed > 0 ? `, ${result.failed} REJECTED: ${result.failure}` : '';
    const numbers = `${speed} calls/s, p50 ${result.p50.toFixed(1)} us, main thread ${result.mainThread.toFixed(1)} us, ${table.progress(result)}`;
    console.log(`[${index + 1}/${cells.length}] round ${round + 1}, ${each.title}, ${peer}: ${numbers}${failures}`);
  }
  return results;
}
