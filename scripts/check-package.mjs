// Packs the package and the one of this platform, installs both tarballs in an empty folder as a user would, without
// install scripts, and uses them there: a session validates, and TypeScript accepts the types. Needs REDIS_URL and
// DATABASE_URL: `node scripts/with-services.mjs -- node scripts/check-package.mjs`.

import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import assert from 'node:assert/strict';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');
const require = createRequire(import.meta.url);
const { Database } = require('../__test__/helpers/database.js');

const json = (file) => JSON.parse(readFileSync(path.join(root, file), 'utf8'));
const manifest = json('package.json');
const platforms = readdirSync(path.join(root, 'npm'));

/** Platform packages are named as Node names platforms, with the C library behind it where there are two. */
function hostPlatform() {
  const { platform, arch } = process;
  if (platform === 'linux')
    return `linux-${arch}-${process.report.getReport().header.glibcVersionRuntime ? 'gnu' : 'musl'}`;
  return platform === 'win32' ? `win32-${arch}-msvc` : `${platform}-${arch}`;
}

/** One version everywhere, one package a target, no install script anywhere. */
function checkManifests() {
  const crate = /^version = "(.+)"$/m.exec(readFileSync(path.join(root, 'Cargo.toml'), 'utf8'))[1];
  assert.equal(crate, manifest.version, 'Cargo.toml and package.json name different versions');
  const expected = Object.fromEntries(platforms.map((platform) => [`${manifest.name}-${platform}`, manifest.version]));
  assert.deepEqual(manifest.optionalDependencies, expected);
  assert.equal(platforms.length, manifest.napi.targets.length);
  const packages = [manifest, ...platforms.map((platform) => json(`npm/${platform}/package.json`))];
  for (const { name, version, license, engines, scripts = {} } of packages) {
    assert.deepEqual(
      { name, version, license, engines },
      { name, version: manifest.version, license: 'Apache-2.0', engines: { node: '>=20' } },
    );
    const installing = Object.keys(scripts).filter((script) => /install|^prepare$/.test(script));
    assert.deepEqual(installing, [], `${name} has install scripts`);
  }
}

const run = (folder, command, ...args) =>
  execFileSync(command, args, { cwd: folder, encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });

/** Packs a folder; returns the tarball, and fails unless it holds exactly `files`. */
function pack(folder, files, destination) {
  const options = ['pack', '--json', '--ignore-scripts', '--loglevel=error', '--pack-destination', destination];
  const [packed] = Object.values(JSON.parse(run(folder, 'npm', ...options)));
  assert.deepEqual(packed.files.map((file) => file.path).sort(), [...files].sort(), `the contents of ${packed.name}`);
  return { tarball: path.join(destination, path.basename(packed.filename)), size: packed.size };
}

function walk(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory() ? walk(path.join(folder, entry.name)) : [path.join(folder, entry.name)],
  );
}

async function checkSession(folder) {
  const database = new Database();
  const session = await database.createSession();
  const script = `
    const { validateSessionWithCache, revokeSessionByToken, shutdown } = require(${JSON.stringify(manifest.name)});
    (async () => {
      const [, token] = process.argv;
      const first = await validateSessionWithCache(token);
      const second = await validateSessionWithCache(token);
      const revoked = await revokeSessionByToken(token);
      const third = await validateSessionWithCache(token);
      console.log(JSON.stringify({ first: first.id, second: second.id, revoked, third }));
      await shutdown();
    })();`;
  // The folder's own files and nothing of the repository: neither by NODE_PATH nor by the test's override.
  const env = { ...process.env, NODE_PATH: '', NAPI_RS_NATIVE_LIBRARY_PATH: '' };
  const output = execFileSync(process.execPath, ['-e', script, session.token], {
    cwd: folder,
    encoding: 'utf8',
    env,
    timeout: 30_000,
  });
  await database.end();
  assert.deepEqual(JSON.parse(output), { first: session.id, second: session.id, revoked: true, third: null });
}

function checkTypes(folder) {
  copyFileSync(path.join(root, '__test__', 'types', 'usage.ts'), path.join(folder, 'usage.ts'));
  const compiler = path.join(root, 'node_modules', 'typescript', 'bin', 'tsc');
  run(
    folder,
    process.execPath,
    compiler,
    '--strict',
    '--noEmit',
    '--target',
    'es2022',
    '--module',
    'nodenext',
    '--types',
    '',
    'usage.ts',
  );
}

/** Milliseconds of `require` in a fresh process, the median of nine. */
function timeOfRequire(folder) {
  const script = `const t = process.hrtime.bigint(); require(${JSON.stringify(manifest.name)}); console.log(Number(process.hrtime.bigint() - t) / 1e6)`;
  const times = Array.from({ length: 9 }, () => Number(run(folder, process.execPath, '-e', script)));
  return times.sort((a, b) => a - b)[4];
}

checkManifests();
const host = hostPlatform();
const binary = `redis-native.${host}.node`;
const work = mkdtempSync(path.join(realpathSync(tmpdir()), 'studio-redis-native-package-'));
try {
  const files = ['package.json', 'LICENSE', 'README.md', ...manifest.files];
  const main = pack(root, files, work);
  const platform = pack(path.join(root, 'npm', host), ['package.json', 'README.md', binary], work);

  const folder = path.join(work, 'user');
  mkdirSync(folder);
  writeFileSync(path.join(folder, 'package.json'), '{ "private": true }\n');
  run(
    folder,
    'npm',
    'install',
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
    '--loglevel=error',
    main.tarball,
    platform.tarball,
  );
  const installed = walk(path.join(folder, 'node_modules', manifest.name.split('/')[0]));
  const native = installed.filter((file) => file.endsWith('.node'));
  assert.deepEqual(
    native.map((file) => path.basename(file)),
    [binary],
  );

  await checkSession(folder);
  checkTypes(folder);

  const megabytes = (bytes) => `${(bytes / 1e6).toFixed(2)} MB`;
  console.log(`package: ${files.length} files, ${(main.size / 1e3).toFixed(1)} kB packed`);
  console.log(`${binary}: ${megabytes(statSync(native[0]).size)}, ${megabytes(platform.size)} packed`);
  console.log(`require: ${timeOfRequire(folder).toFixed(1)} ms (median of 9 processes)`);
} finally {
  rmSync(work, { recursive: true, force: true });
}
