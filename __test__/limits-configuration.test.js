'use strict';

// Limits and the environment: what is wrong is named; what is right is used; and a process without Redis has limits, too.

const { startRedis } = require('./helpers/servers.js');
const { runScript, spawnWorker } = require('./helpers/process.js');
const { openRedis } = require('./fixtures/functional/redis.js');
const { withEnvironment, rejection } = require('./fixtures/functional/environment.js');
const {
  addon,
  ALGORITHMS,
  HOUR,
  fresh,
  freshName,
  inTurn,
  atOnce,
  admitted,
  remainingOf,
  keysThatBegin,
} = require('./fixtures/limits/steps.js');
const { pretend } = require('./fixtures/limits/http.js');

const {
  checkLimit,
  createRateLimiter,
  getRateLimitStore,
  getRateLimitMetrics,
  RedisRateLimitStore,
  RedisTokenBucketStore,
  InMemoryRateLimitStore,
} = addon;
const HOPS = 'RATE_LIMIT_TRUSTED_PROXY_HOPS';
const REAL_IP = 'RATE_LIMIT_TRUST_X_REAL_IP';
const LOCAL_KEYS = 'RATE_LIMIT_LOCAL_KEYS';
const SHARE = 'RATE_LIMIT_INSTANCE_SHARE';

let redis;

beforeAll(async () => {
  const server = await startRedis();
  process.env.REDIS_URL = server.url;
  process.env.REDIS_KEY_PREFIX = 'limits-configuration:';
  redis = openRedis(server.url);
  // Warnings of servers that are not there are meant to be.
  addon.setLogHandler(() => {});
});

describe('what is wrong', () => {
  test.each([
    ...['-1', '11', '1.5', 'one', '1 ', ' 1', '0x1', '1e0', 'NaN'].map((value) => [HOPS, value]),
    ...['yes', 'TRUE', 'on', '2', 'true '].map((value) => [REAL_IP, value]),
    ...['0', '-1', '1.5', 'many', '1e5', 'Infinity', '99999999999999999999'].map((value) => [LOCAL_KEYS, value]),
    ...['0', '0.009', '-0.5', '1.01', '2', '100', '50%', 'half', 'NaN', 'Infinity', '-Infinity', '0,5', '0.5 '].map(
      (value) => [SHARE, value],
    ),
  ])('%s=%s is refused by name, and the corrected value works at once', async (name, value) => {
    await withEnvironment({ [name]: value }, async () => {
      const limiter = createRateLimiter({ requests: 5, window: 60 });
      const { req, res } = pretend({ address: '192.0.2.1' });
      for (const call of [
        () => checkLimit('k', 5, HOUR),
        () => getRateLimitStore().get('k'),
        () => addon.checkRateLimit('who'),
        () => addon.clearRateLimits(),
        () => limiter(req, res, () => {}),
      ]) {
        const error = await rejection(call);
        expect(error).toBeInstanceOf(Error);
        expect(error).toMatchObject({ code: 'ERR_INVALID_CONFIG', message: expect.stringContaining(name) });
      }
    });
    expect(await checkLimit(fresh(), 5, HOUR)).toMatchObject({ allowed: true });
  });
});

test.each([
  ...['0', '1', '2', '10', ''].map((value) => [HOPS, value]),
  ...['true', 'false', '1', '0', ''].map((value) => [REAL_IP, value]),
  ...['1', '100', '100000', ''].map((value) => [LOCAL_KEYS, value]),
  ...['0.01', '0.5', '1', '1.0', '.5', ''].map((value) => [SHARE, value]),
])('%s=%s is right', async (name, value) => {
  await withEnvironment({ [name]: value }, async () => {
    const key = fresh();
    expect(admitted(await inTurn(4, () => checkLimit(key, 3, HOUR)))).toBe(3);
  });
});

