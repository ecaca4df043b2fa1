// What the manifests have to say: one version everywhere, one package a target, nothing to run at installation. On the
// command line, `node scripts/package/manifests.mjs`; where a release runs, the tag must be the version.

import assert from 'node:assert/strict';
import { readFileSync, readdirSync, realpathSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', '..');
const json = (...file) => JSON.parse(readFileSync(path.join(root, ...file), 'utf8'));

export const manifest = json('package.json');
/** The names of the folders of npm/, such as linux-x64-gnu. */
export const platforms = readdirSync(path.join(root, 'npm')).sort();
export const platformManifest = (platform) => json('npm', platform, 'package.json');
export const packageOf = (platform) => `${manifest.name}-${platform}`;
export const binaryOf = (platform) => `redis-native.${platform}.node`;

/** The platform that this runs on, as Node names platforms, with the C library behind it where there are two. */
export function hostPlatform() {
  const { platform, arch } = process;
  if (platform === 'linux')
    return `linux-${arch}-${process.report.getReport().header.glibcVersionRuntime ? 'gnu' : 'musl'}`;
  return platform === 'win32' ? `win32-${arch}-msvc` : `${platform}-${arch}`;
}

const CPUS = { x86_64: 'x64', aarch64: 'arm64' };
const SYSTEMS = { 'unknown-linux': 'linux', apple: 'darwin', 'pc-windows': 'win32' };
const ABIS = { gnu: 'gnu', musl: 'musl', msvc: 'msvc', darwin: '' };

/** The name that a target of Rust has here: x86_64-unknown-linux-gnu is linux-x64-gnu. */
function platformOf(target) {
  const [, cpu, system, abi] = /^(\w+?)-(.+)-(\w+)$/.exec(target);
  return [SYSTEMS[system], CPUS[cpu], ABIS[abi]].filter(Boolean).join('-');
}

const LIBRARIES = { gnu: ['glibc'], musl: ['musl'] };

/** By `os`, `cpu` and `libc` npm and pnpm choose the one package that is installed. */
function checkPlatform(platform) {
  const { name, main, files, os, cpu, libc } = platformManifest(platform);
  const [system, processor, abi] = platform.split('-');
  const expected = { name: packageOf(platform), main: binaryOf(platform), files: [binaryOf(platform)] };
  assert.deepEqual({ name, main, files }, expected);
  assert.deepEqual(
    { os, cpu, libc },
    { os: [system], cpu: [processor], libc: LIBRARIES[abi] },
    `the platform of ${name}`,
  );
}

export function checkManifests() {
  const crate = /^version = "(.+)"$/m.exec(readFileSync(path.join(root, 'Cargo.toml'), 'utf8'))[1];
  assert.equal(crate, manifest.version, 'Cargo.toml and package.json name different versions');
  const { GITHUB_REF_TYPE, GITHUB_REF_NAME } = process.env;
  if (GITHUB_REF_TYPE === 'tag')
    assert.equal(GITHUB_REF_NAME, `v${manifest.version}`, 'the tag is not the version in package.json');
  const changes = readFileSync(path.join(root, 'CHANGELOG.md'), 'utf8');
  assert.ok(changes.includes(`\n## ${manifest.version}\n`), `CHANGELOG.md has nothing about ${manifest.version}`);

  assert.deepEqual(manifest.napi.targets.map(platformOf).sort(), platforms, 'the targets and the folders of npm/');
  const expected = Object.fromEntries(platforms.map((platform) => [packageOf(platform), manifest.version]));
  assert.deepEqual(manifest.optionalDependencies, expected);
  assert.equal(manifest.dependencies, undefined, 'the package needs no other');
  const sql = readdirSync(path.join(root, 'sql')).map((file) => `sql/${file}`);
  assert.deepEqual(
    manifest.files.filter((file) => file.startsWith('sql/')),
    sql.sort(),
    'the SQL that is published',
  );
  for (const { name, version, license, engines, scripts = {} } of [manifest, ...platforms.map(platformManifest)]) {
    assert.deepEqual(
      { name, version, license, engines },
      { name, version: manifest.version, license: 'Apache-2.0', engines: { node: '>=20' } },
    );
    const installing = Object.keys(scripts).filter((script) =>
      /install|^(pre|post)?(prepare|publish|pack)/.test(script),
    );
    assert.deepEqual(installing, [], `${name} has scripts that npm would run by itself`);
  }
  platforms.forEach(checkPlatform);
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  checkManifests();
  console.log(`${manifest.name} ${manifest.version} and ${platforms.length} platforms`);
}
