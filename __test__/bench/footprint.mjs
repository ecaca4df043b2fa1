// What the package costs before its first call: the size of the binary, and the time of `require`.

import { execFile } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { spreadOf } from './summary.mjs';

const execute = promisify(execFile);

/** Bytes of the addon's binary for this machine, as the build left it (stripped by the release profile). */
export function binarySize(folder) {
  const binaries = readdirSync(folder).filter((name) => name.endsWith('.node'));
  const [binary] = binaries.length > 1 ? binaries.filter((name) => name.includes(`${process.platform}-${process.arch}`)) : binaries;
  return binary ? { name: binary, bytes: statSync(path.join(folder, binary)).size } : null;
}

/** Milliseconds that requiring `modules` takes, in `count` fresh processes; Node's own start is not part of it. */
export async function requireTime(modules, { count, cwd }) {
  const script = `
    const began = performance.now();
    for (const name of ${JSON.stringify(modules)}) require(name);
    process.stdout.write(String(performance.now() - began));
    process.exit();`;
  const times = [];
  for (let index = 0; index < count; index += 1) {
    const { stdout } = await execute(process.execPath, ['-e', script], { cwd });
    times.push(Number(stdout));
  }
  return spreadOf(times);
}
