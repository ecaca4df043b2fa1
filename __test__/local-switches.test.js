'use strict';

// The switches and the bounds of the tier in the process.

const { Database } = require('./helpers/database.js');
const { addon, here, keyOf, ask, from, ready, validate, local, untilLocal, metrics, grown } = require('./fixtures/sessions/steps.js');
const { until } = require('./helpers/servers.js');
const { spawnWorker } = require('./helpers/process.js');
const { openRedis, untilCopied } = require('./fixtures/functional/redis.js');
const { withEnvironment, rejection } = require('./fixtures/functional/environment.js');

const { configureSessionCache: configure } = addon;

let database;
let redis;

beforeAll(async () => {
  process.env.REDIS_KEY_PREFIX = 'local-switches:';
  database = new Database();
  redis = openRedis();
  await ready(here, database);
});

afterEach(() => configure({ enabled: true, ttlSeconds: 300, localEnabled: true }));

afterAll(() => database.end());

const rename = ({ userId }, name = 'Grace') =>
  database.query('UPDATE platform.users SET first_name = $2 WHERE id = $1', [userId, name]);

describe('the environment', () => {
  test.each([
    ['SESSION_CACHE_LOCAL_ENABLED', 'maybe'],
    ['SESSION_CACHE_LOCAL_ENABLED', '2'],
    ['SESSION_CACHE_LOCAL_ENTRIES', '-1'],
    ['SESSION_CACHE_LOCAL_ENTRIES', '1.5'],
    ['SESSION_CACHE_LOCAL_ENTRIES', '1e5'],
    ['SESSION_CACHE_LOCAL_ENTRIES', 'many'],
    ['SESSION_CACHE_LOCAL_ENTRIES', '99999999999999999999'],
    ['SESSION_ACTIVITY_FLUSH_SECONDS', '-1'],
    ['SESSION_ACTIVITY_FLUSH_SECONDS', '0.5'],
    ['SESSION_ACTIVITY_FLUSH_SECONDS', 'often'],
  ])('%s=%s is refused by name', async (name, value) => {
    await withEnvironment({ [name]: value }, async () => {
      const error = await rejection(() => addon.validateSessionWithCache('token'));
      expect(error).toMatchObject({ code: 'ERR_INVALID_CONFIG', message: expect.stringContaining(name) });
    });
  });

  test.each(['false', '0'])('SESSION_CACHE_LOCAL_ENABLED=%s: Redis answers, until it is switched on', async (value) => {
    const session = await database.createSession();
    await withEnvironment({ SESSION_CACHE_LOCAL_ENABLED: value }, async () => {
      await ready(here, database);
      await validate(here, session);
      await untilCopied(redis, session);
      await addon.sessionCacheHealthCheck();
      for (let call = 0; call < 3; call += 1) expect(await from(here, session)).toBe('redis');
      expect((await metrics(here)).localEntries).toBe(0);
      configure({ localEnabled: true });
      await untilLocal(here, session);
    });
  });
});

describe('localEnabled', () => {
  test('off, the tier is empty and Redis answers; on again, it is filled anew', async () => {
    const session = await local(here, database);
    configure({ localEnabled: false });
    expect((await metrics(here)).localEntries).toBe(0);
    for (let call = 0; call < 3; call += 1) expect(await from(here, session)).toBe('redis');
    expect((await metrics(here)).localEntries).toBe(0);
    configure({ localEnabled: true });
    expect(await from(here, session)).toBe('redis');
    expect(await from(here, session)).toBe('local');
  });

  test('what happened while it was off is known when it is on again', async () => {
    const [ended, changed] = [await local(here, database), await local(here, database)];
    configure({ localEnabled: false });
    expect(await addon.revokeSessionByToken(ended.token)).toBe(true);
    await rename(changed);
    await addon.invalidateUserSessions(changed.userId);
    configure({ localEnabled: true });
    expect(await validate(here, ended)).toBe(null);
    expect(await validate(here, changed)).toMatchObject({ firstName: 'Grace' });
  });

  test('the switch leaves the others as they are', async () => {
    configure({ ttlSeconds: 7 });
    configure({ localEnabled: false });
    expect(await metrics(here)).toMatchObject({ ttl: 7, enabled: true });
  });
});

