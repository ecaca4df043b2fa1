'use strict';

// Whose counts stores share, what they leave in Redis, and how far clearing them reaches.

const { startRedis, until, sleep } = require('./helpers/servers.js');
const { spawnWorker } = require('./helpers/process.js');
const { openRedis } = require('./fixtures/functional/redis.js');
const { withEnvironment } = require('./fixtures/functional/environment.js');
const {
  addon,
  ALGORITHMS,
  HOUR,
  fresh,
  freshName,
  inTurn,
  atOnce,
  admitted,
  scriptCalls,
  keysThatBegin,
} = require('./fixtures/limits/steps.js');

const {
  checkLimit,
  clearRateLimits,
  getRateLimitStore,
  RedisRateLimitStore,
  RedisTokenBucketStore,
  InMemoryRateLimitStore,
} = addon;
const PREFIX = 'limits-sharing:';

let server;
let redis;

beforeAll(async () => {
  server = await startRedis();
  process.env.REDIS_URL = server.url;
  process.env.REDIS_KEY_PREFIX = PREFIX;
  redis = openRedis(server.url);
});

test('the store of checkLimit', async () => {
  const key = fresh();
  expect(getRateLimitStore()).toBeInstanceOf(RedisRateLimitStore);
  await checkLimit(key, 5, HOUR);
  expect(await getRateLimitStore().get(key)).toMatchObject({ limit: 5, remaining: 4 });
  expect(await getRateLimitStore().checkLimit(key, 5, HOUR)).toMatchObject({ info: { remaining: 3 } });
  expect(await new RedisRateLimitStore().checkLimit(key, 5, HOUR)).toMatchObject({ info: { remaining: 2 } });
  expect(await new RedisRateLimitStore({ name: 'default' }).checkLimit(key, 5, HOUR)).toMatchObject({
    info: { remaining: 1 },
  });
  await getRateLimitStore().clear(key);
  expect(await checkLimit(key, 5, HOUR)).toMatchObject({ info: { remaining: 4 } });
});

test('the other store in Redis', async () => {
  const key = fresh();
  await checkLimit(key, 5, HOUR, { algorithm: 'token-bucket' });
  expect(await new RedisTokenBucketStore().get(key)).toMatchObject({ limit: 5, remaining: 4 });
  expect(await new RedisTokenBucketStore({}).checkLimit(key, 5, HOUR)).toMatchObject({ info: { remaining: 3 } });
  expect(await new RedisRateLimitStore().get(key)).toBe(null);
  expect(await new RedisRateLimitStore({ algorithm: 'token-bucket' }).get(key)).toMatchObject({
    limit: 5,
    remaining: 3,
  });
  await new RedisRateLimitStore({ algorithm: 'fixed-window' }).checkLimit(key, 5, HOUR);
  expect(await checkLimit(key, 5, HOUR, { algorithm: 'fixed-window' })).toMatchObject({ info: { remaining: 3 } });
});

test('classes are classes', () => {
  for (const [Class, name] of [
    [RedisRateLimitStore, 'RedisRateLimitStore'],
    [RedisTokenBucketStore, 'RedisTokenBucketStore'],
    [InMemoryRateLimitStore, 'InMemoryRateLimitStore'],
  ]) {
    expect(Class.name).toBe(name);
    expect(new Class()).toBeInstanceOf(Class);
    expect(new Class(undefined).constructor).toBe(Class);
    expect(() => Class()).toThrow(TypeError);
  }
});

test('what is counted in the process stays there', async () => {
  const [key, name] = [fresh(), freshName()];
  const keysBefore = await keysThatBegin(redis, '');
  await redis.config('RESETSTAT');
  const before = await scriptCalls(redis);
  for (const algorithm of ALGORITHMS) {
    const store = new InMemoryRateLimitStore({ name, algorithm });
    await inTurn(5, () => store.checkLimit(key, 3, HOUR));
    await store.peek(key, 3, HOUR);
    await store.refund(key, 3, HOUR);
    await store.get(key);
  }
  expect(await scriptCalls(redis)).toBe(before);
  expect(await keysThatBegin(redis, '')).toEqual(keysBefore);
  expect(await checkLimit(key, 3, HOUR, { name })).toMatchObject({ info: { remaining: 2 } });
  expect(await new InMemoryRateLimitStore({ name }).get(key)).toMatchObject({ remaining: 1 });
  const worker = await spawnWorker();
  expect(await worker.call('checkLimit', key, 3, HOUR, { name })).toMatchObject({ info: { remaining: 1 } });
});

test('peek, get and refund of nothing leave nothing in Redis', async () => {
  for (const store of [
    new RedisRateLimitStore({ name: freshName() }),
    new RedisTokenBucketStore({ name: freshName() }),
  ]) {
    const before = await keysThatBegin(redis, '');
    const key = fresh();
    await store.peek(key, 3, HOUR);
    await store.get(key);
    await store.refund(key, 3, HOUR, { cost: 2 });
    await store.clear(key);
    expect(await keysThatBegin(redis, '')).toEqual(before);
  }
});

