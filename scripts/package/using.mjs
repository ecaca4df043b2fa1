// Uses an installed package: what it does, its types, and what it says where its binary is missing.

import assert from 'node:assert/strict';
import { copyFileSync } from 'node:fs';
import path from 'node:path';
import { run } from './installing.mjs';
import { hostPlatform, manifest, packageOf, root } from './manifests.mjs';

const TSC = path.join(root, 'node_modules', 'typescript', 'bin', 'tsc');

/** The folder's own files and the servers, and nothing of the repository. */
const environment = (env) => ({ ...env, REDIS_KEY_PREFIX: 'package:', NODE_OPTIONS: '' });

/** Validates, revokes, limits, asks Redis, in a thread and as an ES module, and must end by itself without a word of complaint. */
export async function checkUse(folder, env, { node = process.execPath, sessions, end = '' }) {
  copyFileSync(path.join(root, 'scripts', 'package', 'use.cjs'), path.join(folder, 'use.cjs'));
  const [session, other] = sessions;
  const { stdout, stderr } = await run(folder, environment(env), node, 'use.cjs', session.token, other.token, end);
  assert.deepEqual(JSON.parse(stdout), {
    first: session.id,
    second: session.id,
    revoked: true,
    third: null,
    allowed: true,
    set: 'OK',
    got: 'value',
    thread: { session: other.id, allowed: false },
    imported: other.id,
  });
  assert.equal(stderr, '');
}

/** As CommonJS, as an ES module, and for a bundler. */
export async function checkTypes(folder, env) {
  const usage = path.join(root, '__test__', 'types', 'usage.ts');
  for (const file of ['usage.ts', 'usage.mts']) copyFileSync(usage, path.join(folder, file));
  const options = ['--strict', '--noEmit', '--ignoreConfig', '--target', 'es2022', '--types', ''];
  await run(folder, env, process.execPath, TSC, ...options, '--module', 'nodenext', 'usage.ts', 'usage.mts');
  await run(
    folder,
    env,
    process.execPath,
    TSC,
    ...options,
    '--module',
    'esnext',
    '--moduleResolution',
    'bundler',
    'usage.ts',
  );
}

/** Where the package of this platform is not installed, requiring the main one says so. */
export async function checkMissing(folder, env) {
  const script = `try { require('${manifest.name}') } catch ({ code, message }) { console.log(JSON.stringify({ code, message })) }`;
  const { stdout } = await run(folder, environment(env), process.execPath, '-e', script);
  const { code, message } = JSON.parse(stdout);
  assert.equal(code, 'MODULE_NOT_FOUND');
  for (const part of [process.platform, process.arch, packageOf(hostPlatform()), 'optional dependencies'])
    assert.ok(message.includes(part), `${part} is not in: ${message}`);
}

/** Milliseconds of `require` in a fresh process, the median of nine. */
export async function timeOfRequire(folder, env) {
  const script = `const t = process.hrtime.bigint(); require('${manifest.name}'); console.log(Number(process.hrtime.bigint() - t) / 1e6)`;
  const times = [];
  while (times.length < 9)
    times.push(Number((await run(folder, environment(env), process.execPath, '-e', script)).stdout));
  return times.sort((a, b) => a - b)[4];
}
