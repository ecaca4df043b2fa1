'use strict';

// What the session cache says of itself, and its switches.

const { randomUUID } = require('node:crypto');
const addon = require('./fixtures/functional/addon.js');
const { Database } = require('./helpers/database.js');
const { until } = require('./helpers/servers.js');
const { openRedis, untilCopied } = require('./fixtures/functional/redis.js');
const { here, ready } = require('./fixtures/sessions/steps.js');

const PREFIX = 'metrics:';
const { validateSessionWithCache: validate, getSessionCacheMetrics: metrics, configureSessionCache: configure } = addon;

let database;
let redis;

beforeAll(() => {
  process.env.REDIS_KEY_PREFIX = PREFIX;
  database = new Database();
  redis = openRedis();
});

afterEach(() => configure({ enabled: true, ttlSeconds: 300, localEnabled: true }));

afterAll(() => database.end());

const keyOf = (session) => `${PREFIX}session:${session.hash}`;

async function cached(options) {
  const session = await database.createSession(options);
  expect(await validate(session.token)).toMatchObject({ id: session.id });
  await untilCopied(redis, session);
  // This process knows it, too: a read that is still leaving a copy would be joined.
  expect(await addon.sessionCacheHealthCheck()).toBe(true);
  return session;
}

const FRESH = {
  enabled: true, hits: 0, misses: 0, refused: 0, errors: 0, invalidations: 0, total: 0,
  hitRate: 0, ttl: 300, localHits: 0, redisHits: 0, databaseReads: 0, coalesced: 0,
  notBelieved: { otherLife: 0, ended: 0, otherVersion: 0, olderThanNews: 0, unsealed: 0, unreadable: 0, overtaken: 0 },
};

/** All counts but those that writes of copies move. */
function counts() {
  const { localEntries, invalidationsBy, ...others } = metrics();
  return others;
}

test('all counts begin at zero, without a call before', () => {
  expect(metrics()).toStrictEqual({ ...FRESH, localEntries: 0, invalidationsBy: { calls: 0, redis: 0, postgres: 0 } });
});

test('each validation is counted once, and only wrong arguments are not', async () => {
  await ready(here, database);
  addon.resetSessionCacheMetrics();
  for (const wrong of [undefined, 1, null]) await expect(validate(wrong)).rejects.toThrow();
  expect(counts()).toStrictEqual(FRESH);

  const sessions = await Promise.all(Array.from({ length: 5 }, () => cached()));
  expect(counts()).toStrictEqual({ ...FRESH, misses: 5, total: 5, databaseReads: 5 });
  for (const { token } of sessions) await validate(token);
  await validate('');
  await validate('x'.repeat(5000));
  await validate(randomUUID());
  expect(counts()).toStrictEqual({ ...FRESH, hits: 5, redisHits: 5, misses: 6, refused: 2, total: 13, databaseReads: 6, hitRate: 45.45 });
});

test('the sums hold after a mixed workload', async () => {
  addon.resetSessionCacheMetrics();
  const sessions = await Promise.all(Array.from({ length: 20 }, () => cached()));
  const calls = [];
  for (let i = 0; i < 600; i += 1) {
    calls.push(validate(i % 7 === 0 ? '' : i % 5 === 0 ? `unknown ${i % 3}` : sessions[i % 20].token));
    if (i % 50 === 0) calls.push(addon.invalidateSessionCache(sessions[i % 20].token));
    if (i % 100 === 0) calls.push(addon.revokeSessionByToken(sessions[i / 100].token));
    if (i % 90 === 0) await new Promise(setImmediate);
  }
  await Promise.all(calls);
  const all = metrics();
  expect(all.total).toBe(620);
  expect(all.hits + all.misses + all.refused).toBe(all.total);
  expect(all.hits).toBe(all.localHits + all.redisHits);
  // Empty tokens, and unknown ones from their second time on.
  expect(all.refused).toBeGreaterThanOrEqual(86);
  expect(all.misses).toBeLessThanOrEqual(all.databaseReads + all.coalesced);
  expect(all.hits).toBeGreaterThan(0);
  expect(all.hitRate).toBe(Math.round((all.hits / (all.hits + all.misses)) * 10_000) / 100);
  expect(all.invalidations).toBeGreaterThanOrEqual(18);
  expect(all.errors).toBe(0);
});

test('the rate has two decimals', async () => {
  const session = await cached();
  addon.resetSessionCacheMetrics();
  await validate(session.token);
  expect(metrics().hitRate).toBe(100);
  await validate(session.token);
  await validate(randomUUID());
  expect(metrics().hitRate).toBe(66.67);
});

