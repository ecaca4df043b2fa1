'use strict';

// Checks in flight when the engine, a thread or the process ends; and one pool for limits, sessions and commands.

const path = require('node:path');
const { spawn } = require('node:child_process');
const { startRedis, startPostgres, until } = require('./helpers/servers.js');
const { Database } = require('./helpers/database.js');
const { runScript } = require('./helpers/process.js');
const { limiters } = require('./fixtures/limits/cast.js');
const { openRedis, connectionsOf } = require('./fixtures/functional/redis.js');

const FIXTURES = path.join(__dirname, 'fixtures', 'limits');
const QUIET = { code: 0, signal: null, stderr: '' };

let redis;
let env;

beforeAll(async () => {
  redis = await startRedis();
  env = { REDIS_URL: redis.url, DATABASE_URL: undefined };
});

/** Runs a script that knows the addon as `addon`, and ends with 9 if something keeps it for 5 s after it said `got`. */
const run = (source, options) =>
  runScript(
    `const addon = require('./index.js');
     const got = (...what) => { console.log('got', ...what); setTimeout(() => process.exit(9), 5000).unref(); };
     ${source}`,
    { env, ...options },
  );

describe('a process ends', () => {
  const ALLOWED = "addon.checkLimit('process', 1000, 60).then(({ allowed }) => got(allowed))";

  test.each([
    ['an answer', ALLOWED, 'got true\n'],
    [
      'an answer of the memory',
      "new addon.InMemoryRateLimitStore().checkLimit('key', 1, 60).then(({ allowed }) => got(allowed))",
      'got true\n',
    ],
    ['a rejection', "addon.checkLimit('', 1, 60).catch(({ code }) => got(code))", 'got ERR_INVALID_ARG\n'],
    [
      'a forgetting',
      "addon.checkRateLimit('a').then(() => addon.clearRateLimit('a')).then(() => got('clear'))",
      'got clear\n',
    ],
    [
      'a thousand',
      `const calls = Array.from({ length: 1000 }, (_, n) => addon.checkLimit('key ' + n, 9, 60));
       Promise.all(calls).then((all) => got(all.length));`,
      'got 1000\n',
    ],
  ])('with %s pending only after it came, and then by itself', async (_, source, stdout) => {
    expect(await run(source)).toMatchObject({ ...QUIET, stdout });
  });

  test('without Redis, by itself after an answer', async () => {
    const options = { env: { ...env, REDIS_URL: undefined, STUDIO_REDIS_LOG: 'off' } };
    expect(await run(ALLOWED, options)).toMatchObject({ ...QUIET, stdout: 'got true\n' });
  });

  test('before a Redis that is frozen, by itself after an answer', async () => {
    const frozen = await startRedis();
    frozen.freeze();
    const options = { env: { ...env, REDIS_URL: frozen.url, STUDIO_REDIS_LOG: 'off' } };
    expect(await run(ALLOWED, options)).toMatchObject({ ...QUIET, stdout: 'got true\n' });
    frozen.thaw();
  });

  test('by process.exit() in the middle of checks', async () => {
    const source = "for (let n = 0; n < 500; n += 1) addon.checkLimit('key ' + n, 9, 60).then(() => process.exit(7))";
    expect(await run(source)).toMatchObject({ code: 7, signal: null, stderr: '' });
  });

  test('loading and naming limits starts nothing', async () => {
    const source = `
      const { readdirSync } = require('node:fs');
      const threads = () => readdirSync('/proc/self/task').length;
      const before = threads();
      new addon.RedisRateLimitStore(); new addon.RedisTokenBucketStore({ name: 'x' });
      new addon.InMemoryRateLimitStore();
      addon.createRateLimiter({ requests: 1, window: 1 }); addon.getRateLimitStore();
      got(threads() - before);`;
    if (process.platform === 'linux') expect(await run(source)).toMatchObject({ ...QUIET, stdout: 'got 0\n' });
  });
});

