// Builds the addon with the loader and its types (binding.js, binding.d.ts), and puts the binary into the package of this
// platform as well, so that `npm pack ./npm/<platform>` has it. `--debug` builds without optimisation.

import { spawnSync } from 'node:child_process';
import { copyFileSync, readdirSync, rmSync, statSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');
const debug = process.argv.includes('--debug');
const target = process.argv.flatMap((arg, index, all) => (arg === '--target' ? ['--target', all[index + 1]] : []));
const cross = process.argv.filter((arg) => ['--use-napi-cross', '--cross-compile'].includes(arg));

const started = Date.now();
const napi = path.join(root, 'node_modules', '@napi-rs', 'cli', 'dist', 'cli.js');
const options = [
  'build',
  '--platform',
  '--js',
  'binding.js',
  '--dts',
  'binding.d.ts',
  ...(debug ? [] : ['--release']),
  ...target,
  ...cross,
];
const { status } = spawnSync(process.execPath, [napi, ...options], { cwd: root, stdio: 'inherit' });
if (status !== 0) process.exit(status ?? 1);

for (const file of readdirSync(root)) {
  const platform = /^redis-native\.(.+)\.node$/.exec(file)?.[1];
  const binary = path.join(root, file);
  if (!platform || statSync(binary).mtimeMs < started) continue;
  const copy = path.join(root, 'npm', platform, file);
  // A process that has loaded the old file keeps it: a new file takes its name instead of its contents.
  rmSync(copy, { force: true });
  copyFileSync(binary, copy);
}
