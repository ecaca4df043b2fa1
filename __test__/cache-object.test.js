'use strict';

// `sessionCache`, by the names that Studio uses; its health, its connection, and its end.

const { Database } = require('./helpers/database.js');
const { addon, here, local, validate, untilLocal, metrics } = require('./fixtures/sessions/steps.js');
const { sessionLink } = require('./fixtures/sessions/servers.js');
const { startRedis, freePort, until } = require('./helpers/servers.js');
const { openRedis } = require('./fixtures/functional/redis.js');
const { withEnvironment } = require('./fixtures/functional/environment.js');

const { sessionCache } = addon;
const NAMES = [
  'validateSession', 'revokeSession', 'revokeAllUserSessions', 'invalidateSession', 'invalidateUserSessions', 'warmSession',
  'getMetrics', 'resetMetrics', 'healthCheck', 'getPoolStats', 'close',
];

let database;
let redis;

beforeAll(() => {
  process.env.REDIS_KEY_PREFIX = 'cache-object:';
  database = new Database();
  redis = openRedis();
  addon.setLogHandler(() => {});
});

afterAll(() => database.end());

test('it has exactly the documented members, and they can not be replaced', () => {
  expect(Object.keys(sessionCache).sort()).toEqual([...NAMES].sort());
  for (const name of NAMES) expect(typeof sessionCache[name]).toBe('function');
  expect(() => {
    sessionCache.validateSession = () => 'anybody';
  }).toThrow(TypeError);
  expect(() => {
    sessionCache.more = 1;
  }).toThrow(TypeError);
});

test.each(['validateSession', 'revokeSession', 'revokeAllUserSessions', 'invalidateSession', 'invalidateUserSessions', 'warmSession'])('%s refuses what is no string', async (name) => {
  for (const wrong of [undefined, null, 1, {}]) {
    await expect(sessionCache[name](wrong)).rejects.toMatchObject({ name: 'TypeError', code: 'ERR_INVALID_ARG' });
  }
});

test('its members work, taken out of it as well', async () => {
  const { validateSession, revokeSession, revokeAllUserSessions, invalidateSession, invalidateUserSessions, warmSession, getMetrics, resetMetrics } = sessionCache;
  const user = await database.createUser();
  const [session, other, third] = [await database.createSession({ user }), await database.createSession({ user }), await database.createSession({ user })];
  resetMetrics();
  expect(getMetrics()).toStrictEqual({ ...addon.getSessionCacheMetrics(), total: 0, hits: 0 });
  expect(await validateSession(session.token)).toMatchObject({ id: session.id });
  expect(await warmSession(session.token)).toBe(true);
  expect(getMetrics()).toMatchObject({ total: 1, misses: 1 });
  await untilLocal(here, session);
  await database.query("UPDATE platform.users SET first_name = 'Grace' WHERE id = $1", [user.id]);
  expect(await invalidateSession(session.token)).toBe(undefined);
  expect(await validateSession(session.token)).toMatchObject({ firstName: 'Grace' });
  expect(await invalidateUserSessions(user.id)).toBe(3);
  expect(await revokeSession(session.id)).toBe(true);
  expect(await validateSession(session.token)).toBe(null);
  expect(await revokeSession(other.id, other.token)).toBe(true);
  expect(await revokeAllUserSessions(user.id)).toBe(1);
  expect(await validateSession(third.token)).toBe(null);
});

