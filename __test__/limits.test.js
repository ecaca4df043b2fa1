'use strict';

// What a check answers: allowed or not, how much is left, when more is there; alone, together, and by several processes.

const { startRedis, until, sleep } = require('./helpers/servers.js');
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
  allowedOf,
  remainingOf,
  admitted,
  scriptCalls,
  expectTimes,
  expectWithin,
} = require('./fixtures/limits/steps.js');

const { checkLimit } = addon;

let redis;

beforeAll(async () => {
  const server = await startRedis();
  process.env.REDIS_URL = server.url;
  process.env.REDIS_KEY_PREFIX = 'limits:';
  redis = openRedis(server.url);
  // From here on each check is one script call: the server knows the scripts, and connections are open.
  for (const algorithm of ALGORITHMS) await checkLimit(fresh(), 5, HOUR, { algorithm });
});

test('the default is a sliding window', async () => {
  const key = fresh();
  await inTurn(3, () => checkLimit(key, 5, HOUR));
  expect(await checkLimit(key, 5, HOUR, { algorithm: 'sliding-window' })).toMatchObject({ info: { remaining: 1 } });
  expect(await checkLimit(key, 5, HOUR, {})).toMatchObject({ allowed: true, info: { remaining: 0 } });
  expect(
    await checkLimit(key, 5, HOUR, {
      algorithm: undefined,
      cost: undefined,
      onOutage: undefined,
      shadow: undefined,
      name: undefined,
    }),
  ).toMatchObject({ allowed: false });
});

