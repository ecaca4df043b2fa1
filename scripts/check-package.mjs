// Publishes the packages to a registry on loopback and installs them from there into empty folders, with npm and with pnpm
// and without install scripts, as users do; uses them there, under several versions of Node. Platforms other than this
// one are represented by files that are no binaries. Needs REDIS_URL and DATABASE_URL:
// `node scripts/with-services.mjs -- node scripts/check-package.mjs`.

import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, realpathSync, rmSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, tmpdir } from 'node:os';
import path from 'node:path';
import { inReach, install, installLocked, installed, lockOf } from './package/installing.mjs';
import {
  binaryOf,
  checkManifests,
  hostPlatform,
  manifest,
  packageOf,
  platformManifest,
  platforms,
} from './package/manifests.mjs';
import { nodePath, nodes, whyNoNodes } from './package/nodes.mjs';
import { publishAll } from './package/publish.mjs';
import { startRegistry } from './package/registry.mjs';
import { stage } from './package/stage.mjs';
import { checkMissing, checkTypes, checkUse, timeOfRequire } from './package/using.mjs';

const { Database } = createRequire(import.meta.url)('../__test__/helpers/database.js');
const host = hostPlatform();
const inScope = (name) => name.slice('@studio/'.length);
const MAIN = inScope(manifest.name);
const BOTH = [MAIN, inScope(packageOf(host))];

/** Runs jobs, as many at once as there are processors, and says how long they took together. */
async function together(title, jobs) {
  const started = Date.now();
  const left = [...jobs];
  const next = async () => {
    for (let job = left.shift(); job; job = left.shift()) await job();
  };
  await Promise.all(Array.from({ length: availableParallelism() }, next));
  console.log(`${title}: ${((Date.now() - started) / 1000).toFixed(1)} s`);
}

/** The files below a folder, with slashes. */
const filesOf = (folder) =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) =>
      path
        .relative(folder, path.join(entry.parentPath ?? entry.path, entry.name))
        .split(path.sep)
        .join('/'),
    )
    .sort();

/** What is installed is what the manifests say, and of the binaries only the one of this platform. */
function checkContents(folder) {
  const main = ['LICENSE', 'README.md', 'package.json', ...manifest.files].sort();
  assert.deepEqual(filesOf(path.join(folder, 'node_modules', manifest.name)), main);
  const binary = ['LICENSE', 'README.md', 'package.json', binaryOf(host)].sort();
  assert.deepEqual(filesOf(path.join(folder, 'node_modules', packageOf(host))), binary);
}

/** A lock file that names all platforms can be used on all of them. */
function checkLock(manager, folder) {
  const lock = lockOf(manager, folder);
  for (const platform of platforms)
    assert.ok(lock.includes(packageOf(platform)), `the lock file of ${manager} lacks ${platform}`);
}

const work = mkdtempSync(path.join(realpathSync(tmpdir()), 'studio-redis-native-package-'));
const at = (name) => path.join(work, name);
const database = new Database();
let registry;
try {
  checkManifests();
  const [versions, sessions] = [nodes(), await database.createSessions(20)];
  const twoSessions = () => sessions.splice(0, 2);
  registry = await startRegistry(at('registry'));
  const { env } = registry;

  const folders = stage(at('stage'), { standIns: true });
  const log = [];
  await together('published', [() => publishAll(folders, { env, log: (line) => log.push(line) })]);
  assert.equal(log.length, platforms.length + 1);
  assert.match(log.at(-1), /^@studio\/redis-native@.+ is published$/, 'the main package comes last');

  await together('installed with npm and pnpm', [
    async () => {
      const folder = await install('npm', at('npm'), env);
      assert.deepEqual(installed('npm', folder), BOTH);
      checkContents(folder);
      checkLock('npm', folder);
      assert.deepEqual(installed('npm', await installLocked('npm', folder, at('npm-locked'), env)), BOTH);
    },
    async () => {
      const folder = await install('pnpm', at('pnpm'), env);
      assert.deepEqual(installed('pnpm', folder), BOTH);
      assert.deepEqual(inReach(folder), [MAIN], 'only what was asked for is in reach');
      checkLock('pnpm', folder);
      assert.deepEqual(installed('pnpm', await installLocked('pnpm', folder, at('pnpm-locked'), env)), BOTH);
    },
  ]);
  await together(
    'types',
    ['npm', 'pnpm'].map((name) => () => checkTypes(at(name), env)),
  );

  const runs = [
    ...['npm-locked', 'pnpm-locked', 'pnpm'].map((name) => ({ name, end: 'shutdown' })),
    { name: 'npm', end: 'nothing' },
    ...versions.flatMap((major) => [
      { name: 'npm', node: nodePath(major), end: 'shutdown' },
      { name: 'pnpm', node: nodePath(major), end: 'nothing' },
    ]),
  ];
  if (whyNoNodes()) console.log(`not under other versions of Node: ${whyNoNodes()}`);
  await together(
    `used under Node ${[process.versions.node, ...versions].join(', ')}`,
    runs.map(
      ({ name, ...options }) =>
        () =>
          checkUse(at(name), env, { sessions: twoSessions(), ...options }),
    ),
  );

  await together('without the binary, and on other platforms', [
    async () => checkMissing(await install('npm', at('npm-omit'), env, '--omit=optional'), env),
    async () => checkMissing(await install('pnpm', at('pnpm-omit'), env, '--no-optional'), env),
    ...platforms.map((platform) => async () => {
      const { os, cpu, libc = [] } = platformManifest(platform);
      const options = [`--os=${os}`, `--cpu=${cpu}`, ...libc.map((name) => `--libc=${name}`)];
      const folder = await install('npm', at(`npm-${platform}`), env, ...options);
      assert.deepEqual(installed('npm', folder), [MAIN, inScope(packageOf(platform))]);
      if (platform !== host) await checkMissing(folder, env);
    }),
    async () => {
      const again = [];
      await publishAll(folders.slice(-1), { env, log: (line) => again.push(line) });
      assert.match(again[0], /is there already$/, 'a release that broke off can be run again');
    },
  ]);

  const binary = path.join(at('npm'), 'node_modules', packageOf(host), binaryOf(host));
  console.log(`package: ${filesOf(path.join(at('npm'), 'node_modules', manifest.name)).length} files`);
  console.log(`${binaryOf(host)}: ${(statSync(binary).size / 1e6).toFixed(2)} MB`);
  console.log(`require: ${(await timeOfRequire(at('npm'), env)).toFixed(1)} ms (median of 9 processes)`);
} finally {
  await registry?.stop();
  await database.end();
  rmSync(work, { recursive: true, force: true, maxRetries: 5 });
}
