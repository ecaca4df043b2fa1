'use strict';

// Limiters of requests: what they count by, what they set, what they reject with, and when they go on.

const { startRedis } = require('./helpers/servers.js');
const { openRedis } = require('./fixtures/functional/redis.js');
const { rejection } = require('./fixtures/functional/environment.js');
const {
  addon,
  ALGORITHMS,
  HOUR,
  fresh,
  freshName,
  inTurn,
  atOnce,
  keysThatBegin,
  expectWithin,
} = require('./fixtures/limits/steps.js');
const { pretend, freshAddress, run, allowedBy } = require('./fixtures/limits/http.js');
const { parseList } = require('./fixtures/limits/structured.js');

const {
  createRateLimiter,
  rateLimitMiddleware,
  strictRateLimiter,
  generousRateLimiter,
  RATE_LIMITS,
  RedisRateLimitStore,
} = addon;
const PREFIX = 'limits-middleware:';

let redis;
beforeAll(async () => {
  const server = await startRedis();
  process.env.REDIS_URL = server.url;
  process.env.REDIS_KEY_PREFIX = PREFIX;
  redis = openRedis(server.url);
});

describe('limits', () => {
  test('RATE_LIMITS', () => {
    expect(RATE_LIMITS).toStrictEqual({
      free: { requests: 100, window: 60 },
      pro: { requests: 1000, window: 60 },
      enterprise: { requests: 10000, window: 60 },
    });
    expect(() => {
      RATE_LIMITS.free = RATE_LIMITS.pro;
    }).toThrow(TypeError);
    expect(() => {
      RATE_LIMITS.free.requests = 1e6;
    }).toThrow(TypeError);
  });

  test.each([
    ['free', undefined, 100],
    ['free', null, 100],
    ['free', {}, 100],
    ['free', { user_metadata: null }, 100],
    ['free', { user_metadata: {} }, 100],
    ['free', { user_metadata: { tier: 'free' } }, 100],
    ['pro', { user_metadata: { tier: 'pro' } }, 1000],
    ['enterprise', { user_metadata: { tier: 'enterprise' } }, 10000],
    ['free', { user_metadata: { tier: 'ENTERPRISE' } }, 100],
    ['free', { user_metadata: { tier: 'platinum' } }, 100],
    ['free', { user_metadata: { tier: '__proto__' } }, 100],
    ['free', { user_metadata: { tier: 'constructor' } }, 100],
    ['free', { user_metadata: { tier: '' } }, 100],
    ['free', { user_metadata: { tier: 5 } }, 100],
    ['free', { user_metadata: { tier: ['enterprise'] } }, 100],
    ['free', { user_metadata: { tier: null } }, 100],
  ])('tier %s of %j', async (_, user, limit) => {
    const made = pretend({ address: freshAddress(), user: user && { sub: fresh('user'), ...user } });
    const { headers, error } = await run(rateLimitMiddleware, made);
    expect(error).toBe(null);
    expect(headers).toMatchObject({ 'x-ratelimit-limit': `${limit}`, 'x-ratelimit-remaining': `${limit - 1}` });
  });

  test('the middleware by tier has the name api', async () => {
    const sub = fresh('user');
    await run(rateLimitMiddleware, pretend({ user: { sub } }));
    expect(await redis.exists(`${PREFIX}ratelimit:sliding-window:api:user:${sub}`)).toBe(1);
    expect(await new RedisRateLimitStore({ name: 'api' }).get(`user:${sub}`)).toMatchObject({
      limit: 100,
      remaining: 99,
    });
  });

  test('a custom limit is used instead', async () => {
    const made = pretend({ user: { sub: fresh('user'), user_metadata: { tier: 'enterprise' } } });
    const custom = { requests: 2, window: HOUR };
    const answers = await inTurn(3, () => run(rateLimitMiddleware, made, custom));
    expect(answers.map(allowedBy)).toEqual([true, true, false]);
    expect(answers[2].headers).toMatchObject({ 'x-ratelimit-limit': '2' });
    expect(await run(rateLimitMiddleware, pretend({ user: { sub: fresh('user') } }), undefined)).toMatchObject({
      error: null,
    });
    expect(
      (await run(rateLimitMiddleware, pretend({ user: { sub: fresh('user') } }), RATE_LIMITS.pro)).headers,
    ).toMatchObject({ 'x-ratelimit-limit': '1000' });
  });

  test('strict and generous', async () => {
    const made = pretend({ address: freshAddress() });
    const answers = await inTurn(11, () => run(strictRateLimiter, made));
    expect(answers.map(allowedBy)).toEqual([...Array(10).fill(true), false]);
    expect(answers[10].headers).toMatchObject({ 'x-ratelimit-limit': '10' });
    expect(parseList(answers[0].headers['ratelimit-policy'])[0].parameters).toMatchObject({
      q: { value: 10 },
      w: { value: 60 },
    });
    const { headers, error } = await run(generousRateLimiter, made);
    expect({ headers, error }).toMatchObject({
      error: null,
      headers: { 'x-ratelimit-limit': '10000', 'x-ratelimit-remaining': '9999' },
    });
  });

  test('limiters of the same numbers share a count, others and named ones do not', async () => {
    const made = pretend({ address: freshAddress() });
    const name = freshName();
    const key = `ip:${made.req.socket.remoteAddress}`;
    const limiter = (config) => createRateLimiter({ requests: 3, window: HOUR, ...config });
    for (const one of [limiter(), limiter({}), limiter({ name: '3/3600' })])
      expect(allowedBy(await run(one, made))).toBe(true);
    expect(allowedBy(await run(limiter(), made))).toBe(false);
    expect(await redis.exists(`${PREFIX}ratelimit:sliding-window:3/3600:${key}`)).toBe(1);
    expect((await run(limiter({ name }), made)).headers).toMatchObject({ 'x-ratelimit-remaining': '2' });
    expect((await run(limiter({ requests: 4 }), made)).headers).toMatchObject({ 'x-ratelimit-remaining': '3' });
    expect((await run(limiter({ algorithm: 'token-bucket' }), made)).headers).toMatchObject({
      'x-ratelimit-remaining': '2',
    });
    await run(limiter({ requests: 5, window: 0.5 }), made);
    expect((await keysThatBegin(redis, `${PREFIX}ratelimit:`)).some((one) => one.includes(':5/0.5:'))).toBe(true);
  });

  test('each user and each address has a count', async () => {
    const limiter = createRateLimiter({ requests: 1, window: HOUR, name: freshName() });
    const [sub, id, address] = [fresh(), fresh(), freshAddress()];
    const makes = [
      { user: { sub }, address },
      { user: { sub: id }, address },
      { address },
      { address: freshAddress() },
    ];
    for (const make of makes) expect(allowedBy(await run(limiter, pretend(make)))).toBe(true);
    for (const make of makes) expect(allowedBy(await run(limiter, pretend(make)))).toBe(false);
    // `sub` comes first; a user is no address.
    expect(allowedBy(await run(limiter, pretend({ user: { id: sub, sub: fresh() }, address })))).toBe(true);
    expect(allowedBy(await run(limiter, pretend({ user: { id: sub }, address })))).toBe(false);
    expect(allowedBy(await run(limiter, pretend({ user: { sub: undefined, id }, address: freshAddress() })))).toBe(
      false,
    );
    expect(allowedBy(await run(limiter, pretend({ user: { sub: null, id }, address: freshAddress() })))).toBe(false);
    expect(allowedBy(await run(limiter, pretend({ user: { sub: address } })))).toBe(true);
  });

  test('who has neither is counted together, and not refused for it', async () => {
    const limiter = createRateLimiter({ requests: 3, window: HOUR, name: freshName() });
    const makes = [
      pretend(),
      { ...pretend(), req: { headers: {}, socket: null } },
      { ...pretend(), req: { headers: {}, socket: {}, user: null } },
      pretend({ user: {} }),
    ];
    const answers = [];
    for (const made of makes) answers.push(allowedBy(await run(limiter, made)));
    expect(answers).toEqual([true, true, true, false]);
  });

  test('a very long user is counted like any other', async () => {
    const limiter = createRateLimiter({ requests: 1, window: HOUR, name: freshName() });
    const sub = fresh().padEnd(50_000, 'x');
    expect(allowedBy(await run(limiter, pretend({ user: { sub } })))).toBe(true);
    expect(allowedBy(await run(limiter, pretend({ user: { sub } })))).toBe(false);
    expect(allowedBy(await run(limiter, pretend({ user: { sub: `${sub}y` } })))).toBe(true);
  });

  test.each(ALGORITHMS)('requests of one tick with %s', async (algorithm) => {
    const limiter = createRateLimiter({ requests: 5, window: HOUR, algorithm, name: freshName() });
    const address = freshAddress();
    const answers = await atOnce(12, () => run(limiter, pretend({ address })));
    expect(answers.filter(allowedBy)).toHaveLength(5);
    expect(answers.map(({ headers }) => headers['x-ratelimit-remaining'])).toEqual([
      '4',
      '3',
      '2',
      '1',
      '0',
      '0',
      '0',
      '0',
      '0',
      '0',
      '0',
      '0',
    ]);
  });
});