describe.each(ALGORITHMS)('%s', (algorithm) => {
  const LIMIT = 5;
  const isBucket = algorithm === 'token-bucket';
  const check = (key, options) => checkLimit(key, LIMIT, HOUR, { algorithm, ...options });
  /** Seconds until everything is there again after `used` calls, and until `missing` of them are. */
  const untilFull = (used) => (isBucket ? (used * HOUR) / LIMIT : HOUR);
  const untilThere = (missing) => (isBucket ? (missing * HOUR) / LIMIT : HOUR);

  test('allows as much as the limit, and says what is left', async () => {
    const key = fresh();
    const answers = await inTurn(7, () => check(key));
    expect(allowedOf(answers)).toEqual([true, true, true, true, true, false, false]);
    expect(remainingOf(answers)).toEqual([4, 3, 2, 1, 0, 0, 0]);
    for (const { info } of answers) expect(info.limit).toBe(LIMIT);
  });

  test('an answer has these properties, and no others', async () => {
    const key = fresh();
    const [first] = await inTurn(LIMIT, () => check(key));
    expect(first).toStrictEqual({ allowed: true, info: { limit: LIMIT, remaining: 4, reset: expect.any(Number) } });
    expect(await check(key)).toStrictEqual({
      allowed: false,
      info: { limit: LIMIT, remaining: 0, reset: expect.any(Number), retryAfter: expect.any(Number) },
    });
  });

  test('says when all is there again, and when one is', async () => {
    const key = fresh();
    const since = Date.now() / 1000;
    for (let used = 1; used <= LIMIT; used += 1) {
      await expectTimes(since, () => check(key), { resetIn: untilFull(used) });
    }
    await expectTimes(since, () => check(key), { resetIn: untilFull(LIMIT), waitFor: untilThere(1) });
    await expectTimes(since, () => check(key, { cost: 3 }), { resetIn: untilFull(LIMIT), waitFor: untilThere(3) });
  });

  test('a call may cost more than one, and is allowed whole or not at all', async () => {
    const key = fresh();
    const since = Date.now() / 1000;
    expect(await check(key, { cost: 3 })).toMatchObject({ allowed: true, info: { remaining: 2 } });
    expect(await check(key, { cost: 3 })).toMatchObject({ allowed: false, info: { remaining: 2 } });
    await expectTimes(since, () => check(key, { cost: 3 }), { resetIn: untilFull(3), waitFor: untilThere(1) });
    expect(await check(key, { cost: 2 })).toMatchObject({ allowed: true, info: { remaining: 0 } });
    expect(await check(fresh(), { cost: LIMIT })).toMatchObject({ allowed: true, info: { remaining: 0 } });
  });

  test('what was denied is not counted', async () => {
    const key = fresh();
    await inTurn(4, () => check(key));
    expect(admitted(await inTurn(20, () => check(key, { cost: 2 })))).toBe(0);
    expect(await check(key)).toMatchObject({ allowed: true, info: { remaining: 0 } });
  });

  test('keys and names do not share, nor do other algorithms', async () => {
    const key = fresh();
    const name = freshName();
    await inTurn(LIMIT, () => check(key));
    expect(await check(key)).toMatchObject({ allowed: false });
    for (const other of ALGORITHMS.filter((one) => one !== algorithm)) {
      expect(await check(key, { algorithm: other })).toMatchObject({ allowed: true, info: { remaining: 4 } });
    }
    expect(await check(key, { name })).toMatchObject({ allowed: true, info: { remaining: 4 } });
    expect(await check(key, { name: `${name}.` })).toMatchObject({ allowed: true, info: { remaining: 4 } });
    expect(await check(`${key} `)).toMatchObject({ allowed: true, info: { remaining: 4 } });
    expect(await check(key.toUpperCase())).toMatchObject({ allowed: true, info: { remaining: 4 } });
    expect(await check(key, { name: 'default' })).toMatchObject({ allowed: false });
  });

  test('calls of one tick are one script, each with its exact answer', async () => {
    const key = fresh();
    const before = await scriptCalls(redis);
    const answers = await atOnce(9, () => check(key));
    expect(await scriptCalls(redis)).toBe(before + 1);
    expect(allowedOf(answers)).toEqual(Array.from({ length: 9 }, (_, index) => index < LIMIT));
    expect(remainingOf(answers)).toEqual([4, 3, 2, 1, 0, 0, 0, 0, 0]);
    for (const { allowed, info } of answers) expect('retryAfter' in info).toBe(!allowed);
    expect(await check(key)).toMatchObject({ allowed: false });
  });

  test('calls of one tick that cost more', async () => {
    const key = fresh();
    const answers = await atOnce(4, () => check(key, { cost: 2 }));
    expect(allowedOf(answers)).toEqual([true, true, false, false]);
    expect(remainingOf(answers)).toEqual([3, 1, 1, 1]);
    expect(await check(key)).toMatchObject({ allowed: true, info: { remaining: 0 } });
  });

  test('calls of one tick that differ are counted all the same', async () => {
    const [key, other] = [fresh(), fresh()];
    const name = freshName();
    const costs = [2, 1, 2, 1, 2, 1];
    const [mixed, others, named] = await Promise.all([
      atOnce(costs.length, (index) => check(key, { cost: costs[index] })),
      atOnce(7, () => check(other)),
      atOnce(6, () => check(key, { name })),
    ]);
    const taken = mixed.reduce((sum, { allowed }, index) => sum + (allowed ? costs[index] : 0), 0);
    expect(taken).toBeGreaterThanOrEqual(LIMIT - 1);
    expect(taken).toBeLessThanOrEqual(LIMIT);
    expect(remainingOf(others)).toEqual([4, 3, 2, 1, 0, 0, 0]);
    expect(remainingOf(named)).toEqual([4, 3, 2, 1, 0, 0]);
    expect(await check(key, { cost: LIMIT - taken || 1 })).toMatchObject({ allowed: taken < LIMIT });
  });

  test('a thousand calls in one tick, and a thousand in flight', async () => {
    const key = fresh();
    const big = () => checkLimit(key, 700, HOUR, { algorithm });
    expect(remainingOf(await atOnce(1000, big))).toEqual(
      Array.from({ length: 1000 }, (_, index) => Math.max(0, 699 - index)),
    );
    const slow = fresh();
    const calls = [];
    for (let call = 0; call < 1000; call += 1) {
      calls.push(checkLimit(slow, 700, HOUR, { algorithm }));
      if (call % 10 === 9) await new Promise(setImmediate);
    }
    expect(admitted(await Promise.all(calls))).toBe(700);
  });

  test('the server may forget its scripts', async () => {
    const key = fresh();
    await inTurn(3, () => check(key));
    await redis.script('FLUSH');
    expect(remainingOf(await atOnce(3, () => check(key)))).toEqual([1, 0, 0]);
    await redis.script('FLUSH');
    expect(admitted(await atOnce(3, () => check(fresh())))).toBe(3);
  });

  test('two processes share a count, and a new one inherits it', async () => {
    const key = fresh();
    const workers = await Promise.all([spawnWorker(), spawnWorker()]);
    const call = (worker) => worker.call('checkLimit', key, 60, HOUR, { algorithm });
    const answers = await Promise.all(workers.flatMap((worker) => Array.from({ length: 50 }, () => call(worker))));
    expect(admitted(answers)).toBe(60);
    expect(await checkLimit(key, 60, HOUR, { algorithm })).toMatchObject({ allowed: false, info: { remaining: 0 } });
    await Promise.all(workers.map((worker) => worker.kill()));
    const heir = await spawnWorker();
    expect(await call(heir)).toMatchObject({ allowed: false, info: { remaining: 0 } });
    await heir.call('shutdown');
    await heir.release();
  });

  test.each([0.05, 0.25, 0.5])(
    'a window of %p s: what it denies it allows later, and not too early',
    async (window) => {
      const key = fresh();
      const short = () => checkLimit(key, 2, window, { algorithm });
      // If the machine sleeps between them, time has passed in which more is allowed; then it is tried again.
      let begun;
      const denied = await until(
        async () => {
          begun = performance.now();
          const answers = await atOnce(3, short);
          if (admitted(answers) === 2) return answers[2];
          return sleep(window * 1000).then(() => null);
        },
        { what: 'a denial' },
      );
      expect(denied.info).toMatchObject({ limit: 2, retryAfter: 1 });
      await until(async () => (await short()).allowed, { everyMs: 5, what: 'the next window' });
      // The server's clock and this one may differ by a little in their pace, not by more.
      expect(performance.now() - begun).toBeGreaterThanOrEqual((isBucket ? window / 2 : window) * 1000 - 1);
    },
  );

  test('no more than the rate, however often it is asked', async () => {
    const key = fresh();
    const [limit, window] = [4, 0.4];
    const times = [];
    const begun = performance.now();
    while (performance.now() - begun < 1500) {
      const asked = performance.now();
      const { allowed } = await checkLimit(key, limit, window, { algorithm });
      if (allowed) times.push({ asked, answered: performance.now() });
      else await sleep(2);
    }
    expect(times.length).toBeGreaterThan(limit);
    // Of any two of them it is known how far apart they were at most.
    times.forEach(({ asked }, index) => {
      times.slice(index).forEach(({ answered }, more) => {
        const apart = (answered - asked + 1) / 1000;
        const most = {
          'sliding-window': limit * (Math.floor(apart / window) + 1),
          'token-bucket': limit + Math.floor((apart * limit) / window),
          'fixed-window': limit * (Math.floor(apart / window) + 2),
        };
        expect(more + 1).toBeLessThanOrEqual(most[algorithm]);
      });
    });
  });

  test('the longest window and the highest limit', async () => {
    const most = algorithm === 'sliding-window' ? 100_000 : 1_000_000_000;
    const [window, key] = [31 * 24 * 3600, fresh()];
    const since = Date.now() / 1000;
    const ask = (cost) => checkLimit(key, most, window, { algorithm, cost });
    expect(await ask(1)).toMatchObject({ allowed: true, info: { limit: most, remaining: most - 1 } });
    // A bucket of so many gets one back each few milliseconds.
    const { allowed, info } = await ask(most - 1);
    expect(allowed).toBe(true);
    expectWithin(info.remaining, 0, isBucket ? Math.ceil(((Date.now() / 1000 - since) * most) / window) : 0);
    await expectTimes(since, () => ask(most), { resetIn: window, waitFor: window });
  });
});

