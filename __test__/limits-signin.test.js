'use strict';

// Attempts to sign in: the functions that Studio's page calls.

const { isPromise } = require('node:util/types');
const { startRedis, until } = require('./helpers/servers.js');
const { spawnWorker } = require('./helpers/process.js');
const { openRedis } = require('./fixtures/functional/redis.js');
const { withEnvironment } = require('./fixtures/functional/environment.js');
const {
  addon,
  ALGORITHMS,
  HOUR,
  fresh,
  inTurn,
  atOnce,
  keysThatBegin,
  expectWithin,
} = require('./fixtures/limits/steps.js');

const { checkRateLimit, clearRateLimit, checkLimit } = addon;
const PREFIX = 'limits-signin:';

let redis;

beforeAll(async () => {
  const server = await startRedis();
  process.env.REDIS_URL = server.url;
  process.env.REDIS_KEY_PREFIX = PREFIX;
  redis = openRedis(server.url);
});

/** The functions are the same in the process alone. */
describe.each(['with Redis', 'in the process'])('%s', (where) => {
  const run = (work) => (where === 'with Redis' ? work() : withEnvironment({ REDIS_URL: undefined }, work));

  test('five attempts, then it is over the limit', () =>
    run(async () => {
      const who = fresh('192.0.2.1:ada@example.com');
      expect(await inTurn(8, () => checkRateLimit(who))).toEqual([false, false, false, false, false, true, true, true]);
      expect(await checkRateLimit(fresh())).toBe(false);
    }));

  test('as many as one says', () =>
    run(async () => {
      const [one, three] = [fresh(), fresh()];
      expect(await inTurn(3, () => checkRateLimit(one, 1))).toEqual([false, true, true]);
      expect(await inTurn(5, () => checkRateLimit(three, 3, HOUR * 1000))).toEqual([false, false, false, true, true]);
      expect(await inTurn(6, () => checkRateLimit(fresh(), undefined, undefined))).toEqual(Array(6).fill(false));
    }));

  test('attempts at once are counted one by one', () =>
    run(async () => {
      const who = fresh();
      expect((await atOnce(50, () => checkRateLimit(who))).filter((over) => !over)).toHaveLength(5);
    }));

  test('who signs in starts anew', () =>
    run(async () => {
      const [who, other] = [fresh(), fresh()];
      for (const one of [who, other]) await inTurn(7, () => checkRateLimit(one));
      expect(await clearRateLimit(who)).toBe(undefined);
      expect(await inTurn(6, () => checkRateLimit(who))).toEqual([false, false, false, false, false, true]);
      expect(await checkRateLimit(other)).toBe(true);
      expect(await clearRateLimit(fresh())).toBe(undefined);
    }));

  test('after the window there are new attempts', () =>
    run(async () => {
      const who = fresh();
      const begun = performance.now();
      await until(() => checkRateLimit(who, 2, 300), { everyMs: 0, what: 'too many attempts' });
      await until(async () => !(await checkRateLimit(who, 2, 300)), { everyMs: 5, what: 'new attempts' });
      expect(performance.now() - begun).toBeGreaterThanOrEqual(299);
    }));

  test('no other limit shares these counts, and clearing all clears them', () =>
    run(async () => {
      const who = fresh();
      await inTurn(6, () => checkRateLimit(who));
      for (const algorithm of ALGORITHMS) {
        expect(await checkLimit(who, 5, 900, { algorithm })).toMatchObject({ allowed: true, info: { remaining: 4 } });
      }
      expect(await checkRateLimit(who)).toBe(true);
      await addon.clearRateLimits();
      expect(await checkRateLimit(who)).toBe(false);
    }));

  test.each([
    ['the shortest window', 1],
    ['the longest one', 31 * 24 * HOUR * 1000],
  ])('%s', (_, windowMs) =>
    run(async () => {
      expect(await checkRateLimit(fresh(), 5, windowMs)).toBe(false);
    }),
  );
});

test('it is a promise, and of a boolean', async () => {
  const answer = checkRateLimit(fresh());
  expect(isPromise(answer)).toBe(true);
  expect(await answer).toBe(false);
});

test('attempts are counted over processes, and for fifteen minutes', async () => {
  const who = fresh();
  const worker = await spawnWorker();
  await inTurn(3, () => checkRateLimit(who));
  expect(await inTurn(3, () => worker.call('checkRateLimit', who))).toEqual([false, false, true]);
  const keys = (await keysThatBegin(redis, `${PREFIX}ratelimit:`)).filter((key) => key.endsWith(`:${who}`));
  expect(keys).toEqual([
    expect.stringMatching(/^limits-signin:ratelimit:(sliding-window|token-bucket|fixed-window):[A-Za-z0-9._/-]{1,64}:/),
  ]);
  expectWithin(await redis.pttl(keys[0]), 890_000, 2 * 900_000 + 5000);
  await clearRateLimit(who);
  expect(await redis.exists(keys[0])).toBe(0);
  await until(async () => !(await worker.call('checkRateLimit', who)), {
    deadlineMs: 5000,
    what: 'the news of a clear',
  });
});

test('a long identifier does not stand in Redis', async () => {
  const secret = `password-by-mistake-${'x'.repeat(300)}`;
  await checkRateLimit(secret);
  expect((await keysThatBegin(redis, '')).filter((key) => key.includes('password-by-mistake'))).toEqual([]);
});
