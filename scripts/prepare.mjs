// What every `make` target needs first: node_modules as the lock says, and with `--build` the addon from the sources
// as they are.

import { spawnSync } from 'node:child_process';
import { existsSync, realpathSync, statSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');

/** True if node_modules was not installed from the present package-lock.json. */
export function isStale() {
  const installed = path.join(root, 'node_modules', '.package-lock.json');
  if (!existsSync(installed)) return true;
  const wanted = ['package.json', 'package-lock.json'].map((file) => statSync(path.join(root, file)).mtimeMs);
  return statSync(installed).mtimeMs < Math.max(...wanted);
}

export const NPM_CI = ['npm', 'ci', '--no-audit', '--no-fund', '--loglevel=error'];

function run(command) {
  const { status } = spawnSync(command[0], command.slice(1), { cwd: root, stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  if (isStale()) run(NPM_CI);
  if (process.argv.includes('--build')) run(['npm', 'run', '--silent', 'build']);
}