describe('shutdown', () => {
  /** Starts checks, shuts down in the middle of them, again and again; every one has to be answered. */
  const amid = (before = '') => `
    (async () => {
      await addon.checkLimit('first', 9, 60);
      ${before}
      const outcomes = {};
      const count = (name) => (outcomes[name] = (outcomes[name] ?? 0) + 1);
      for (let round = 0; round < 20; round += 1) {
        const calls = [];
        for (let n = 0; n < 200; n += 1) {
          const algorithm = ['sliding-window', 'token-bucket', 'fixed-window'][n % 3];
          calls.push(addon.checkLimit('key ' + (n % 50), 100_000, 60, { algorithm }));
          if (n % 50 === 49) await new Promise(setImmediate);
          if (n === 10 * round) calls.push(addon.shutdown(200).then(() => ({ allowed: 'down' })));
        }
        const settled = await Promise.allSettled(calls);
        for (const { value, reason } of settled) count(reason ? reason.code : String(value.allowed));
      }
      await addon.shutdown();
      got(JSON.stringify(outcomes));
    })();`;

  test('with checks in flight: each is answered', async () => {
    const { stdout, ...ended } = await run(amid(), { timeoutMs: 60_000, env: { ...env, STUDIO_REDIS_LOG: 'off' } });
    expect(ended).toMatchObject(QUIET);
    expect(JSON.parse(stdout.slice(4))).toEqual({ true: 4000, down: 20 });
  });

  test('with checks in flight before a Redis that is frozen: each is answered', async () => {
    const frozen = await startRedis();
    const options = { timeoutMs: 60_000, env: { ...env, REDIS_URL: frozen.url, STUDIO_REDIS_LOG: 'off' } };
    const freeze = `process.kill(${frozen.pid}, 'SIGSTOP');`;
    const { stdout, ...ended } = await run(amid(freeze), options);
    frozen.thaw();
    expect(ended).toMatchObject(QUIET);
    expect(JSON.parse(stdout.slice(4))).toEqual({ true: 4000, down: 20 });
  });

  test('leaves no connection, and counts go on after it', async () => {
    const [one] = await limiters(redis, 1);
    const outside = openRedis(redis.url);
    const burst = { key: 'shutdown', limit: 10, windowSeconds: 600, calls: 6 };
    expect((await one.call('burst', burst)).admitted).toBe(6);
    for (let round = 0; round < 3; round += 1) {
      await one.call('shutdown');
      await until(async () => (await connectionsOf(outside, one.pid)).length === 0, {
        what: 'the end of the connections',
      });
      const { admitted } = await one.call('burst', burst);
      expect(admitted).toBe(round === 0 ? 4 : 0);
    }
    await one.kill();
  });

  test('keeps the counts of a process without Redis', async () => {
    const source = `
      const use = async () => {
        const all = await Promise.all(Array.from({ length: 6 }, () => addon.checkLimit('k', 10, 600)));
        return all.filter(({ allowed }) => allowed).length;
      };
      use().then(async (first) => { await addon.shutdown(); got(first, await use()); });`;
    const options = { env: { ...env, REDIS_URL: undefined, STUDIO_REDIS_LOG: 'off' } };
    expect(await run(source, options)).toMatchObject({ ...QUIET, stdout: 'got 6 4\n' });
  });
});

/**
 * Runs a fixture that prints one line of JSON and then waits for its standard input to end; `look` is called before.
 */
async function runFixture(name, args, options, look) {
  const child = spawn(process.execPath, [path.join(FIXTURES, name), ...args], {
    env: Object.fromEntries(Object.entries({ ...process.env, ...options }).filter(([, value]) => value !== undefined)),
    stdio: 'pipe',
  });
  const kill = setTimeout(() => child.kill('SIGKILL'), 90_000);
  const output = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr']) child[stream].on('data', (chunk) => (output[stream] += chunk));
  const exited = new Promise((resolve) => child.once('close', (code, signal) => resolve({ code, signal })));
  try {
    const line = new Promise((resolve) => child.stdout.on('data', () => output.stdout.includes('\n') && resolve(true)));
    if (!(await Promise.race([line, exited.then(() => false)]))) {
      throw new Error(`${name} ended: ${JSON.stringify(await exited)} ${output.stderr}`);
    }
    await look({ ...JSON.parse(output.stdout), pid: child.pid });
    child.stdin.end();
    return { ...(await exited), stderr: output.stderr };
  } finally {
    clearTimeout(kill);
    child.kill('SIGKILL');
  }
}

test('threads that are ended amid checks harm nobody: the count is exact, and nothing crashes', async () => {
  const ended = await runFixture(
    'terminations.js',
    [40],
    { ...env, STUDIO_REDIS_LOG: 'off' },
    ({ ended: threads, failures, allowed, after }) => {
      expect({ threads, failures }).toEqual({ threads: 40, failures: [] });
      // The main thread's own, checked all the while.
      expect(allowed).toBe(50);
      expect(after).toBe(true);
    },
  );
  expect(ended).toEqual(QUIET);
}, 120_000);

test('limits, sessions and commands of every load and thread share one pool and one count', async () => {
  const postgres = await startPostgres();
  const database = new Database(postgres.url);
  const { token } = await database.createSession();
  const outside = openRedis(redis.url);
  const options = { ...env, DATABASE_URL: postgres.url };
  const ended = await runFixture('loads.js', [token], options, async ({ pid, wrong, allowed, inMemory }) => {
    expect(wrong).toEqual([]);
    expect({ allowed, inMemory }).toEqual({ allowed: 10, inMemory: 10 });
    const roles = (await connectionsOf(outside, pid)).sort();
    // The pool of `REDIS_URL` has two connections while it is asked so little.
    expect(roles).toEqual(['commands', 'commands', 'sessions']);
  });
  expect(ended).toEqual(QUIET);
  await database.end();
}, 120_000);
