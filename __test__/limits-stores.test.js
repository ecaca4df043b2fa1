'use strict';

// Stores: the classes of the contract, asking without counting, taking back, looking, and forgetting.

const { startRedis, until } = require('./helpers/servers.js');
const { openRedis } = require('./fixtures/functional/redis.js');
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
  expectTimes,
  expectWithin,
} = require('./fixtures/limits/steps.js');

const { checkLimit, clearRateLimits, RedisRateLimitStore, RedisTokenBucketStore, InMemoryRateLimitStore } = addon;
const PREFIX = 'limits-stores:';

let server;
let redis;

beforeAll(async () => {
  server = await startRedis();
  process.env.REDIS_URL = server.url;
  process.env.REDIS_KEY_PREFIX = PREFIX;
  redis = openRedis(server.url);
});

const STORES = [
  ['RedisRateLimitStore', 'sliding-window', (name) => new RedisRateLimitStore({ name })],
  [
    'RedisRateLimitStore, fixed-window',
    'fixed-window',
    (name) => new RedisRateLimitStore({ name, algorithm: 'fixed-window' }),
  ],
  ['RedisTokenBucketStore', 'token-bucket', (name) => new RedisTokenBucketStore({ name })],
  ...ALGORITHMS.map((algorithm) => [
    `InMemoryRateLimitStore, ${algorithm}`,
    algorithm,
    (name) => new InMemoryRateLimitStore({ name, algorithm }),
  ]),
];