test('a limit of one', async () => {
  for (const algorithm of ALGORITHMS) {
    const key = fresh();
    expect(await checkLimit(key, 1, HOUR, { algorithm })).toMatchObject({ allowed: true, info: { remaining: 0 } });
    expect(await checkLimit(key, 1, HOUR, { algorithm })).toMatchObject({
      allowed: false,
      info: { retryAfter: expect.any(Number) },
    });
  }
});

test('the shortest window allows again and again', async () => {
  for (const algorithm of ALGORITHMS) {
    const key = fresh();
    const ask = async () => (await checkLimit(key, 1, 0.001, { algorithm })).allowed;
    for (let round = 0; round < 3; round += 1) {
      await sleep(2);
      await until(ask, { everyMs: 2, what: 'a window of a millisecond to pass' });
    }
  }
});

test('answers that several callers got are frozen', async () => {
  const owners = new Map();
  const key = fresh();
  const answers = [
    ...(await atOnce(20, () => checkLimit(key, 5, HOUR))),
    ...(await inTurn(20, () => checkLimit(key, 5, HOUR))),
  ];
  for (const answer of answers) for (const one of [answer, answer.info]) owners.set(one, (owners.get(one) ?? 0) + 1);
  for (const [one, count] of owners) if (count > 1) expect(Object.isFrozen(one)).toBe(true);
});