test('what was given back is given to every process', async () => {
  const store = new RedisRateLimitStore();
  const key = fresh();
  const worker = await spawnWorker();
  await inTurn(3, () => worker.call('checkLimit', key, 3, HOUR));
  await store.refund(key, 3, HOUR);
  expect(await worker.call('checkLimit', key, 3, HOUR)).toMatchObject({ allowed: true, info: { remaining: 0 } });
});

test('amid shutdowns every call is answered, and the limit holds', async () => {
  const key = fresh();
  const answers = [];
  for (let round = 0; round < 20; round += 1) {
    const store = getRateLimitStore();
    const calls = await inTurn(3, () => atOnce(10, () => checkLimit(key, 300, HOUR)));
    const under = Array.from({ length: 10 }, () => checkLimit(key, 300, HOUR));
    const others = [
      store.peek(key, 300, HOUR),
      store.get(key),
      addon.checkRateLimit(key),
      store.refund(fresh(), 1, HOUR),
    ];
    for (let turn = 0; turn < round % 3; turn += 1) await new Promise(setImmediate);
    const [, ...more] = await Promise.all([addon.shutdown(), ...under, ...others]);
    answers.push(...calls.flat(), ...more.slice(0, 10));
  }
  expect(answers).toHaveLength(800);
  expect(admitted(answers)).toBeLessThanOrEqual(300);
  expect(await checkLimit(key, 300, HOUR)).toMatchObject({ allowed: false });
});

test('peek answers as checkLimit would in shadow mode, too', async () => {
  for (const Class of [RedisRateLimitStore, RedisTokenBucketStore, InMemoryRateLimitStore]) {
    const store = new Class({ name: freshName(), shadow: true });
    const key = fresh();
    await inTurn(3, () => store.checkLimit(key, 2, HOUR));
    expect((await store.peek(key, 2, HOUR)).allowed).toBe((await store.checkLimit(key, 2, HOUR)).allowed);
  }
});

test('of calls that are taken back it is the latest', async () => {
  const store = new RedisRateLimitStore({ name: freshName() });
  const key = fresh();
  await store.checkLimit(key, 2, 1);
  await sleep(400);
  await store.checkLimit(key, 2, 1);
  const before = await redis.time();
  await store.refund(key, 2, 1);
  // The first one stays: it is over before the second one would have been.
  const { reset } = (await store.get(key)) ?? { reset: 0 };
  expect(reset).toBeLessThanOrEqual(Math.ceil(Number(before[0]) + Number(before[1]) / 1e6 + 0.6));
});

describe('clearing reaches', () => {
  test('more keys than one answer of Redis has', async () => {
    const name = freshName();
    const store = new RedisRateLimitStore({ name });
    for (let round = 0; round < 5; round += 1)
      await atOnce(1000, (index) => store.checkLimit(`key-${round}-${index}`, 1, HOUR));
    const start = `${PREFIX}ratelimit:sliding-window:${name}:`;
    expect(await keysThatBegin(redis, start)).toHaveLength(5000);
    await store.clear();
    expect(await keysThatBegin(redis, start)).toEqual([]);
  });

  test.each(['', 'p:', 'a*:', 'a?c:', '[ab]c:', 'back\\slash:', 'a b{c}*?é:'])(
    'no key of others, with the prefix %p',
    async (prefix) => {
      const strangers = ['zz:', 'ab:', 'abc:', 'ac:', 'bc:', 'backslash:', 'axxb:', 'a b{c}xyé:'].filter(
        (one) => one !== prefix,
      );
      const foreign = [
        ...strangers.map((one) => `${one}ratelimit:sliding-window:default:k`),
        `${prefix}session:0000`,
        `${prefix}cache:ratelimit:x`,
        `${prefix}ratelimits`,
        `x${prefix}ratelimit:sliding-window:default:k`,
      ];
      const all = [...ALGORITHMS.map((algorithm) => `${prefix}ratelimit:${algorithm}:other:k`)];
      await redis.mset(Object.fromEntries([...foreign, ...all].map((key) => [key, 'x'])));
      await withEnvironment({ REDIS_KEY_PREFIX: prefix }, async () => {
        await checkLimit('k', 1, HOUR);
        await getRateLimitStore().clear();
        expect(await redis.exists(...all)).toBe(all.length);
        expect(await redis.exists(`${prefix}ratelimit:sliding-window:default:k`)).toBe(0);
        await checkLimit('k', 1, HOUR);
        await clearRateLimits();
        expect(await redis.exists(...all, `${prefix}ratelimit:sliding-window:default:k`)).toBe(0);
        expect(await redis.exists(...foreign)).toBe(foreign.length);
      });
      await redis.del(...foreign);
    },
  );

  test('what another process counts', async () => {
    const key = fresh();
    const worker = await spawnWorker();
    await inTurn(2, () => worker.call('checkLimit', key, 1, HOUR));
    await clearRateLimits();
    await until(async () => (await worker.call('checkLimit', key, 1, HOUR)).allowed, {
      deadlineMs: 5000,
      what: 'the news of a clear',
    });
  });
});
