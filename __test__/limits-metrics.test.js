'use strict';

// Shadow mode, and what is counted by name.

const { startRedis, until } = require('./helpers/servers.js');
const { runScript } = require('./helpers/process.js');
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
} = require('./fixtures/limits/steps.js');

const { checkLimit, getRateLimitMetrics, RedisRateLimitStore, InMemoryRateLimitStore, createRateLimiter } = addon;
const NONE = { allowed: 0, denied: 0, shadowDenied: 0, answeredLocally: 0, answeredInOutage: 0 };

let server;
let redis;

beforeAll(async () => {
  server = await startRedis();
  process.env.REDIS_URL = server.url;
  process.env.REDIS_KEY_PREFIX = 'limits-metrics:';
  redis = openRedis(server.url);
  addon.setLogHandler(() => {});
});

const of = (name) => getRateLimitMetrics()[name];

test('there are none before the first use, and asking needs no server', async () => {
  const { stdout, code } = await runScript(
    "const addon = require('./index.js'); console.log(JSON.stringify(addon.getRateLimitMetrics()));",
    { env: { REDIS_URL: undefined, DATABASE_URL: undefined } },
  );
  expect({ stdout, code }).toEqual({ stdout: '{}\n', code: 0 });
});

describe.each(ALGORITHMS)('%s', (algorithm) => {
  test('each check counts once, under its name', async () => {
    const [name, other] = [freshName(), freshName()];
    const key = fresh();
    expect(of(name)).toBe(undefined);
    await inTurn(3, () => checkLimit(key, 3, HOUR, { algorithm, name }));
    expect(of(name)).toStrictEqual({ ...NONE, allowed: 3 });
    await checkLimit(key, 3, HOUR, { algorithm, name });
    expect(of(name)).toStrictEqual({ ...NONE, allowed: 3, denied: 1 });
    await atOnce(5, () => checkLimit(key, 3, HOUR, { algorithm, name: other }));
    expect(of(other)).toStrictEqual({ ...NONE, allowed: 3, denied: 2 });
    expect(of(name)).toMatchObject({ allowed: 3, denied: 1 });
  });

  test('a call that costs more counts once, too', async () => {
    const name = freshName();
    const key = fresh();
    await checkLimit(key, 5, HOUR, { algorithm, name, cost: 4 });
    await checkLimit(key, 5, HOUR, { algorithm, name, cost: 4 });
    expect(of(name)).toStrictEqual({ ...NONE, allowed: 1, denied: 1 });
  });

  test('what the process denied by itself counts as such', async () => {
    const name = freshName();
    const key = fresh();
    await inTurn(2, () => checkLimit(key, 1, HOUR, { algorithm, name }));
    for (let round = 0; round < 10 && of(name).answeredLocally === 0; round += 1) {
      await inTurn(50, () => checkLimit(key, 1, HOUR, { algorithm, name }));
    }
    const { allowed, denied, answeredLocally, ...others } = of(name);
    expect(allowed).toBe(1);
    expect(denied % 50).toBe(1);
    expect(answeredLocally).toBeGreaterThan(0);
    expect(answeredLocally).toBeLessThan(denied);
    expect(others).toStrictEqual({ shadowDenied: 0, answeredInOutage: 0 });
  });

  test('shadow mode counts, allows, and says what it would have done', async () => {
    const name = freshName();
    const key = fresh();
    const answers = await inTurn(6, () => checkLimit(key, 2, HOUR, { algorithm, name, shadow: true }));
    expect(admitted(answers)).toBe(6);
    expect(remainingOf(answers)).toEqual([1, 0, 0, 0, 0, 0]);
    for (const { info } of answers) expect(info.limit).toBe(2);
    expect(of(name)).toMatchObject({ allowed: 6, denied: 0, shadowDenied: 4 });
    // It counts in the same place: who means it is denied.
    expect(await checkLimit(key, 2, HOUR, { algorithm, name })).toMatchObject({ allowed: false });
    expect(of(name)).toMatchObject({ allowed: 6, denied: 1, shadowDenied: 4 });
    expect(await checkLimit(key, 2, HOUR, { algorithm, name, shadow: true })).toMatchObject({ allowed: true });
    expect(of(name)).toMatchObject({ allowed: 7, denied: 1, shadowDenied: 5 });
  });

  test('shadow and not, in one tick', async () => {
    const name = freshName();
    const key = fresh();
    const answers = await atOnce(8, (index) => checkLimit(key, 2, HOUR, { algorithm, name, shadow: index % 2 === 1 }));
    answers.forEach(({ allowed }, index) => index % 2 === 1 && expect(allowed).toBe(true));
    const meant = answers.filter(({ allowed }, index) => index % 2 === 0 && allowed).length;
    const { allowed, denied, shadowDenied } = of(name);
    expect({ allowed, denied }).toEqual({ allowed: 4 + meant, denied: 4 - meant });
    // Two were within the limit, whoever they were.
    expect(meant + 4 - shadowDenied).toBe(2);
  });
});

