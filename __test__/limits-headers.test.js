'use strict';

// The headers that limiters set: by the grammar of structured fields, and with the values of the decision.

const { startRedis } = require('./helpers/servers.js');
const { addon, ALGORITHMS, HOUR, fresh, freshName, expectWithin } = require('./fixtures/limits/steps.js');
const { pretend, freshAddress, run } = require('./fixtures/limits/http.js');
const { parseList } = require('./fixtures/limits/structured.js');

const { createRateLimiter, rateLimitMiddleware, RedisRateLimitStore } = addon;

beforeAll(async () => {
  const server = await startRedis();
  process.env.REDIS_URL = server.url;
  process.env.REDIS_KEY_PREFIX = 'limits-headers:';
});

describe('headers', () => {
  test('the parser can tell', () => {
    expect(parseList('"a b\\"";q=10;w=60;pk=:YWI=:, t;x;y=?0 , -5')).toEqual([
      {
        type: 'string',
        value: 'a b"',
        parameters: {
          q: { type: 'integer', value: 10 },
          w: { type: 'integer', value: 60 },
          pk: { type: 'bytes', value: Buffer.from('ab') },
        },
      },
      {
        type: 'token',
        value: 't',
        parameters: { x: { type: 'boolean', value: true }, y: { type: 'boolean', value: false } },
      },
      { type: 'integer', value: -5, parameters: {} },
    ]);
    for (const wrong of [
      '"a',
      'a,',
      ',a',
      '"a" "b"',
      '"ä"',
      '5.',
      '1.2345',
      '1234567890123456',
      '10/60',
      'a;Q=1',
      'a;q=',
      'a; =1',
      '"a\\n"',
      '?2',
      'a;;q=1',
    ]) {
      expect(() => parseList(wrong)).toThrow(SyntaxError);
    }
  });

  /** Checks all headers of one answer against what was decided. */
  function expectHeaders(headers, { name, window, info }) {
    for (const value of Object.values(headers)) expect(typeof value).toBe('string');
    const { limit, remaining, reset, retryAfter } = info;
    expect(headers).toMatchObject({
      'x-ratelimit-limit': `${limit}`,
      'x-ratelimit-remaining': `${remaining}`,
      'x-ratelimit-reset': `${reset}`,
      'ratelimit-limit': `${limit}`,
      'ratelimit-remaining': `${remaining}`,
      'ratelimit-reset': `${reset}`,
    });
    const [policy, ...noPolicies] = parseList(headers['ratelimit-policy']);
    expect(noPolicies).toEqual([]);
    expect(policy).toStrictEqual({
      type: 'string',
      value: name,
      parameters: { q: { type: 'integer', value: limit }, w: { type: 'integer', value: Math.ceil(window) } },
    });
    const [state, ...noStates] = parseList(headers.ratelimit);
    expect(noStates).toEqual([]);
    expect(state).toStrictEqual({
      type: 'string',
      value: name,
      parameters: { r: { type: 'integer', value: remaining }, t: { type: 'integer', value: expect.any(Number) } },
    });
    const untilReset = reset - Date.now() / 1000;
    if (retryAfter === undefined)
      expectWithin(state.parameters.t.value, Math.max(0, Math.floor(untilReset) - 1), Math.ceil(untilReset) + 1);
    else expectWithin(state.parameters.t.value, retryAfter, Math.max(retryAfter, Math.ceil(untilReset) + 1));
    expect(headers['retry-after']).toBe(retryAfter === undefined ? undefined : `${retryAfter}`);
    expect(Object.keys(headers).sort()).toEqual(
      [
        'ratelimit',
        'ratelimit-limit',
        'ratelimit-policy',
        'ratelimit-remaining',
        'ratelimit-reset',
        'x-ratelimit-limit',
        'x-ratelimit-remaining',
        'x-ratelimit-reset',
        ...(retryAfter === undefined ? [] : ['retry-after']),
      ].sort(),
    );
  }

  test.each([
    [3, HOUR, 'a.b_c/d-9'],
    [3, 60, '__proto__'],
    [2, 1.5, undefined],
    [100_000, 31 * 24 * HOUR, undefined],
  ])('%p in %p s, named %p, allowed: those of the decision', async (requests, window, name) => {
    const limiter = createRateLimiter({ requests, window, ...(name && { name }) });
    const sub = fresh();
    const { headers, error } = await run(limiter, pretend({ user: { sub } }));
    expect(error).toBe(null);
    const shown = name ?? `${requests}/${window}`;
    const info = await new RedisRateLimitStore({ name: shown }).get(`user:${sub}`);
    // The window of a second may be over by now.
    const decided = info ?? { limit: requests, remaining: requests - 1, reset: Number(headers['x-ratelimit-reset']) };
    expectHeaders(headers, { name: shown, window, info: decided });
  });

  test.each(ALGORITHMS)('%s, denied: those of the decision', async (algorithm) => {
    const name = freshName();
    const infos = [];
    const limiter = createRateLimiter({
      requests: 3,
      window: HOUR,
      name,
      algorithm,
      error: (info) => {
        infos.push(info);
        return new Error('denied');
      },
    });
    const made = pretend({ address: freshAddress() });
    for (let request = 0; request < 3; request += 1) expect((await run(limiter, made)).error).toBe(null);
    for (let request = 0; request < 5; request += 1) {
      const { headers, next } = await run(limiter, made);
      expect(next).not.toHaveBeenCalled();
      const info = infos.at(-1);
      expect(infos).toHaveLength(request + 1);
      expect(info).toStrictEqual({ limit: 3, remaining: 0, reset: expect.any(Number), retryAfter: expect.any(Number) });
      expectHeaders(headers, { name, window: HOUR, info });
    }
  });

  test('each custom limit has its own, however many there are', async () => {
    for (let round = 0; round < 2; round += 1) {
      for (let requests = 1; requests <= 40; requests += 1) {
        const custom = { requests, window: HOUR + requests };
        const { headers } = await run(rateLimitMiddleware, pretend({ address: freshAddress() }), custom);
        expectHeaders(headers, {
          name: 'api',
          window: custom.window,
          info: { limit: requests, remaining: requests - 1, reset: Number(headers['x-ratelimit-reset']) },
        });
      }
    }
  });

  test('they are set before next is called, and before it rejects', async () => {
    const limiter = createRateLimiter({ requests: 1, window: HOUR, name: freshName() });
    const { req, res, set } = pretend({ address: freshAddress() });
    const seen = [];
    await limiter(req, res, () => seen.push(set.size));
    set.clear();
    await limiter(req, res, () => {}).catch(() => seen.push(set.size));
    expect(seen).toEqual([8, 9]);
  });

  test('setHeader is called as a method', async () => {
    class Response {
      #headers = new Map();

      setHeader(name, value) {
        this.#headers.set(name, value);
      }

      get size() {
        return this.#headers.size;
      }
    }
    const res = new Response();
    await createRateLimiter({ requests: 1, window: HOUR, name: freshName() })(
      pretend({ address: freshAddress() }).req,
      res,
      () => {},
    );
    expect(res.size).toBe(8);
  });
});
