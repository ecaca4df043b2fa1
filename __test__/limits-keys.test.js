'use strict';

// One count a key, whatever limits it is checked against; and what of it stands in Redis, for how long, under which name.

const { createHash } = require('node:crypto');
const { startRedis, until, sleep } = require('./helpers/servers.js');
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
  keysThatBegin,
  expectWithin,
} = require('./fixtures/limits/steps.js');

const { checkLimit, RedisTokenBucketStore } = addon;
const PREFIX = 'limits-keys:';

let redis;

beforeAll(async () => {
  const server = await startRedis();
  process.env.REDIS_URL = server.url;
  process.env.REDIS_KEY_PREFIX = PREFIX;
  redis = openRedis(server.url);
  // What could not be asked of Redis is logged.
  addon.setLogHandler(() => {});
});

/** The only key in Redis that is new since `work` began. */
async function keyMadeBy(work) {
  const before = new Set(await keysThatBegin(redis, ''));
  await work();
  const made = (await keysThatBegin(redis, '')).filter((key) => !before.has(key));
  expect(made).toHaveLength(1);
  return made[0];
}

describe.each(ALGORITHMS)('%s', (algorithm) => {
  const check = (key, limit, window = HOUR, options = {}) => checkLimit(key, limit, window, { algorithm, ...options });

  test('one key in Redis, of prefix, algorithm, name and key', async () => {
    const key = fresh('user:42/ä');
    const made = await keyMadeBy(() => atOnce(8, () => check(key, 5)));
    expect(made).toBe(`${PREFIX}ratelimit:${algorithm}:default:${key}`);
    const named = await keyMadeBy(() => inTurn(8, () => check(key, 5, HOUR, { name: 'A.b_c/d-9' })));
    expect(named).toBe(`${PREFIX}ratelimit:${algorithm}:A.b_c/d-9:${key}`);
  });

  test.each([
    [0.05, 5],
    [0.5, 5],
    [3, 5],
    [HOUR, 100],
    [31 * 24 * HOUR, 1000],
  ])('with a window of %p s it expires, but not before its count does', async (window, limit) => {
    const key = fresh();
    const made = `${PREFIX}ratelimit:${algorithm}:default:${key}`;
    for (let call = 0; call < 8; call += 1) {
      const { info } = await check(key, limit, window);
      const left = await redis.pttl(made);
      // -2: it has been forgotten already.
      if (left === -2) expect(window).toBeLessThan(HOUR);
      else {
        expect(left).toBeGreaterThan(0);
        expect(left).toBeLessThanOrEqual(2 * window * 1000 + 5000);
        if (window >= HOUR) expect(left / 1000).toBeGreaterThan(info.reset - 1 - Date.now() / 1000 - 1);
      }
    }
    if (window < 1) await until(async () => (await redis.exists(made)) === 0, { what: 'the end of a key' });
  });

  test('joined and costly calls leave an expiry, too', async () => {
    const key = fresh();
    await atOnce(20, () => check(key, 50, HOUR));
    await check(key, 50, HOUR, { cost: 20 });
    await atOnce(20, () => check(key, 50, HOUR));
    expectWithin(await redis.pttl(`${PREFIX}ratelimit:${algorithm}:default:${key}`), 1, 2 * HOUR * 1000);
  });

  test('what it takes in Redis is bounded', async () => {
    const key = fresh();
    const size = () => redis.memory('USAGE', `${PREFIX}ratelimit:${algorithm}:default:${key}`, 'SAMPLES', 0);
    await check(key, 2000);
    const first = await size();
    // One tick each: calls that came together would be counted together.
    const calls = [];
    for (let call = 1; call < 2500; call += 1) {
      calls.push(check(key, 2000));
      if (call % 100 === 0) await Promise.all(calls.splice(0));
      else await null;
    }
    expect((await Promise.all(calls)).at(-1)).toMatchObject({ allowed: false });
    expect((await size()) - first).toBeLessThan(algorithm === 'sliding-window' ? 2000 * 20 : 100);
  });

  test('a key of up to 256 bytes stands there as it is, of a longer one the SHA-256', async () => {
    const sha256 = (key) => createHash('sha256').update(key).digest('hex');
    const start = `${PREFIX}ratelimit:${algorithm}:default:`;
    const [whole, long] = [fresh().padEnd(256, 'x'), fresh().padEnd(257, 'x')];
    expect(await keyMadeBy(() => check(whole, 5))).toBe(start + whole);
    const hashed = await keyMadeBy(() => check(long, 5));
    expect(hashed.startsWith(start)).toBe(true);
    expect(hashed).toContain(sha256(long));
    expect(hashed.length).toBeLessThanOrEqual(start.length + 80);
    const bytes = `${fresh()}${'é'.repeat(128)}`;
    expect(await keyMadeBy(() => check(bytes, 5))).toContain(sha256(bytes));
  });

  test('long keys do not share a count, and each has one', async () => {
    const start = fresh();
    for (const length of [256, 257, 1000, 4096]) {
      const [one, other] = [`${start.padEnd(length - 1, 'x')}a`, `${start.padEnd(length - 1, 'x')}b`];
      expect(admitted(await inTurn(4, () => check(one, 3)))).toBe(3);
      expect(await check(other, 3)).toMatchObject({ allowed: true, info: { remaining: 2 } });
      expect(await check(one, 3)).toMatchObject({ allowed: false });
    }
  });

  test.each([
    ['a NUL', 'a\0b', 'a'],
    ['a line break', 'a\r\nb', 'a\r\nc'],
    ['braces', '{a}b', '{a}c'],
    ['what patterns are made of', '*', '?'],
    ['an apostrophe', "'; return 1 --", "'"],
    ['colons', 'a:b:c', 'a:b'],
    ['another script', '日本語', '日本'],
    ['characters of two units', '😀', '😁'],
    ['what has a number', '1', '01'],
    ['what objects have', '__proto__', 'constructor'],
  ])('a key may have %s', async (_, one, other) => {
    const [first, second] = [one, other].map((key) => `${fresh()}${key}`);
    expect(admitted(await inTurn(3, () => check(first, 2)))).toBe(2);
    expect(admitted(await inTurn(3, () => check(second, 2)))).toBe(2);
    expect(await redis.exists(`${PREFIX}ratelimit:${algorithm}:default:${first}`)).toBe(1);
  });

  const onWindows = algorithm === 'token-bucket' ? () => {} : test;
  const onBuckets = algorithm === 'token-bucket' ? test : () => {};

  describe('different limits on one key', () => {
    const over = async (key, limit, window) =>
      expect(await check(key, limit, window)).toMatchObject({ allowed: false });

    onWindows('the lower one sees what the higher one allowed', async () => {
      const key = fresh();
      expect(admitted(await inTurn(3, () => check(key, 10)))).toBe(3);
      await over(key, 3);
      await over(key, 2);
      // The higher one may be stricter now, but never gives more than it has left.
      expect(admitted(await inTurn(12, () => check(key, 10)))).toBeLessThanOrEqual(7);
      await over(key, 10);
    });

    onWindows('the higher one sees what the lower one allowed', async () => {
      const key = fresh();
      expect(admitted(await inTurn(5, () => check(key, 3)))).toBe(3);
      expect(admitted(await inTurn(12, () => check(key, 10)))).toBeLessThanOrEqual(7);
      await over(key, 3);
    });

    onBuckets('the time until it is full is taken over: in the same window, the share that is used', async () => {
      const left = async (key, limit, window) =>
        (await new RedisTokenBucketStore().peek(key, limit, window)).info.remaining;
      const key = fresh();
      await check(key, 10, HOUR, { cost: 5 });
      for (const [limit, expected] of [
        [10, 5],
        [4, 2],
        [20, 10],
        [3, 1],
        [1, 0],
        [100, 50],
      ])
        expect(await left(key, limit, HOUR)).toBe(expected);
      // Half an hour is a sixteenth of eight of them, and more than a minute.
      for (const [limit, expected] of [
        [4, 3],
        [20, 18],
        [1, 0],
      ])
        expect(await left(key, limit, 8 * HOUR)).toBe(expected);
      for (const limit of [1, 4, 1000]) await over(key, limit, 60);
      expect(await check(key, 4, HOUR)).toMatchObject({ allowed: true, info: { remaining: 1 } });
      // One of four is two and a half of ten.
      expect(await left(key, 10, HOUR)).toBe(2);
    });

    onBuckets('taking turns gives no more than the highest limit', async () => {
      const key = fresh();
      const answers = await inTurn(60, (index) =>
        check(key, [10, 20, 5][index % 3], [HOUR, 2 * HOUR, HOUR / 2][index % 3]),
      );
      expect(admitted(answers)).toBeLessThanOrEqual(20);
      for (const [limit, window] of [
        [10, HOUR],
        [20, 2 * HOUR],
        [5, HOUR / 2],
      ])
        await over(key, limit, window);
    });

    test('who is at one limit is at none of the others before it has passed', async () => {
      const key = fresh();
      expect(admitted(await inTurn(6, () => check(key, 5)))).toBe(5);
      for (let round = 0; round < 5; round += 1) {
        await checkLimit(key, 1000, 0.02, { algorithm });
        await over(key, 5);
        await over(key, 1);
        await sleep(30);
      }
    });

    test('a short window does not make a long one forget', async () => {
      const key = fresh();
      expect(admitted(await inTurn(6, () => check(key, 5)))).toBe(5);
      for (let round = 0; round < 3; round += 1) {
        await check(key, 100, 0.05);
        await sleep(120);
        await over(key, 5);
      }
    });

    test('what a short window allows counts in a long one that the key is known to have', async () => {
      const key = fresh();
      expect(await check(key, 5)).toMatchObject({ allowed: true });
      let taken = 1;
      for (let round = 0; round < 6; round += 1) {
        taken += admitted(await inTurn(2, () => check(key, 100, 0.05)));
        await sleep(80);
      }
      const more = admitted(await inTurn(8, () => check(key, 5)));
      expect(more).toBeLessThanOrEqual(Math.max(0, 5 - taken));
    });

    test('a denial of one limit is none of the other', async () => {
      const [key, name] = [fresh(), freshName()];
      const ask = (limit) => check(key, limit, HOUR, { name });
      expect(admitted(await inTurn(2, () => ask(1)))).toBe(1);
      expect(admitted(await inTurn(3, () => ask(1)))).toBe(0);
      if (algorithm === 'sliding-window') expect(await ask(10)).toMatchObject({ allowed: true });
      expect(await ask(1)).toMatchObject({ allowed: false });
    });
  });

  test.each([
    ['a text', (key) => redis.set(key, 'what is this?')],
    ['an empty text', (key) => redis.set(key, '')],
    ['a number', (key) => redis.set(key, '-1')],
    ['noise', (key) => redis.set(key, Buffer.from(Array.from({ length: 255 }, (_, index) => index)))],
    ['a list', (key) => redis.rpush(key, 'a', 'b')],
    ['a hash', (key) => redis.hset(key, 'a', 'b')],
    ['a set', (key) => redis.sadd(key, 'a', 'b')],
    ['a sorted set', (key) => redis.zadd(key, 1, 'a', 2, 'b')],
  ])('%s that somebody left under its key rejects nothing, and the limit holds', async (_, leave) => {
    const key = fresh();
    await leave(`${PREFIX}ratelimit:${algorithm}:default:${key}`);
    expect(admitted(await inTurn(12, () => check(key, 5)))).toBeLessThanOrEqual(5);
    expect(admitted(await atOnce(12, () => check(key, 5)))).toBeLessThanOrEqual(5);
  });
});

test('every key of a limit has an end', async () => {
  const name = freshName();
  for (const algorithm of ALGORITHMS) {
    for (const window of [0.3, 10, HOUR])
      await atOnce(5, (index) => checkLimit(fresh(), 3 + index, window, { algorithm, name }));
  }
  const own = (await keysThatBegin(redis, `${PREFIX}ratelimit:`)).filter((key) => key.includes(`:${name}:`));
  expect(own.length).toBeGreaterThanOrEqual(30);
  for (const key of own) expect(await redis.pttl(key)).not.toBe(-1);
});

test.each(['', 'app:', 'a b{c}*?é:'])('REDIS_KEY_PREFIX=%p stands before every key', async (prefix) => {
  await withEnvironment({ REDIS_KEY_PREFIX: prefix }, async () => {
    for (const algorithm of ALGORITHMS) {
      const key = fresh();
      expect(await keyMadeBy(() => checkLimit(key, 5, HOUR, { algorithm }))).toBe(
        `${prefix}ratelimit:${algorithm}:default:${key}`,
      );
    }
  });
});
