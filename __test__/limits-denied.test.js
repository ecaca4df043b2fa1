'use strict';

// What Redis has denied is denied by the process itself: without a command, for a second at most, and only that.

const { isPromise } = require('node:util/types');
const { startRedis, startProxy, until, sleep } = require('./helpers/servers.js');
const { spawnWorker } = require('./helpers/process.js');
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
  commandCounts,
  scriptCalls,
  expectWithin,
  expectTimes,
} = require('./fixtures/limits/steps.js');

const { checkLimit, RedisRateLimitStore, RedisTokenBucketStore } = addon;

/** How long a denial is repeated at most, and what a busy machine may add before it is noticed. */
const LONGEST = 1000;
const SLACK = 4000;

let redis;
let proxy;
let other;

beforeAll(async () => {
  const server = await startRedis();
  proxy = await startProxy(server.port);
  process.env.REDIS_URL = proxy.url('redis');
  process.env.REDIS_KEY_PREFIX = 'limits-denied:';
  redis = openRedis(server.url);
  other = await spawnWorker();
  for (const algorithm of ALGORITHMS) await checkLimit(fresh(), 5, HOUR, { algorithm });
});

/** Everything that was executed, but for what keeps connections alive and what the test itself asks. */
async function commands() {
  const { info, ping, hello, auth, ...counts } = await commandCounts(redis);
  const others = Object.entries(counts).filter(([name]) => !name.startsWith('client') && !name.startsWith('config'));
  return others.reduce((sum, [, calls]) => sum + calls, 0);
}

/**
 * Denies by `deny`, which gives the answer, then runs `work`, and gives how many commands it caused and what it answered. All of
 * it has to happen while a denial is remembered: if the machine was too slow for that, it is done again, with a new key.
 */
async function whileDenied(deny, work) {
  for (let attempt = 0; attempt < 20; attempt += 1) {
    const key = fresh();
    const begun = performance.now();
    const denied = await deny(key);
    expect(denied.allowed).toBe(false);
    const before = await commands();
    const answers = await work(key);
    const after = await commands();
    if (performance.now() - begun < LONGEST - 100) return { caused: after - before, answers, denied };
  }
  throw new Error('This machine is too slow to tell.');
}

describe.each(ALGORITHMS)('%s', (algorithm) => {
  const check = (key, limit = 2, options = {}) => checkLimit(key, limit, HOUR, { algorithm, ...options });
  const deny = async (key) => (await inTurn(3, () => check(key)))[2];

  test('a denied call is answered without a command', async () => {
    const { caused, answers, denied } = await whileDenied(deny, (key) => inTurn(200, () => check(key)));
    expect(caused).toBe(0);
    for (const answer of answers) {
      expect(answer).toMatchObject({ allowed: false, info: { limit: 2, remaining: 0, reset: denied.info.reset } });
      expectWithin(answer.info.retryAfter, denied.info.retryAfter - 1, denied.info.retryAfter);
    }
  });

  test('so are many of one tick', async () => {
    const { caused, answers } = await whileDenied(deny, (key) => atOnce(200, () => check(key)));
    expect(caused).toBe(0);
    expect(admitted(answers)).toBe(0);
  });

  test('so is what was denied together with others', async () => {
    const together = async (key) => (await atOnce(10, () => check(key))).at(-1);
    expect((await whileDenied(together, (key) => inTurn(50, () => check(key)))).caused).toBe(0);
  });

  test('the answer is frozen, and not changed by anybody', async () => {
    const { answers } = await whileDenied(deny, (key) => inTurn(5, () => check(key)));
    for (const answer of answers) {
      expect(Object.isFrozen(answer) && Object.isFrozen(answer.info)).toBe(true);
      expect(() => {
        answer.allowed = true;
      }).toThrow(TypeError);
      expect(() => {
        answer.info.remaining = 5;
      }).toThrow(TypeError);
    }
  });

  test('Redis is asked again after a second at most', async () => {
    const key = fresh();
    await inTurn(3, () => check(key));
    const [before, begun] = [await scriptCalls(redis), performance.now()];
    while (performance.now() - begun < 2500) {
      expect(await check(key)).toMatchObject({ allowed: false });
      await sleep(5);
    }
    const passed = performance.now() - begun;
    // At least once a second, and at most once for each time that it was forgotten.
    expectWithin((await scriptCalls(redis)) - before, 1, Math.ceil(passed / LONGEST) + 1);
  });

  test('what the process allows of a key meanwhile is known to who is denied', async () => {
    for (let round = 0; round < 20; round += 1) {
      const key = fresh();
      const since = Date.now() / 1000;
      const deniedAt = async (remaining) =>
        expect(await check(key, 4, { cost: 3 })).toMatchObject({ allowed: false, info: { remaining } });
      await check(key, 4, { cost: 2 });
      await deniedAt(2);
      expect(await check(key, 4, { cost: 2 })).toMatchObject({ allowed: true, info: { remaining: 0 } });
      await deniedAt(0);
      const waitFor = algorithm === 'token-bucket' ? (3 * HOUR) / 4 : HOUR;
      await expectTimes(since, () => check(key, 4, { cost: 3 }), { resetIn: HOUR, waitFor });
    }
  });

  test('another cost is asked, and another limit, and another window', async () => {
    const key = fresh();
    await check(key, 5, { cost: 3 });
    expect(await check(key, 5, { cost: 3 })).toMatchObject({ allowed: false, info: { remaining: 2 } });
    expect(await check(key, 5, { cost: 2 })).toMatchObject({ allowed: true, info: { remaining: 0 } });
    expect(await check(key, 5, { cost: 1 })).toMatchObject({ allowed: false });
    const before = await scriptCalls(redis);
    await check(key, 50);
    await checkLimit(key, 5, HOUR + 1, { algorithm });
    await checkLimit(key, 5, HOUR / 2, { algorithm });
    expect(await scriptCalls(redis)).toBe(before + 3);
    const [othersKey, name] = [`${key}2`, freshName()];
    expect(await check(othersKey, 5)).toMatchObject({ allowed: true });
    expect(await check(key, 5, { name })).toMatchObject({ allowed: true });
    for (const one of ALGORITHMS.filter((one) => one !== algorithm)) {
      expect(await checkLimit(key, 5, HOUR, { algorithm: one })).toMatchObject({ allowed: true });
    }
  });

  test('it ends when the call can be allowed', async () => {
    for (const window of [0.1, 0.4, 1.2]) {
      const key = fresh();
      const ask = () => checkLimit(key, 1, window, { algorithm });
      const begun = performance.now();
      const denied = await until(
        async () => {
          const answer = await ask();
          return answer.allowed ? null : answer;
        },
        { everyMs: 0, what: 'a denial' },
      );
      expect(denied.info.retryAfter).toBeLessThanOrEqual(Math.ceil(window));
      await until(async () => (await ask()).allowed, { everyMs: 2, what: 'the end of a denial' });
      expect(performance.now() - begun).toBeLessThan(window * 1000 + LONGEST + SLACK);
    }
  });

  test('a clear holds at once in the process that clears, whatever was under way', async () => {
    const clear = {
      'sliding-window': (key) => new RedisRateLimitStore().clear(key),
      'token-bucket': (key) => new RedisTokenBucketStore().clear(key),
      'fixed-window': () => addon.clearRateLimits(),
    }[algorithm];
    // Replies overtake each other, as on a network.
    proxy.onData = (direction) => (direction === 'toClient' ? sleep(Math.random() * 10) : undefined);
    try {
      for (let round = 0; round < 20; round += 1) {
        const keys = Array.from({ length: algorithm === 'fixed-window' ? 1 : 20 }, () => fresh());
        await Promise.all(
          keys.map(async (key) => {
            await check(key, 2, { cost: 2 });
            // Denied by Redis before it clears, or allowed after it: of two there is one left in any case.
            await Promise.all([check(key), clear(key)]);
            expect(await check(key)).toMatchObject({ allowed: true });
          }),
        );
      }
    } finally {
      proxy.onData = null;
    }
  });

  test('a clear by another process is seen within a second', async () => {
    const key = fresh();
    await inTurn(3, () => check(key));
    await other.call('clearRateLimits');
    const cleared = performance.now();
    await until(async () => (await check(key)).allowed, { everyMs: 5, what: 'the news of a clear' });
    expect(performance.now() - cleared).toBeLessThan(LONGEST + SLACK);
  });

  test('a key that another process deletes is seen likewise', async () => {
    const key = fresh();
    await inTurn(3, () => check(key));
    expect(await redis.del(`limits-denied:ratelimit:${algorithm}:default:${key}`)).toBe(1);
    await until(async () => (await check(key)).allowed, { deadlineMs: LONGEST + SLACK, what: 'an answer of Redis' });
  });
});

