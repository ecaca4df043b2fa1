'use strict';

// One process, one pool a server: however often the addon is loaded, in however many threads, and whatever becomes of them.

const fs = require('node:fs');
const path = require('node:path');
const { spawn } = require('node:child_process');
const native = require('../index.js');
const { startRedis, sleep, until } = require('./helpers/servers.js');
const { spawnWorker, runScript } = require('./helpers/process.js');
const { report } = require('./fixtures/faults/figures.js');

const ADDON = JSON.stringify(path.join(__dirname, '..', 'index.js'));
const CLIENT = path.join(__dirname, 'fixtures', 'client');
const MOST_POOLS = 32;
const POOLS = 40;
const MB = 1024 * 1024;

let redis;

beforeAll(async () => {
  native.setLogHandler(() => {});
  redis = await startRedis({ args: ['--databases', '64'] });
});

afterAll(() => native.shutdown());

/** The connections of a process, as the server sees them: the role and the database of each. */
async function connectionsOf(pid) {
  const lines = (await redis.cli('CLIENT', 'LIST')).split('\n').map((line) => {
    const [, owner, role] = / name=studio-redis-native:(\d+):(\S*)/.exec(line) ?? [];
    return { owner: Number(owner), role, database: Number(/ db=(\d+)/.exec(line)?.[1]) };
  });
  return lines.filter(({ owner }) => owner === pid).map(({ role, database }) => ({ role, database }));
}

const noneOf = (pid) =>
  until(async () => (await connectionsOf(pid)).length === 0, { what: `the end of all connections of ${pid}` });

/** Runs a fixture that prints one line of JSON and then waits for one on its standard input, which `look` is called before. */
async function runFixture(name, args, look) {
  const child = spawn(process.execPath, [path.join(CLIENT, name), ...args], { stdio: 'pipe' });
  const kill = setTimeout(() => child.kill('SIGKILL'), 90_000);
  const output = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr']) child[stream].on('data', (chunk) => (output[stream] += chunk));
  const exited = new Promise((resolve) => child.once('close', (code, signal) => resolve({ code, signal })));
  const line = new Promise((resolve) => {
    child.stdout.on('data', () => output.stdout.includes('\n') && resolve(true));
    exited.then(() => resolve(false));
  });
  try {
    if (!(await line)) throw new Error(`${name} ended: ${JSON.stringify(await exited)} ${output.stderr}`);
    const seen = JSON.parse(output.stdout);
    await look(seen);
    child.stdin.end('end\n');
    return { ...(await exited), stderr: output.stderr };
  } finally {
    clearTimeout(kill);
    child.kill('SIGKILL');
  }
}

test('modules that Jest isolates share one pool', async () => {
  const options = { connectionString: redis.url, config: { minPoolSize: 1, maxPoolSize: 1 } };
  const loads = [native];
  for (let load = 0; load < 3; load += 1) {
    jest.resetModules();
    loads.push(require('../index.js'));
    jest.isolateModules(() => loads.push(require('../index.js')));
  }
  expect(new Set(loads).size).toBe(loads.length);
  const clients = loads.map((addon, load) => addon.createRedisClient(`load ${load}`, options));
  const calls = clients.flatMap((client, index) => Array.from({ length: 20 }, () => client.call('ECHO', index)));
  expect(new Set(await Promise.all(calls)).size).toBe(clients.length);
  expect(await connectionsOf(process.pid)).toEqual([{ role: 'commands', database: 0 }]);
  await Promise.all(clients.map((client) => client.close()));
  await noneOf(process.pid);
});

test('loads without the cache, from a copy, from another module graph and from threads share one pool', async () => {
  const { code, signal, stderr } = await runFixture('loads.js', [redis.url, 3], async ({ right, wanted, pid }) => {
    expect(right).toEqual([wanted, wanted, wanted, wanted]);
    expect(await connectionsOf(pid)).toEqual([{ role: 'commands', database: 0 }]);
  });
  expect({ code, signal, stderr }).toEqual({ code: 0, signal: null, stderr: '' });
}, 120_000);

test('fifty threads are ended in the middle of calls: nothing crashes, and nothing of theirs is left', async () => {
  const { code, signal } = await runFixture(
    'terminations.js',
    [redis.url, 50],
    async ({ ended, wrong, right, pings, pid }) => {
      expect({ ended, wrong, pings }).toEqual({ ended: 50, wrong: [], pings: Array(20).fill('PONG') });
      expect(right).toBeGreaterThan(20);
      // Those of the main thread's client: the free tier has at most five.
      await until(
        async () => {
          const connections = await connectionsOf(pid);
          return (
            connections.length <= 5 && connections.every(({ role, database }) => role === 'commands' && database === 0)
          );
        },
        { what: 'the end of the connections of threads' },
      ).catch(async (error) => {
        throw new Error(`${error.message} ${JSON.stringify(await connectionsOf(pid))}`);
      });
    },
  );
  expect({ code, signal }).toEqual({ code: 0, signal: null });
}, 120_000);