test('reset sets counts to zero and leaves settings and copies', async () => {
  const session = await cached();
  configure({ ttlSeconds: 60 });
  expect(addon.resetSessionCacheMetrics()).toBe(undefined);
  expect(counts()).toStrictEqual({ ...FRESH, ttl: 60 });
  await validate(session.token);
  expect(metrics().redisHits).toBe(1);
});

test('what was returned does not change any more', async () => {
  const before = metrics();
  const copy = { ...before };
  await validate(randomUUID());
  expect(before).toStrictEqual(copy);
  expect(metrics()).not.toEqual(before);
});

describe('enabled: false', () => {
  test('nothing is read from Redis and nothing left there', async () => {
    const session = await cached();
    const unread = await database.createSession();
    await database.query("UPDATE platform.users SET first_name = 'Grace' WHERE id = $1", [session.userId]);
    expect(configure({ enabled: false })).toBe(undefined);
    addon.resetSessionCacheMetrics();
    expect(await validate(session.token)).toMatchObject({ firstName: 'Grace' });
    expect(await validate(unread.token)).toMatchObject({ id: unread.id });
    expect(counts()).toStrictEqual({ ...FRESH, enabled: false, misses: 2, total: 2, databaseReads: 2 });
    expect(await redis.exists(keyOf(unread))).toBe(0);
    configure({ enabled: true });
    expect(await validate(session.token)).toMatchObject({ firstName: 'Grace' });
  });

  test.each([
    ['revokeSessionByToken', ({ token }) => addon.revokeSessionByToken(token), null],
    ['revokeSessionWithCache', ({ id }) => addon.revokeSessionWithCache(id), null],
    ['invalidateSessionCache', ({ token }) => addon.invalidateSessionCache(token), 'Ada'],
    ['invalidateUserSessions', ({ userId }) => addon.invalidateUserSessions(userId), 'Ada'],
  ])('%s still removes the copy', async (_, forget, firstName) => {
    const session = await cached();
    configure({ enabled: false });
    await forget(session);
    expect(await redis.exists(keyOf(session))).toBe(0);
    configure({ enabled: true });
    expect((await validate(session.token))?.firstName ?? null).toBe(firstName);
  });
});

describe('ttlSeconds', () => {
  test.each([1, 60, 299, 300])('%i bounds the life of new copies', async (ttlSeconds) => {
    configure({ ttlSeconds });
    expect(metrics().ttl).toBe(ttlSeconds);
    const session = await database.createSession();
    await validate(session.token);
    const end = Number(await untilCopied(redis, session).then(() => redis.hget(keyOf(session), 'end')));
    const [seconds, micros] = (await redis.time()).map(Number);
    expect(end - (seconds * 1e6 + micros)).toBeLessThanOrEqual(ttlSeconds * 1e6);
    expect(await redis.pttl(keyOf(session))).toBeLessThanOrEqual(ttlSeconds * 1000 + 1);
  });

  test('a copy whose life is over is asked for anew', async () => {
    configure({ ttlSeconds: 1 });
    const session = await cached();
    await database.query("UPDATE platform.users SET first_name = 'Grace' WHERE id = $1", [session.userId]);
    await until(async () => (await validate(session.token)).firstName === 'Grace', { deadlineMs: 5000, what: 'a second read' });
  });

  test('what is left out stays as it is', () => {
    configure({ ttlSeconds: 7 });
    configure({ enabled: false });
    configure({ localEnabled: false });
    configure({});
    configure({ enabled: undefined, ttlSeconds: undefined });
    expect(metrics()).toMatchObject({ ttl: 7, enabled: false });
  });
});

test('settings of the environment count, and come back after a shutdown', async () => {
  await addon.shutdown();
  Object.assign(process.env, { SESSION_CACHE_ENABLED: 'false', SESSION_CACHE_TTL_SECONDS: '12' });
  try {
    expect(counts()).toStrictEqual({ ...FRESH, enabled: false, ttl: 12 });
    configure({ enabled: true, ttlSeconds: 13 });
    await addon.shutdown();
    expect(counts()).toStrictEqual({ ...FRESH, enabled: false, ttl: 12 });
  } finally {
    delete process.env.SESSION_CACHE_ENABLED;
    delete process.env.SESSION_CACHE_TTL_SECONDS;
    await addon.shutdown();
  }
});