describe.each(STORES)('%s', (title, algorithm, open) => {
  const isBucket = algorithm === 'token-bucket';
  const untilThere = (missing, limit) => (isBucket ? (missing * HOUR) / limit : HOUR);
  let name;
  let store;

  beforeEach(() => {
    name = freshName();
    store = open(name);
  });

  test('checks', async () => {
    const key = fresh();
    const answers = await inTurn(4, () => store.checkLimit(key, 3, HOUR));
    expect(remainingOf(answers)).toEqual([2, 1, 0, 0]);
    expect(admitted(answers)).toBe(3);
    expect(remainingOf(await atOnce(4, () => store.checkLimit(fresh(), 3, HOUR)))).toEqual([2, 2, 2, 2]);
    const other = fresh();
    expect(remainingOf(await atOnce(4, () => store.checkLimit(other, 3, HOUR)))).toEqual([2, 1, 0, 0]);
    expect(await store.checkLimit(fresh(), 3, HOUR, { cost: 2 })).toMatchObject({
      allowed: true,
      info: { limit: 3, remaining: 1 },
    });
    expect(await store.checkLimit(other, 3, HOUR, {})).toMatchObject({
      allowed: false,
      info: { retryAfter: expect.any(Number) },
    });
  });

  test('of the same name are one, of another name are others', async () => {
    const key = fresh();
    const [one, same, other] = [open(name), open(name), open(`${name}2`)];
    await inTurn(3, () => one.checkLimit(key, 3, HOUR));
    expect(await same.checkLimit(key, 3, HOUR)).toMatchObject({ allowed: false });
    expect(await other.checkLimit(key, 3, HOUR)).toMatchObject({ allowed: true, info: { remaining: 2 } });
    await same.clear(key);
    expect(await one.checkLimit(key, 3, HOUR)).toMatchObject({ allowed: true, info: { remaining: 2 } });
    expect(await other.get(key)).toMatchObject({ remaining: 2 });
  });

  test('peek answers and counts nothing', async () => {
    const key = fresh();
    const since = Date.now() / 1000;
    for (let ask = 0; ask < 10; ask += 1) {
      expect(await store.peek(key, 3, HOUR)).toStrictEqual({
        allowed: true,
        info: { limit: 3, remaining: 3, reset: expect.any(Number) },
      });
    }
    expectWithin((await store.peek(key, 3, HOUR)).info.reset, Math.floor(since), Math.ceil(Date.now() / 1000) + 1);
    expect(await store.get(key)).toBe(null);
    await store.checkLimit(key, 3, HOUR, { cost: 2 });
    expect(await store.peek(key, 3, HOUR)).toMatchObject({ allowed: true, info: { remaining: 1 } });
    expect(await store.peek(key, 3, HOUR, { cost: 2 })).toMatchObject({ allowed: false, info: { remaining: 1 } });
    await expectTimes(since, () => store.peek(key, 3, HOUR, { cost: 2 }), {
      resetIn: isBucket ? 2400 : HOUR,
      waitFor: untilThere(1, 3),
    });
    expect(remainingOf(await atOnce(5, () => store.peek(key, 3, HOUR)))).toEqual([1, 1, 1, 1, 1]);
    expect(await store.checkLimit(key, 3, HOUR)).toMatchObject({ allowed: true, info: { remaining: 0 } });
    expect(await store.peek(key, 3, HOUR)).toMatchObject({ allowed: false, info: { remaining: 0 } });
  });

  test('refund gives back', async () => {
    const key = fresh();
    await inTurn(5, () => store.checkLimit(key, 5, HOUR));
    expect(await store.refund(key, 5, HOUR)).toBe(undefined);
    expect(await store.peek(key, 5, HOUR)).toMatchObject({ allowed: true, info: { remaining: 1 } });
    await store.refund(key, 5, HOUR, { cost: 3 });
    expect(await store.peek(key, 5, HOUR)).toMatchObject({ info: { remaining: 4 } });
    expect(admitted(await inTurn(6, () => store.checkLimit(key, 5, HOUR)))).toBe(4);
  });

  test('refund gives back no more than was taken', async () => {
    const key = fresh();
    await store.refund(key, 5, HOUR, { cost: 5 });
    expect(await store.peek(key, 5, HOUR)).toMatchObject({ info: { remaining: 5 } });
    await store.checkLimit(key, 5, HOUR, { cost: 2 });
    await inTurn(3, () => store.refund(key, 5, HOUR, { cost: 4 }));
    expect(await store.peek(key, 5, HOUR)).toMatchObject({ info: { remaining: 5 } });
    expect(admitted(await inTurn(7, () => store.checkLimit(key, 5, HOUR)))).toBe(5);
  });

  test('a denial is over once something was given back', async () => {
    const key = fresh();
    for (let round = 0; round < 20; round += 1) {
      await store.checkLimit(key, 1, HOUR);
      expect(admitted(await inTurn(3, () => store.checkLimit(key, 1, HOUR)))).toBe(0);
      await store.refund(key, 1, HOUR);
      expect(await store.peek(key, 1, HOUR)).toMatchObject({ allowed: true });
    }
  });

  test('what was denied while it was given back is no denial after it', async () => {
    for (let round = 0; round < 50; round += 1) {
      const key = fresh();
      await store.checkLimit(key, 2, HOUR, { cost: 2 });
      // Denied before it, or allowed after it: of two there is one left in any case.
      const refunds = () => store.refund(key, 2, HOUR, { cost: 2 });
      const checks = () => store.checkLimit(key, 2, HOUR);
      await Promise.all(round % 2 === 0 ? [checks(), refunds()] : [refunds(), checks()]);
      expect(await store.checkLimit(key, 2, HOUR)).toMatchObject({ allowed: true });
    }
  });

  test('get says how a key stands against its last limit', async () => {
    const key = fresh();
    const since = Date.now() / 1000;
    expect(await store.get(key)).toBe(null);
    await store.checkLimit(key, 10, HOUR, { cost: 4 });
    expect(await store.get(key)).toStrictEqual({ limit: 10, remaining: 6, reset: expect.any(Number) });
    expectWithin(
      (await store.get(key)).reset,
      Math.ceil(since + (isBucket ? 1440 : HOUR)),
      Math.ceil(Date.now() / 1000 + (isBucket ? 1440 : HOUR)) + 1,
    );
    await store.checkLimit(key, 20, HOUR);
    expect(await store.get(key)).toMatchObject({ limit: 20 });
    await inTurn(30, () => store.checkLimit(key, 20, HOUR));
    expect(await store.get(key)).toMatchObject({ limit: 20, remaining: 0 });
  });

  test('get of what is over, or cleared, is null', async () => {
    const [key, cleared] = [fresh(), fresh()];
    await store.checkLimit(key, 3, 0.2);
    await store.checkLimit(cleared, 3, HOUR);
    await store.clear(cleared);
    expect(await store.get(cleared)).toBe(null);
    await until(async () => (await store.get(key)) === null, { what: 'nothing to be counted' });
  });

  test('clear forgets one key', async () => {
    const [key, other] = [fresh(), fresh()];
    for (const one of [key, other]) await inTurn(4, () => store.checkLimit(one, 3, HOUR));
    expect(await store.clear(key)).toBe(undefined);
    expect(await store.checkLimit(key, 3, HOUR)).toMatchObject({ allowed: true, info: { remaining: 2 } });
    expect(await store.checkLimit(other, 3, HOUR)).toMatchObject({ allowed: false });
    expect(await store.clear(fresh())).toBe(undefined);
  });

  test('clear forgets all keys of the store, and no others', async () => {
    const keys = Array.from({ length: 50 }, () => fresh());
    const key = fresh();
    const others = [
      open(`${name}x`),
      open(name.slice(0, -1)),
      new RedisRateLimitStore({ name: freshName() }),
      new InMemoryRateLimitStore({ name: freshName() }),
    ];
    for (const one of [...keys, key]) await store.checkLimit(one, 1, HOUR);
    for (const other of others) await inTurn(2, () => other.checkLimit(key, 1, HOUR));
    expect(await store.clear()).toBe(undefined);
    for (const one of [...keys, key]) expect(await store.checkLimit(one, 1, HOUR)).toMatchObject({ allowed: true });
    for (const other of others) expect(await other.checkLimit(key, 1, HOUR)).toMatchObject({ allowed: false });
    await store.clear(undefined);
    expect(await store.get(key)).toBe(null);
  });

  test('clearRateLimits forgets all of them', async () => {
    const key = fresh();
    await inTurn(2, () => store.checkLimit(key, 1, HOUR));
    expect(await clearRateLimits()).toBe(undefined);
    expect(await store.checkLimit(key, 1, HOUR)).toMatchObject({ allowed: true });
  });

  test('works after a shutdown', async () => {
    const key = fresh();
    await store.checkLimit(key, 2, HOUR);
    await addon.shutdown();
    expect(await store.checkLimit(key, 2, HOUR)).toMatchObject({ allowed: true });
    if (title.startsWith('Redis')) expect(await store.checkLimit(key, 2, HOUR)).toMatchObject({ allowed: false });
  });

  test('has the methods of the contract, which need their store', async () => {
    for (const method of ['checkLimit', 'peek', 'refund', 'get', 'clear']) {
      expect(typeof store[method]).toBe('function');
      for (const self of [undefined, null, {}, Object.create(Object.getPrototypeOf(store))]) {
        const error = await (async () => store[method].call(self, fresh(), 3, HOUR))().then(
          () => null,
          (reason) => reason,
        );
        expect(error?.name).toBe('TypeError');
      }
    }
  });
});
