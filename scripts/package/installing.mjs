// Installs the package into empty folders, as its users do, and says what has come to be there.

import { execFile } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { promisify } from 'node:util';
import { manifest, root } from './manifests.mjs';

const execute = promisify(execFile);
const PNPM = path.join(root, 'node_modules', 'pnpm', 'bin', 'pnpm.cjs');
const COMMANDS = { npm: ['npm'], pnpm: [process.execPath, PNPM] };
export const LOCKS = { npm: 'package-lock.json', pnpm: 'pnpm-lock.yaml' };

/** Runs a command; what it wrote belongs to its error. */
export async function run(folder, env, command, ...args) {
  try {
    return await execute(command, args, { cwd: folder, env, timeout: 60_000, encoding: 'utf8' });
  } catch (error) {
    throw new Error(`${[command, ...args].join(' ')} in ${folder}: ${error.message}\n${error.stdout}${error.stderr}`);
  }
}

/** A folder with nothing but a manifest, which asks for the package. */
function emptyFolder(folder) {
  mkdirSync(folder, { recursive: true });
  const content = { private: true, dependencies: { [manifest.name]: manifest.version } };
  writeFileSync(path.join(folder, 'package.json'), `${JSON.stringify(content, null, 2)}\n`);
  return folder;
}

/** `npm install` or `pnpm install`, which write their lock file. */
export async function install(manager, folder, env, ...options) {
  const [command, ...first] = COMMANDS[manager];
  await run(emptyFolder(folder), env, command, ...first, 'install', ...options);
  return folder;
}

/** Installs by a lock file that another folder has, and nothing else. */
export async function installLocked(manager, from, folder, env) {
  copyFileSync(path.join(from, LOCKS[manager]), path.join(emptyFolder(folder), LOCKS[manager]));
  const options = manager === 'npm' ? ['ci'] : ['install', '--frozen-lockfile'];
  const [command, ...first] = COMMANDS[manager];
  await run(folder, env, command, ...first, ...options);
  return folder;
}

/** The folders that hold packages of the scope, by manager: pnpm keeps what others need out of the user's reach. */
const SCOPES = {
  npm: (folder) => path.join(folder, 'node_modules', '@studio'),
  pnpm: (folder) => path.join(folder, 'node_modules', '.pnpm', 'node_modules', '@studio'),
};

/** The names of what is installed of the scope, that which only the package itself can reach included. */
export function installed(manager, folder) {
  const within = (place) => (existsSync(place) ? readdirSync(place) : []);
  return [...new Set([...within(SCOPES.npm(folder)), ...within(SCOPES[manager](folder))])].sort();
}

/** The names in reach of the user's own code. */
export const inReach = (folder) => readdirSync(SCOPES.npm(folder)).sort();

export const lockOf = (manager, folder) => readFileSync(path.join(folder, LOCKS[manager]), 'utf8');