describe('enabled', () => {
  test('off, Postgres answers, and nothing is left in Redis', async () => {
    const [session, unread] = [await local(here, database), await database.createSession()];
    await rename(session);
    configure({ enabled: false });
    expect(await ask(here, session)).toEqual({ from: 'postgres', session: expect.objectContaining({ firstName: 'Grace' }) });
    for (let call = 0; call < 3; call += 1) expect(await from(here, unread)).toBe('postgres');
    expect(await redis.exists(keyOf(unread))).toBe(0);
    expect((await metrics(here)).enabled).toBe(false);
  });

  test('off, a session that ended elsewhere has ended at once', async () => {
    const session = await local(here, database);
    configure({ enabled: false });
    await database.query('DELETE FROM platform.user_sessions WHERE id = $1', [session.id]);
    expect(await validate(here, session)).toBe(null);
  });

  test('on again, copies from before are not used: neither those of the process nor those of Redis', async () => {
    const [held, copied] = [await local(here, database), await database.createSession()];
    await validate(here, copied);
    await untilCopied(redis, copied);
    await rename(held);
    await rename(copied);
    configure({ enabled: false });
    configure({ enabled: true });
    for (const session of [held, copied]) {
      const answer = await ask(here, session);
      expect(answer).toEqual({ from: 'postgres', session: expect.objectContaining({ firstName: 'Grace' }) });
    }
    for (const session of [held, copied]) {
      await untilLocal(here, session);
      expect(await validate(here, session)).toMatchObject({ firstName: 'Grace' });
    }
  });

  test('another process is not concerned', async () => {
    const other = await ready(await spawnWorker(), database);
    const session = await local(other, database);
    configure({ enabled: false });
    await validate(here, session);
    expect(await from(other, session)).toBe('local');
    configure({ enabled: true });
    await validate(here, session);
    await untilLocal(other, session);
  });

  test.each([
    ['revokeSessionByToken', ({ token }) => addon.revokeSessionByToken(token), null],
    ['invalidateUserSessions', ({ userId }) => addon.invalidateUserSessions(userId), expect.objectContaining({ firstName: 'Grace' })],
  ])('off, %s still reaches the copies of another process', async (_, forget, answer) => {
    const other = await ready(await spawnWorker(), database);
    const session = await local(other, database);
    configure({ enabled: false });
    await rename(session);
    await forget(session);
    await until(async () => (await validate(other, session))?.firstName !== 'Ada', { what: 'the news', deadlineMs: 5000 });
    expect(await validate(other, session)).toEqual(answer);
  });
});

describe('SESSION_CACHE_LOCAL_ENTRIES', () => {
  test('100: a thousand sessions find their way, a hundred at most are held', async () => {
    await withEnvironment({ SESSION_CACHE_LOCAL_ENTRIES: '100' }, async () => {
      await ready(here, database);
      const sessions = await database.createSessions(1000);
      const ids = sessions.map(({ id }) => id);
      const read = () => Promise.all(sessions.map((session) => validate(here, session)));
      await read();
      await Promise.all(sessions.map((session) => untilCopied(redis, session)));
      await addon.sessionCacheHealthCheck();
      let most = 0;
      for (let round = 0; round < 5; round += 1) {
        expect((await read()).map((session) => session?.id)).toEqual(ids);
        most = Math.max(most, (await metrics(here)).localEntries);
      }
      expect(most).toBeGreaterThan(0);
      expect(most).toBeLessThanOrEqual(100);
    });
  });

  test('what is asked for all the time stays, whoever passes by', async () => {
    await withEnvironment({ SESSION_CACHE_LOCAL_ENTRIES: '100' }, async () => {
      const regulars = await database.createSessions(10);
      await untilLocal(here, ...regulars);
      const passers = await database.createSessions(500);
      const counts = await grown(here, async () => {
        for (const passer of passers) {
          await validate(here, passer);
          for (const regular of regulars) await validate(here, regular);
        }
      });
      expect(counts.localHits).toBeGreaterThan(4000);
    });
  });
});