test('a wait that is told is long enough, also when it is repeated', async () => {
  const slow = (direction) => (direction === 'toServer' ? sleep(40) : undefined);
  let rounds = 0;
  try {
    for (let attempt = 0; rounds < 3 && attempt < 20; attempt += 1) {
      const [key, name] = [fresh(), freshName()];
      const ask = () => checkLimit(key, 1, 1.5, { name });
      // Redis decides long after it was asked, and what it says counts from then.
      proxy.onData = slow;
      await ask();
      // The moment in which a second less is told is the one that is nearest to the truth.
      let told = { retryAfter: 2 };
      while (told.retryAfter === 2) {
        await sleep(2);
        told = (await ask()).info;
      }
      const heard = performance.now();
      const wait = told.retryAfter * 1000;
      proxy.onData = null;
      while (performance.now() - heard < wait) await sleep(Math.ceil(wait - (performance.now() - heard)));
      const { allowed } = await ask();
      // On a machine that is so busy that Redis had no answer in its time, this has told nothing.
      if (addon.getRateLimitMetrics()[name].answeredInOutage > 0) continue;
      expect(allowed).toBe(true);
      rounds += 1;
    }
  } finally {
    proxy.onData = null;
  }
  expect(rounds).toBe(3);
});

test('peek is never answered by what is remembered of another question', async () => {
  const store = new RedisRateLimitStore();
  const key = fresh();
  await inTurn(4, () => store.checkLimit(key, 2, HOUR));
  expect(await store.peek(key, 2, HOUR)).toMatchObject({ allowed: false, info: { remaining: 0 } });
  expect(await store.peek(key, 3, HOUR)).toMatchObject({ allowed: true, info: { remaining: 1 } });
  expect(await store.get(key)).toMatchObject({ remaining: expect.any(Number) });
});

test('a denied call costs no turn of the event loop', async () => {
  const { answers } = await whileDenied(
    async (key) => (await inTurn(3, () => checkLimit(key, 2, HOUR)))[2],
    async (key) => {
      const call = checkLimit(key, 2, HOUR);
      return [isPromise(call), await Promise.race([call, new Promise((resolve) => setImmediate(resolve, 'too late'))])];
    },
  );
  expect(answers[0]).toBe(true);
  expect(answers[1]).toMatchObject({ allowed: false });
});
