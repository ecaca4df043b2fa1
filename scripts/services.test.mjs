// Whatever ends the process that started servers, nothing of them stays: no process, no folder.

import { after, test } from 'node:test';
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import services from './services/net.cjs';
import { ensureInstalled } from './services.mjs';

const { until } = services;
const here = (name) => fileURLToPath(new URL(name, import.meta.url));
const children = [];
after(() => children.forEach((child) => child.kill('SIGKILL')));

const { redisServer } = await ensureInstalled();

/** Runs a module that starts both servers, tells of them, and then does `ending`. */
async function startIn(ending) {
  const source = `
    import { RedisServer, PostgresServer, ensureInstalled } from ${JSON.stringify(here('services.mjs'))};
    const { redisServer } = await ensureInstalled();
    const servers = [await PostgresServer.start(), ...(redisServer ? [await RedisServer.start()] : [])];
    console.log(JSON.stringify(servers.map(({ pid, dir }) => ({ pid, dir }))));
    for (const server of servers) server.freeze();
    ${ending}`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', source], { stdio: ['ignore', 'pipe', 'ignore'] });
  children.push(child);
  const exited = new Promise((resolve) => child.once('exit', (code, signal) => resolve(signal ?? code)));
  const line = await new Promise((resolve) => child.stdout.once('data', resolve));
  return { child, exited, servers: JSON.parse(line) };
}

const runs = (pid) => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

const gone = (servers) =>
  until(() => servers.every(({ pid, dir }) => !runs(pid) && !existsSync(dir)), {
    deadlineMs: 10_000,
    what: 'the end of the servers',
  });

const STAY = 'setInterval(() => {}, 1000);';

for (const signal of ['SIGINT', 'SIGTERM', 'SIGKILL']) {
  test(`nothing stays after ${signal}`, async () => {
    const { child, exited, servers } = await startIn(STAY);
    assert.equal(servers.length, redisServer ? 2 : 1);
    assert.ok(servers.every(({ pid, dir }) => runs(pid) && existsSync(dir)));
    child.kill(signal);
    assert.equal(await exited, signal);
    await gone(servers);
  });
}

test('nothing stays after an uncaught error', async () => {
  const { exited, servers } = await startIn('throw new Error("on purpose");');
  assert.equal(await exited, 1);
  await gone(servers);
});

test('servers do not keep their process alive, and nothing stays after its end', async () => {
  const { exited, servers } = await startIn('');
  assert.equal(await exited, 0);
  await gone(servers);
});

test('with-services passes the environment and the exit status on', async () => {
  const script = 'process.exit(process.env.DATABASE_URL.startsWith("postgres://") ? 7 : 1)';
  const child = spawn(process.execPath, [here('with-services.mjs'), '--', process.execPath, '-e', script], {
    stdio: 'ignore',
  });
  assert.equal(await new Promise((resolve) => child.once('exit', resolve)), 7);
});

test('with-services ends its command and its servers on SIGINT', async () => {
  const script = 'console.log("started"); setInterval(() => {}, 1000)';
  const child = spawn(process.execPath, [here('with-services.mjs'), '--', process.execPath, '-e', script], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  children.push(child);
  const exited = new Promise((resolve) => child.once('exit', resolve));
  await new Promise((resolve) => child.stdout.once('data', resolve));
  child.kill('SIGINT');
  assert.equal(await exited, 130);
});