test('getMetrics has exactly the documented counts', () => {
  const all = sessionCache.getMetrics();
  expect(Object.keys(all).sort()).toEqual([
    'enabled', 'hits', 'misses', 'refused', 'errors', 'invalidations', 'total', 'hitRate', 'ttl', 'localHits', 'redisHits',
    'databaseReads', 'coalesced', 'localEntries', 'notBelieved', 'invalidationsBy',
  ].sort());
  expect(Object.keys(all.notBelieved).sort()).toEqual(
    ['otherLife', 'ended', 'otherVersion', 'olderThanNews', 'unsealed', 'unreadable', 'overtaken'].sort(),
  );
  expect(Object.keys(all.invalidationsBy).sort()).toEqual(['calls', 'postgres', 'redis']);
  addon.resetSessionCacheMetrics();
  const { enabled, ttl, localEntries, notBelieved, invalidationsBy, ...counts } = addon.getSessionCacheMetrics();
  expect([enabled, ttl, typeof localEntries]).toEqual([true, 300, 'number']);
  for (const count of [...Object.values(counts), ...Object.values(notBelieved), ...Object.values(invalidationsBy)]) expect(count).toBe(0);
});

test('invalidations are counted by who said so', async () => {
  const [mine, theirs] = [await local(here, database), await local(here, database)];
  addon.resetSessionCacheMetrics();
  await addon.invalidateSessionCache(mine.token);
  expect((await metrics(here)).invalidationsBy.calls).toBe(1);
  await redis.del(`cache-object:session:${theirs.hash}`);
  await until(async () => (await metrics(here)).invalidationsBy.redis > 0, { what: 'what Redis told of' });
  expect(await metrics(here)).toMatchObject({ invalidations: 1, invalidationsBy: { calls: 1 } });
});

describe.each([
  ['sessionCache.healthCheck', () => sessionCache.healthCheck()],
  ['sessionCacheHealthCheck', () => addon.sessionCacheHealthCheck()],
])('%s', (_, healthCheck) => {
  test('is true where the session connection answers', async () => {
    expect(await healthCheck()).toBe(true);
  });

  test('is false without REDIS_URL, and where nobody answers', async () => {
    await withEnvironment({ REDIS_URL: undefined }, async () => expect(await healthCheck()).toBe(false));
    await withEnvironment({ REDIS_URL: `redis://127.0.0.1:${await freePort()}` }, async () => expect(await healthCheck()).toBe(false));
  });

  test('is false while the server stands still, and true again when it goes on', async () => {
    const server = await startRedis();
    await withEnvironment({ REDIS_URL: server.url }, async () => {
      expect(await healthCheck()).toBe(true);
      server.freeze();
      try {
        expect(await healthCheck()).toBe(false);
      } finally {
        server.thaw();
      }
      await until(healthCheck, { what: 'the server', everyMs: 100 });
    });
  });
});

describe.each([
  ['sessionCache.getPoolStats', () => sessionCache.getPoolStats()],
  ['getSessionCachePoolStats', () => addon.getSessionCachePoolStats()],
])('%s', (_, getPoolStats) => {
  test('shows one connection, which has answered everything', async () => {
    await validate(here, await database.createSession());
    await until(() => getPoolStats().pending === 0, { what: 'silence', everyMs: 5 });
    expect(getPoolStats()).toStrictEqual({ size: 1, available: 1, pending: 0 });
  });

  test('is null without REDIS_URL', async () => {
    await withEnvironment({ REDIS_URL: undefined }, () => expect(getPoolStats()).toBe(null));
  });

  test('shows no connection where there is none', async () => {
    await withEnvironment({ REDIS_URL: `redis://127.0.0.1:${await freePort()}` }, async () => {
      await validate(here, await database.createSession());
      expect(getPoolStats()).toMatchObject({ size: 0, available: 0 });
    });
  });
});

test('close() ends the connection; the next call opens it again', async () => {
  const session = await local(here, database);
  expect(await sessionLink(redis, here)).toBeDefined();
  expect(await sessionCache.close()).toBe(undefined);
  await until(async () => (await sessionLink(redis, here)) === undefined, { what: 'the end of the connection' });
  expect(await sessionCache.close()).toBe(undefined);
  expect(await sessionCache.validateSession(session.token)).toMatchObject({ id: session.id });
  expect(await sessionCache.healthCheck()).toBe(true);
  await untilLocal(here, session);
  expect(await addon.getRedisClient().ping()).toBe('PONG');
});
