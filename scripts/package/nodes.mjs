// Other versions of Node, by the lock file in __test__/nodes, in target/nodes. They are no dependencies of the project
// itself, because who builds or measures it need not have them.

import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { NPM_CI } from '../prepare.mjs';
import { hostPlatform, root } from './manifests.mjs';

const wanted = path.join(root, '__test__', 'nodes');
const folder = path.join(root, 'target', 'nodes');
const read = (...file) => readFileSync(path.join(...file), 'utf8');

/** Why there are none here, or undefined. Their packages are for one platform. */
export const whyNoNodes = () =>
  hostPlatform() === 'linux-x64-gnu'
    ? undefined
    : `npm has Node as a package for linux-x64-gnu only, this is ${hostPlatform()}`;

function isInstalled() {
  if (!existsSync(path.join(folder, 'node_modules', '.package-lock.json'))) return false;
  return read(folder, 'package-lock.json') === read(wanted, 'package-lock.json');
}

const names = Object.keys(JSON.parse(read(wanted, 'package.json')).optionalDependencies);

/** Where the Node of a major version is, once it is installed. */
export const nodePath = (major) => path.join(folder, 'node_modules', `node-${major}`, 'bin', 'node');

/** The major versions that there are here; installs them if they are not. */
export function nodes() {
  if (whyNoNodes()) return [];
  if (!isInstalled()) {
    mkdirSync(folder, { recursive: true });
    for (const file of ['package.json', 'package-lock.json'])
      copyFileSync(path.join(wanted, file), path.join(folder, file));
    const [npm, ...args] = [...NPM_CI, '--ignore-scripts', '--prefer-offline'];
    const { status } = spawnSync(npm, args, { cwd: folder, stdio: 'inherit' });
    if (status !== 0)
      throw new Error(`The versions of Node could not be installed: ${[npm, ...args].join(' ')} ended with ${status}.`);
  }
  return names.map((name) => name.replace('node-', ''));
}