test('a thousand clients that were created, used and closed leave nothing behind', async () => {
  const script = `
    const native = require(${ADDON});
    const fs = require('node:fs');
    const connectionString = ${JSON.stringify(redis.url)};
    const one = async (index) => {
      const client = native.createRedisClient('one of many', { connectionString });
      const subscription = index % 10 ? null : await client.subscribe('channel', () => {});
      await Promise.all([client.get('k'), client.pipeline().get('k').exec()]);
      if (index % 20) await subscription?.unsubscribe();
      await client.close();
    };
    const batch = async () => {
      for (let index = 0; index < 1000; index += 10) {
        await Promise.all(Array.from({ length: 10 }, (_, offset) => one(index + offset)));
      }
      gc();
      return process.memoryUsage().rss;
    };
    (async () => {
      await batch();
      const before = await batch();
      const after = await batch();
      console.log(JSON.stringify({ grownBy: after - before, pid: process.pid }));
      const silence = setTimeout(() => {}, 60_000);
      process.stdin.once('data', () => { clearTimeout(silence); process.stdin.destroy(); });
    })();`;
  const child = spawn(process.execPath, ['--expose-gc', '-e', script], { stdio: ['pipe', 'pipe', 'inherit'] });
  const line = await Promise.race([
    new Promise((resolve) => child.stdout.once('data', resolve)),
    new Promise((resolve, reject) =>
      child.once('exit', (code, signal) => reject(new Error(`It ended: ${code} ${signal}`))),
    ),
  ]);
  const { grownBy, pid } = JSON.parse(line);
  report('a thousand clients', { memory: `${(grownBy / MB).toFixed(1)} MB` });
  const exited = new Promise((resolve) => child.once('exit', resolve));
  await noneOf(pid).finally(() => child.stdin.end('end\n'));
  expect(await exited).toBe(0);
  expect(grownBy).toBeLessThan(16 * MB);
}, 120_000);

test('of forty pools the 32 that were used last are kept, and the others come back when they are called', async () => {
  const options = (database) => ({
    connectionString: `${redis.url}/${database}`,
    config: { minPoolSize: 1, maxPoolSize: 1 },
  });
  const clients = Array.from({ length: POOLS }, (_, database) => native.createRedisClient('pools', options(database)));
  for (const [database, client] of clients.entries()) await client.set('database', database);
  const databases = async () =>
    (await connectionsOf(process.pid)).map(({ database }) => database).sort((a, b) => a - b);
  const latest = (first) =>
    Array.from({ length: MOST_POOLS }, (_, index) => (first + index) % POOLS).sort((a, b) => a - b);
  const kept = async (expected) => {
    await until(async () => (await databases()).length <= MOST_POOLS, { what: '32 pools' });
    expect(await databases()).toEqual(expected);
  };
  await kept(latest(POOLS - MOST_POOLS));
  // The eight that were closed come back, at the cost of those that were idle for the longest time.
  for (let database = 0; database < 8; database += 1)
    expect(await clients[database].get('database')).toBe(`${database}`);
  await kept(latest(16));
  // All at once there are more in use than may be idle, and each call is answered from its own database.
  const answers = await Promise.all(clients.map((client) => client.get('database')));
  expect(answers).toEqual(clients.map((_, database) => `${database}`));
  await until(async () => (await databases()).length <= MOST_POOLS, {
    what: '32 pools, after more were in use at the same time',
    deadlineMs: 45_000,
  });
  await Promise.all(clients.map((client) => client.close()));
  await noneOf(process.pid);
}, 90_000);

describe('the end of a process', () => {
  const client = (source) => `
    const native = require(${ADDON});
    const client = native.createRedisClient('end', { connectionString: ${JSON.stringify(redis.url)} });
    ${source}`;

  test.each([
    ['a client that was never used', ''],
    ['a client that was used', `client.set('k', 'v').then(console.log);`],
    [
      'a handler of breaker changes',
      `native.onBreakerChange(() => {}); client.get('k').then(() => console.log('OK'));`,
    ],
    ['a blocking command that has ended', `client.blpop('nothing', 0.1).then(() => console.log('OK'));`],
    [
      'a subscription that has ended',
      `client.subscribe('c', () => {}).then((one) => one.unsubscribe()).then(() => console.log('OK'));`,
    ],
    [
      'a client that was closed with a subscription',
      `client.subscribe('c', () => {}).then(() => client.close()).then(() => console.log('OK'));`,
    ],
    [
      'a subscription that shutdown() ended',
      `client.subscribe('c', () => {}).then(() => native.shutdown()).then(() => console.log('OK'));`,
    ],
  ])('%s keeps nothing alive', async (name, source) => {
    const { code, signal, stdout, stderr } = await runScript(client(source), { timeoutMs: 15_000 });
    expect({ code, signal, stdout, stderr }).toEqual({
      code: 0,
      signal: null,
      stdout: source ? 'OK\n' : '',
      stderr: '',
    });
  });

  test('a pending command does', async () => {
    const { code, stdout } = await runScript(client(`client.blpop('nothing', 1).then((found) => console.log(found));`));
    expect({ code, stdout }).toEqual({ code: 0, stdout: 'null\n' });
  });

  test('a subscription keeps it alive until it ends', async () => {
    const one = await spawnWorker(path.join(CLIENT, 'driver.js'));
    await one.call('open', redis.url);
    await one.call('subscribeUntilEnd', 'ends');
    let exited = null;
    const released = one.release().then((how) => (exited = how));
    await sleep(1500);
    await redis.cli('PUBLISH', 'ends', 'not yet');
    await sleep(300);
    expect(exited).toBeNull();
    expect(fs.existsSync(`/proc/${one.pid}`) || process.platform !== 'linux').toBe(true);
    await redis.cli('PUBLISH', 'ends', 'end');
    await until(() => exited, { what: 'the end of the process', deadlineMs: 10_000 });
    expect(await released).toEqual({ code: 0, signal: null });
  });

  test('it may end in the middle of everything', async () => {
    const { code, signal } = await runScript(
      client(`
        for (let call = 0; call < 500; call += 1) client.call('ECHO', call).catch(() => {});
        client.blpop('nothing', 0).catch(() => {});
        client.subscribe('c', () => {}).then(() => setTimeout(() => process.exit(7), 20));`),
      { timeoutMs: 15_000 },
    );
    expect({ code, signal }).toEqual({ code: 7, signal: null });
  });
});
