'use strict';

// Redis is not there, or refuses: the process decides, as it is told, and nothing rejects.

const { startRedis, freePort, until } = require('./helpers/servers.js');
const { spawnWorker } = require('./helpers/process.js');
const { withEnvironment } = require('./fixtures/functional/environment.js');
const { addon, ALGORITHMS, HOUR, fresh, freshName, inTurn, atOnce, admitted } = require('./fixtures/limits/steps.js');
const { pretend } = require('./fixtures/limits/http.js');

const {
  checkLimit,
  createRateLimiter,
  getRateLimitStore,
  getRateLimitMetrics,
  RedisRateLimitStore,
  RedisTokenBucketStore,
} = addon;
const SHARE = 'RATE_LIMIT_INSTANCE_SHARE';

beforeAll(() => {
  process.env.REDIS_KEY_PREFIX = 'limits-away:';
  // Warnings of servers that are not there are meant to be.
  addon.setLogHandler(() => {});
});

describe('a Redis that is not there', () => {
  const away = async (variables, work) =>
    withEnvironment({ REDIS_URL: `redis://127.0.0.1:${await freePort()}`, ...variables }, work);

  describe.each(ALGORITHMS)('%s', (algorithm) => {
    const taken = async (limit, options, calls) => {
      const key = fresh();
      return inTurn(calls, () => checkLimit(key, limit, HOUR, { algorithm, ...options }));
    };

    test('the process decides', () =>
      away({}, async () => {
        for (const options of [{}, { onOutage: 'local' }]) {
          const answers = await taken(5, options, 8);
          expect(admitted(answers)).toBe(5);
          expect(answers[7].info.retryAfter).toBeGreaterThanOrEqual(1);
        }
      }));

    test('or allows, or denies, as it is told', () =>
      away({}, async () => {
        expect(admitted(await taken(5, { onOutage: 'allow' }, 12))).toBe(12);
        const denied = await taken(5, { onOutage: 'deny' }, 12);
        expect(admitted(denied)).toBe(0);
        for (const { info } of denied) {
          expect(Number.isInteger(info.retryAfter) && info.retryAfter >= 1).toBe(true);
          expect(info).toMatchObject({ limit: 5, remaining: expect.any(Number), reset: expect.any(Number) });
        }
      }));

    test.each([
      ['0.5', 100, 50],
      ['0.01', 100, 1],
      ['1', 100, 100],
      ['0.1', 20, 2],
    ])('a share of %s of %p is %p', (share, limit, expected) =>
      away({ [SHARE]: share }, async () => {
        const key = fresh();
        expect(admitted(await atOnce(limit + 20, () => checkLimit(key, limit, HOUR, { algorithm })))).toBe(expected);
      }),
    );

    test('a share of little is one, so that nobody is shut out', () =>
      away({ [SHARE]: '0.01' }, async () => {
        expect(admitted(await taken(1, {}, 3))).toBe(1);
        expect(admitted(await taken(5, {}, 8))).toBe(1);
      }));
  });

  test.each([
    ['RedisRateLimitStore', RedisRateLimitStore],
    ['RedisTokenBucketStore', RedisTokenBucketStore],
  ])('%s has all its methods', (_, Class) =>
    away({}, async () => {
      const store = new Class({ name: freshName() });
      const key = fresh();
      expect(await store.get(key)).toBe(null);
      expect(admitted(await inTurn(5, () => store.checkLimit(key, 3, HOUR)))).toBe(3);
      expect(await store.peek(key, 3, HOUR)).toMatchObject({ allowed: false, info: { remaining: 0 } });
      expect(await store.get(key)).toMatchObject({ limit: 3, remaining: 0 });
      await store.refund(key, 3, HOUR);
      expect(await store.peek(key, 3, HOUR)).toMatchObject({ allowed: true, info: { remaining: 1 } });
      await store.clear(key);
      expect(await store.get(key)).toBe(null);
      expect(await store.checkLimit(key, 3, HOUR)).toMatchObject({ allowed: true, info: { remaining: 2 } });
      await store.clear();
      expect(await store.get(key)).toBe(null);
      await store.checkLimit(key, 3, HOUR);
      await addon.clearRateLimits();
      expect(await store.get(key)).toBe(null);
      for (const onOutage of ['allow', 'deny']) {
        const other = new Class({ name: freshName(), onOutage });
        await inTurn(3, () => other.checkLimit(key, 1, HOUR));
        // Peeking first: neither answer may change the other.
        const peeked = await other.peek(key, 1, HOUR);
        expect(peeked.allowed).toBe((await other.checkLimit(key, 1, HOUR)).allowed);
        expect(peeked.allowed).toBe(onOutage === 'allow');
      }
    }),
  );

  test('what only this process forgets is logged', async () => {
    // A process that has not said it before: it does not say so each time.
    const worker = await spawnWorker(undefined, { REDIS_URL: `redis://127.0.0.1:${await freePort()}` });
    const said = () => worker.stderr.split('\n').filter((line) => line.includes('rate limits'));
    await worker.call('clearRateLimit', 'somebody');
    await until(() => said().length > 0, { what: 'a line in the log' });
    expect(said()[0]).toContain('"level":"WARN"');
    expect(worker.stderr).not.toContain('somebody');
    await worker.call('shutdown');
    await worker.release();
  });

  test('limiters of requests go on', () =>
    away({}, async () => {
      const run = async (config) => {
        const limiter = createRateLimiter({ requests: 2, window: HOUR, name: freshName(), ...config });
        return inTurn(4, async () => {
          const { req, res } = pretend({ address: '192.0.2.1' });
          return limiter(req, res, () => {}).then(
            () => 'ok',
            ({ code }) => code,
          );
        });
      };
      expect(await run({})).toEqual(['ok', 'ok', 'ERR_RATE_LIMITED', 'ERR_RATE_LIMITED']);
      expect(await run({ onOutage: 'allow' })).toEqual(['ok', 'ok', 'ok', 'ok']);
      expect(await run({ onOutage: 'deny' })).toEqual(Array(4).fill('ERR_RATE_LIMITED'));
    }));
});

describe('a Redis that refuses', () => {
  test.each([
    ['scripts', (server) => server.cli('ACL', 'SETUSER', 'default', '-@scripting')],
    ['these keys', (server) => server.cli('ACL', 'SETUSER', 'default', 'resetkeys', '~other:*')],
    ['to write, for want of memory', (server) => server.cli('CONFIG', 'SET', 'maxmemory', '1')],
    ['to write, for want of replicas', (server) => server.cli('CONFIG', 'SET', 'min-replicas-to-write', '1')],
  ])('%s: the process decides', async (_, refuse) => {
    const server = await startRedis();
    await refuse(server);
    await withEnvironment({ REDIS_URL: server.url }, async () => {
      const name = freshName();
      for (const algorithm of ALGORITHMS) {
        const key = fresh();
        const answers = await inTurn(8, () => checkLimit(key, 5, HOUR, { algorithm, name }));
        expect(admitted(answers)).toBe(5);
        expect(admitted(await atOnce(8, () => checkLimit(fresh(), 5, HOUR, { algorithm, name })))).toBe(8);
        expect(admitted(await inTurn(8, () => checkLimit(key, 5, HOUR, { algorithm, name, onOutage: 'allow' })))).toBe(
          8,
        );
      }
      expect(getRateLimitMetrics()[name].answeredInOutage).toBeGreaterThanOrEqual(15);
      expect(await addon.checkRateLimit(fresh())).toBe(false);
    });
  });
});
