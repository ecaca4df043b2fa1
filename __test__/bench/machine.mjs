// What the numbers were measured on, and whether it was at rest.

import { readFileSync } from 'node:fs';
import os from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';

const versionIn = (file) => JSON.parse(readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8')).version;

/** The share of all processors' time, 0 to 1, that was spent working during the next `milliseconds`. */
async function busyShare(milliseconds) {
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

/** The machine must be at rest: whatever else runs takes from all peers, but not from all alike. */
export async function restWarnings() {
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

/** Pairs of name and value; nothing that tells who owns the machine. `packages` are those of the peers. */
export function machineFacts({ servers, packages }) {
  const cpus = os.cpus();
  return [
    ['date', new Date().toISOString().slice(0, 10)],
    ['machine', `${cpus.length} x ${cpus[0].model.trim()}, ${Math.round(os.totalmem() / 2 ** 30)} GB, ${process.platform} ${process.arch}`],
    ['servers', `${servers.join(', ')}, on the same machine`],
    ['Node', process.versions.node],
    ['peers', packages.map((name) => `${name} ${versionIn(`node_modules/${name}/package.json`)}`).join(', ')],
    ['package', versionIn('package.json')],
  ];
}