describe('what a denied request rejects with', () => {
  const deniedBy = async (config) => {
    const limiter = createRateLimiter({ requests: 1, window: HOUR, name: freshName(), ...config });
    const made = pretend({ address: freshAddress() });
    await run(limiter, made);
    return run(limiter, made);
  };

  test('by default', async () => {
    const { error, headers } = await deniedBy();
    expect(error).toBeInstanceOf(Error);
    expect(error).toMatchObject({
      code: 'ERR_RATE_LIMITED',
      statusCode: 429,
      message: expect.stringMatching(/^[A-Z].*\d.*\.$/),
    });
    expect(error.retryAfter).toBe(Number(headers['retry-after']));
    expectWithin(error.retryAfter, HOUR - 60, HOUR);
    expect({ ...error }).toMatchObject({ statusCode: 429 });
  });

  test("Studio's own class", async () => {
    class TooManyRequests extends Error {
      constructor(info) {
        super('Slow down');
        Object.assign(this, { statusCode: 429, info });
      }
    }
    const made = [];
    const error = jest.fn((info) => made[made.push(new TooManyRequests(info)) - 1]);
    const outcome = await deniedBy({ error });
    expect(outcome.error).toBe(made[0]);
    expect(outcome.error).toBeInstanceOf(TooManyRequests);
    expect(outcome.error.info).toStrictEqual({
      limit: 1,
      remaining: 0,
      reset: expect.any(Number),
      retryAfter: Number(outcome.headers['retry-after']),
    });
    expect(error).toHaveBeenCalledTimes(1);
    expect(error.mock.calls[0]).toHaveLength(1);
  });

  test('what `error` throws', async () => {
    const mine = new TypeError('mine');
    const outcome = await deniedBy({
      error: () => {
        throw mine;
      },
    });
    expect(outcome.error).toBe(mine);
    expect(outcome.next).not.toHaveBeenCalled();
  });

  test('`error` is not called for what is allowed', async () => {
    const error = jest.fn();
    await run(createRateLimiter({ requests: 1, window: HOUR, name: freshName(), error }));
    expect(error).not.toHaveBeenCalled();
  });

  test('nothing in shadow mode', async () => {
    const error = jest.fn();
    const { error: none, next, headers } = await deniedBy({ shadow: true, error });
    expect(none).toBe(null);
    expect(next).toHaveBeenCalledTimes(1);
    expect(error).not.toHaveBeenCalled();
    expect(headers).not.toHaveProperty('retry-after');
  });
});

