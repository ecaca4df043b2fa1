// Publishes every package of this version, the platforms' first. What the registry has already is passed over, so that a
// release that broke off can be run again. Options are npm's: `node scripts/package/publish.mjs --provenance`.

import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { checkManifests } from './manifests.mjs';
import { stage } from './stage.mjs';

const run = promisify(execFile);
const npm = (args, env) => run('npm', args, { env });

const isPublished = (wanted, env) =>
  npm(['view', wanted, 'version'], env).then(
    ({ stdout }) => stdout.trim() !== '',
    () => false,
  );

async function publish(folder, { options, env, log }) {
  const { name, version } = JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'));
  const wanted = `${name}@${version}`;
  try {
    await npm(['publish', folder, '--access', 'public', '--loglevel=error', ...options], env);
    log(`${wanted} is published`);
  } catch (error) {
    if (!(await isPublished(wanted, env))) throw error;
    log(`${wanted} is there already`);
  }
}

/** `folders` in the order of `stage`: all but the last may go side by side. */
export async function publishAll(folders, { options = [], env = process.env, log = console.log } = {}) {
  const done = await Promise.allSettled(folders.slice(0, -1).map((folder) => publish(folder, { options, env, log })));
  const failed = done.find(({ status }) => status === 'rejected');
  if (failed) throw failed.reason;
  await publish(folders.at(-1), { options, env, log });
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  checkManifests();
  const work = mkdtempSync(path.join(realpathSync(tmpdir()), 'studio-redis-native-release-'));
  try {
    await publishAll(stage(work), { options: process.argv.slice(2) });
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}