describe('without REDIS_URL', () => {
  const alone = (work) => withEnvironment({ REDIS_URL: undefined }, work);

  describe.each(ALGORITHMS)('%s', (algorithm) => {
    const check = (key, limit = 3, options = {}) => checkLimit(key, limit, HOUR, { algorithm, ...options });

    test('limits in the process', () =>
      alone(async () => {
        const key = fresh();
        expect(remainingOf(await inTurn(5, () => check(key)))).toEqual([2, 1, 0, 0, 0]);
        expect(await check(key)).toMatchObject({
          allowed: false,
          info: { limit: 3, remaining: 0, retryAfter: expect.any(Number) },
        });
        expect(await check(key, 3, { name: freshName() })).toMatchObject({ allowed: true });
        const many = fresh();
        expect(remainingOf(await atOnce(5, () => check(many)))).toEqual([2, 1, 0, 0, 0]);
        expect(await check(fresh(), 3, { cost: 2 })).toMatchObject({ info: { remaining: 1 } });
        expect(admitted(await inTurn(5, () => check(fresh(), 1, { shadow: true })))).toBe(5);
      }));

    test.each(['local', 'allow', 'deny'])('onOutage %s changes nothing: this is none', (onOutage) =>
      alone(async () => {
        const key = fresh();
        const answers = await inTurn(5, () => check(key, 3, { onOutage }));
        expect(admitted(answers)).toBe(3);
      }),
    );
  });

  test.each([
    ['RedisRateLimitStore', RedisRateLimitStore],
    ['RedisTokenBucketStore', RedisTokenBucketStore],
    ['InMemoryRateLimitStore', InMemoryRateLimitStore],
  ])('%s has all its methods', (_, Class) =>
    alone(async () => {
      const store = new Class({ name: freshName() });
      const key = fresh();
      expect(await store.get(key)).toBe(null);
      expect(await store.peek(key, 3, HOUR)).toMatchObject({ allowed: true, info: { remaining: 3 } });
      expect(admitted(await inTurn(5, () => store.checkLimit(key, 3, HOUR)))).toBe(3);
      expect(await store.get(key)).toMatchObject({ limit: 3, remaining: 0 });
      await store.refund(key, 3, HOUR);
      expect(await store.peek(key, 3, HOUR)).toMatchObject({ allowed: true, info: { remaining: 1 } });
      await store.clear(key);
      expect(await store.get(key)).toBe(null);
      await store.checkLimit(key, 3, HOUR);
      await store.clear();
      expect(await store.get(key)).toBe(null);
      await store.checkLimit(key, 3, HOUR);
      await addon.clearRateLimits();
      expect(await store.get(key)).toBe(null);
    }),
  );

  test('limiters of requests limit', () =>
    alone(async () => {
      const limiter = createRateLimiter({ requests: 2, window: HOUR, name: freshName() });
      const outcomes = await inTurn(4, async () => {
        const { req, res, set } = pretend({ address: '192.0.2.1' });
        const code = await limiter(req, res, () => {}).then(
          () => 'ok',
          (error) => error.code,
        );
        return `${code} ${set.get('x-ratelimit-remaining')}`;
      });
      expect(outcomes).toEqual(['ok 1', 'ok 0', 'ERR_RATE_LIMITED 0', 'ERR_RATE_LIMITED 0']);
    }));

  test('it counts by name', () =>
    alone(async () => {
      const name = freshName();
      const key = fresh();
      await inTurn(5, () => checkLimit(key, 3, HOUR, { name }));
      expect(getRateLimitMetrics()[name]).toMatchObject({ allowed: 3, denied: 2, shadowDenied: 0 });
    }));

  test('the process ends as soon as nothing is pending, and no socket was opened', async () => {
    const source = `
      const addon = require('./index.js');
      (async () => {
        const answers = [];
        for (let call = 0; call < 3; call += 1) answers.push((await addon.checkLimit('k', 2, 60)).allowed);
        console.log(JSON.stringify(answers));
      })();`;
    const { code, signal, stdout } = await runScript(source, {
      env: { REDIS_URL: undefined, DATABASE_URL: undefined },
    });
    expect({ code, signal, stdout }).toEqual({ code: 0, signal: null, stdout: '[true,true,false]\n' });
  });

  test('threads of a process share its counts', async () => {
    const source = `
      const { Worker } = require('node:worker_threads');
      const work = "const { parentPort } = require('node:worker_threads'); const addon = require('./index.js');" +
        "Promise.all(Array.from({ length: 50 }, () => addon.checkLimit('k', 60, 3600))).then((answers) =>" +
        "parentPort.postMessage(answers.filter(({ allowed }) => allowed).length));";
      const counts = [1, 2, 3].map(() => new Promise((resolve, reject) => new Worker(work, { eval: true }).once('message', resolve).once('error', reject)));
      Promise.all(counts).then((numbers) => console.log(numbers.reduce((sum, number) => sum + number, 0)));`;
    const { code, stdout, stderr } = await runScript(source, {
      env: { REDIS_URL: undefined, STUDIO_REDIS_LOG: 'off' },
    });
    expect({ code, stdout, stderr }).toEqual({ code: 0, stdout: '60\n', stderr: '' });
  });
});

describe('RATE_LIMIT_LOCAL_KEYS', () => {
  test.each(ALGORITHMS)('%s: keys without number do not push out who is at the limit', (algorithm) =>
    withEnvironment({ [LOCAL_KEYS]: '100' }, async () => {
      // What the tests before this one have counted takes room, too.
      await addon.clearRateLimits();
      const store = new InMemoryRateLimitStore({ name: freshName(), algorithm });
      const victims = Array.from({ length: 5 }, () => fresh('victim'));
      for (const victim of victims)
        expect(admitted(await inTurn(12, () => store.checkLimit(victim, 10, HOUR)))).toBe(10);
      for (let round = 0; round < 20; round += 1) await atOnce(500, () => store.checkLimit(fresh('other'), 10, HOUR));
      for (const victim of victims) expect(await store.checkLimit(victim, 10, HOUR)).toMatchObject({ allowed: false });
    }),
  );

  test('one key is enough to limit it', () =>
    withEnvironment({ [LOCAL_KEYS]: '1' }, async () => {
      const store = new InMemoryRateLimitStore({ name: freshName() });
      const keys = Array.from({ length: 10 }, () => fresh());
      for (const key of keys)
        expect(admitted(await inTurn(6, () => store.checkLimit(key, 3, HOUR)))).toBeLessThanOrEqual(3);
      for (const key of keys) expect(await store.checkLimit(key, 3, HOUR)).toMatchObject({ allowed: false });
    }));
});

test('a share and few local keys change nothing while Redis answers', async () => {
  // A process that has never been without Redis.
  const worker = await spawnWorker(undefined, { [SHARE]: '0.01', [LOCAL_KEYS]: '1' });
  const keys = Array.from({ length: 20 }, () => fresh());
  for (const key of keys) expect(admitted(await inTurn(12, () => worker.call('checkLimit', key, 10, HOUR)))).toBe(10);
  const prefix = 'limits-configuration:ratelimit:sliding-window:default:';
  expect(await keysThatBegin(redis, prefix)).toEqual(expect.arrayContaining(keys.map((key) => prefix + key)));
  await worker.call('shutdown');
  await worker.release();
});