test('stores count under their names', async () => {
  const name = freshName();
  const key = fresh();
  await inTurn(3, () => new RedisRateLimitStore({ name }).checkLimit(key, 2, HOUR));
  expect(of(name)).toMatchObject({ allowed: 2, denied: 1 });
  const memory = freshName();
  const store = new InMemoryRateLimitStore({ name: memory });
  await inTurn(5, () => store.checkLimit(key, 2, HOUR));
  expect(of(memory)).toStrictEqual({ ...NONE, allowed: 2, denied: 3 });
  const shadow = freshName();
  for (const one of [
    new RedisRateLimitStore({ name: shadow, shadow: true }),
    new InMemoryRateLimitStore({ name: shadow, shadow: true }),
  ]) {
    expect(admitted(await inTurn(3, () => one.checkLimit(key, 2, HOUR)))).toBe(3);
  }
  expect(of(shadow)).toMatchObject({ allowed: 6, denied: 0, shadowDenied: 2 });
});

test('what counts nothing is not counted', async () => {
  const name = freshName();
  for (const store of [new RedisRateLimitStore({ name }), new InMemoryRateLimitStore({ name })]) {
    const key = fresh();
    await store.checkLimit(key, 1, HOUR);
    await store.peek(key, 1, HOUR);
    await store.get(key);
    await store.refund(key, 1, HOUR);
    await store.clear(key);
    await store.checkLimit('', 1, HOUR).catch(() => {});
  }
  expect(of(name)).toStrictEqual({ ...NONE, allowed: 2 });
});

test('middleware counts under its name', async () => {
  const name = freshName();
  const shadow = freshName();
  const req = { headers: {}, socket: { remoteAddress: '192.0.2.1' } };
  const run = (limiter) => limiter(req, { setHeader: () => {} }, () => {}).catch(({ code }) => code);
  const [strict, watching] = [
    createRateLimiter({ requests: 2, window: HOUR, name }),
    createRateLimiter({ requests: 2, window: HOUR, name: shadow, shadow: true }),
  ];
  expect(await inTurn(3, () => run(strict))).toEqual([undefined, undefined, 'ERR_RATE_LIMITED']);
  expect(of(name)).toMatchObject({ allowed: 2, denied: 1 });
  expect(await inTurn(3, () => run(watching))).toEqual([undefined, undefined, undefined]);
  expect(of(shadow)).toMatchObject({ allowed: 3, denied: 0, shadowDenied: 1 });
  const before = of('api')?.allowed ?? 0;
  await addon.rateLimitMiddleware(req, { setHeader: () => {} }, () => {});
  expect(of('api').allowed).toBe(before + 1);
});

test('the default name is `default`', async () => {
  const before = of('default') ?? NONE;
  await checkLimit(fresh(), 1, HOUR);
  expect(of('default')).toStrictEqual({ ...before, allowed: before.allowed + 1 });
});

test('names that objects have are names like others', async () => {
  for (const name of ['__proto__', 'constructor', 'toString', 'hasOwnProperty']) {
    await inTurn(2, () => checkLimit(fresh(), 1, HOUR, { name }));
    const own = Object.getOwnPropertyDescriptor(getRateLimitMetrics(), name);
    expect(own?.value).toStrictEqual({ ...NONE, allowed: 2 });
  }
  expect(Object.prototype.allowed).toBe(undefined);
});

test('the counts that were given do not change, and changing them changes nothing', async () => {
  const name = freshName();
  await checkLimit(fresh(), 1, HOUR, { name });
  const seen = getRateLimitMetrics();
  await checkLimit(fresh(), 1, HOUR, { name });
  expect(seen[name].allowed).toBe(1);
  seen[name].allowed = 77;
  expect(of(name).allowed).toBe(2);
});

test('without Redis each answer counts as one in an outage', async () => {
  const name = freshName();
  const key = fresh();
  await checkLimit(key, 3, HOUR, { name });
  await server.kill();
  // What is under way when the connection breaks is answered, too.
  expect(admitted(await inTurn(10, () => checkLimit(key, 3, HOUR, { name })))).toBeLessThanOrEqual(3);
  const { allowed, denied, answeredInOutage } = of(name);
  expect(allowed + denied).toBe(11);
  expect(answeredInOutage).toBe(10);
  await server.restart();
  const back = fresh();
  await until(
    async () => {
      const before = of(name).answeredInOutage;
      await checkLimit(back, 1_000, HOUR, { name });
      return of(name).answeredInOutage === before;
    },
    { deadlineMs: 40_000, what: 'an answer of Redis' },
  );
});

test('a thousand names are counted, and more are limited all the same', async () => {
  const { stdout, stderr, code } = await runScript(
    `const addon = require('./index.js');
     (async () => {
       const answers = [];
       for (let number = 0; number < 1500; number += 1) {
         const options = { name: 'name-' + number };
         answers.push((await addon.checkLimit('k', 1, 3600, options)).allowed, (await addon.checkLimit('k', 1, 3600, options)).allowed);
       }
       const metrics = addon.getRateLimitMetrics();
       console.log(JSON.stringify({
         right: answers.every((allowed, index) => allowed === (index % 2 === 0)),
         // What is beyond them is counted under what can be no name.
         names: Object.keys(metrics).filter((name) => /^[\\w./-]+$/.test(name)).length,
         exact: Object.values(metrics).filter(({ allowed, denied }) => allowed === 1 && denied === 1).length,
       }));
       await addon.shutdown();
     })();`,
    { env: { REDIS_URL: undefined, STUDIO_REDIS_LOG: 'off' } },
  );
  expect({ stderr, code }).toEqual({ stderr: '', code: 0 });
  const { right, names, exact } = JSON.parse(stdout);
  expect(right).toBe(true);
  expect(names).toBeLessThanOrEqual(1000);
  expect(exact).toBeGreaterThanOrEqual(999);
});