describe('next', () => {
  const limiter = createRateLimiter({ requests: 1000, window: HOUR, name: 'next' });
  const call = (next) => {
    const { req, res } = pretend({ address: '198.51.100.99' });
    return limiter(req, res, next);
  };

  test('is called once, without arguments, and its answer is kept back', async () => {
    for (const answer of [undefined, 5, Promise.resolve(5), null]) {
      const next = jest.fn(() => answer);
      expect(await call(next)).toBe(undefined);
      expect(next.mock.calls).toEqual([[]]);
    }
  });

  test('is waited for', async () => {
    let finish;
    let settled = false;
    const called = new Promise((resolve) => {
      const limited = call(() => {
        resolve();
        return new Promise((end) => (finish = end));
      });
      limited.then(() => (settled = true));
    });
    await called;
    for (let turn = 0; turn < 20; turn += 1) await new Promise(setImmediate);
    expect(settled).toBe(false);
    finish();
    for (let turn = 0; turn < 20 && !settled; turn += 1) await new Promise(setImmediate);
    expect(settled).toBe(true);
  });

  test('may be any thenable', async () => {
    const then = jest.fn((resolve) => setTimeout(resolve, 5));
    expect(await call(() => ({ then }))).toBe(undefined);
    expect(then).toHaveBeenCalledTimes(1);
  });

  test('its rejection, and what it throws, is passed on as it is', async () => {
    for (const reason of [new Error('mine'), 'a text', undefined, null]) {
      const caught = [];
      await call(() => Promise.reject(reason)).catch((error) => caught.push(error));
      await call(() => {
        throw reason;
      }).catch((error) => caught.push(error));
      expect(caught).toEqual([reason, reason]);
      expect(caught[0]).toBe(reason);
    }
  });

  test('is not called by a request that is denied, nor later', async () => {
    const next = jest.fn();
    const strict = createRateLimiter({ requests: 1, window: 0.2, name: freshName() });
    const { req, res } = pretend({ address: freshAddress() });
    await strict(req, res, () => {});
    const error = await rejection(() => strict(req, res, next));
    expect(error.retryAfter).toBe(1);
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(next).not.toHaveBeenCalled();
  });
});
