// What the numbers were measured on.

import { createRequire } from 'node:module';
import os from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';

const require = createRequire(import.meta.url);

/** The share of all processors' time, 0 to 1, that was spent working during the next `milliseconds`. */
export async function busyShare(milliseconds) {
  const read = () => os.cpus().reduce(
    ({ idle, all }, { times }) => ({ idle: idle + times.idle, all: all + Object.values(times).reduce((sum, time) => sum + time, 0) }),
    { idle: 0, all: 0 },
  );
  const before = read();
  await sleep(milliseconds);
  const after = read();
  const all = after.all - before.all;
  return all > 0 ? 1 - (after.idle - before.idle) / all : 0;
}

/** Pairs of name and value; nothing that tells who owns the machine. */
export function machineFacts({ redis, postgres }) {
  const cpus = os.cpus();
  const version = (name) => require(`${name}/package.json`).version;
  return [
    ['date', new Date().toISOString().slice(0, 10)],
    ['machine', `${cpus.length} x ${cpus[0].model.trim()}, ${Math.round(os.totalmem() / 2 ** 30)} GB, ${process.platform} ${process.arch}`],
    ['servers', `Redis ${redis}, Postgres ${postgres}, on the same machine`],
    ['Node', process.versions.node],
    ['peers', `ioredis ${version('ioredis')}, pg ${version('pg')}`],
    ['package', require('../../package.json').version],
  ];
}
