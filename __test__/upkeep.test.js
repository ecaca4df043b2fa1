'use strict';

// The sessions of a user, and the two clean-ups.

const { randomUUID } = require('node:crypto');
const { Database } = require('./helpers/database.js');
const { addon, here, ready, validate, local, untilLocal, untilAnswer } = require('./fixtures/sessions/steps.js');
const { startPostgres, until } = require('./helpers/servers.js');
const { spawnWorker } = require('./helpers/process.js');
const { withEnvironment, rejection } = require('./fixtures/functional/environment.js');

let database;
let other;

beforeAll(async () => {
  process.env.REDIS_KEY_PREFIX = 'upkeep:';
  process.env.SESSION_ACTIVITY_FLUSH_SECONDS = '1';
  process.env.DATABASE_URL = (await startPostgres()).url;
  database = new Database();
  await ready(here, database);
  other = await ready(await spawnWorker(), database);
});

beforeEach(() => database.query('TRUNCATE platform.users CASCADE'));

afterAll(() => database.end());

const ago = (days) => new Date(Date.now() - days * 86_400_000);
const NONE = { totalActive: 0, oldestSession: null, newestSession: null, devicesCount: 0 };

describe.each(['getUserSessions', 'getUserSessionStats'])('%s', (name) => {
  test.each([undefined, null, 1, {}, ['x'], true, Symbol('x'), 1n])('%p is refused', async (userId) => {
    const error = await rejection(() => addon[name](userId));
    expect(error).toBeInstanceOf(TypeError);
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringContaining('userId') });
  });

  test.each(['', 'no-uuid', '00000000-0000-4000-8000-00000000000g', ' ', "'; DELETE", 'x'.repeat(5000)])('%p is nobody', async (userId) => {
    expect(await addon[name](userId)).toStrictEqual(name === 'getUserSessions' ? [] : NONE);
  });

  test('a user who is not there, and one without sessions', async () => {
    const { id } = await database.createUser();
    for (const userId of [id, randomUUID()]) {
      expect(await addon[name](userId)).toStrictEqual(name === 'getUserSessions' ? [] : NONE);
    }
  });

  test('without DATABASE_URL', async () => {
    await withEnvironment({ DATABASE_URL: undefined }, async () => {
      expect(await rejection(() => addon[name](randomUUID()))).toMatchObject({ code: 'ERR_NOT_CONFIGURED' });
    });
  });
});

describe('getUserSessions', () => {
  test('the latest active first, with the shape of the contract and nothing of the user', async () => {
    const user = await database.createUser();
    const times = [3, 0.5, 10, 7, 1].map(ago);
    const sessions = [];
    for (const lastActivityAt of times) sessions.push(await database.createSession({ user, lastActivityAt }));
    await database.createSession();
    const found = await addon.getUserSessions(user.id);
    const order = [1, 4, 0, 3, 2];
    expect(found.map(({ id }) => id)).toEqual(order.map((index) => sessions[index].id));
    expect(found[0]).toStrictEqual({
      id: sessions[1].id,
      userId: user.id,
      token: sessions[1].hash,
      expiresAt: sessions[1].expiresAt.toISOString(),
      lastActivityAt: times[1].toISOString(),
      ipAddress: '192.0.2.7',
      userAgent: 'test',
      createdAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/),
    });
    expect(await addon.getUserSessions(user.id.toUpperCase())).toEqual(found);
  });

  test('what is null in the row is absent', async () => {
    const { userId } = await database.createSession({ ipAddress: null, userAgent: null });
    const [session] = await addon.getUserSessions(userId);
    expect(Object.keys(session).sort()).toEqual(['createdAt', 'expiresAt', 'id', 'lastActivityAt', 'token', 'userId']);
  });

  test('expired ones are left out, those that are not cached are not', async () => {
    const user = await database.createUser();
    await database.createSession({ user, expiresInSeconds: -1 });
    const session = await database.createSession({ user });
    expect((await addon.getUserSessions(user.id)).map(({ id }) => id)).toEqual([session.id]);
  });

  test('a revoked one is gone, also while its copy is somewhere', async () => {
    const session = await local(here, database);
    await database.query('DELETE FROM platform.user_sessions WHERE id = $1', [session.id]);
    expect(await addon.getUserSessions(session.userId)).toEqual([]);
  });

  test('500 of them', async () => {
    const user = await database.createUser();
    const sessions = await database.createSessions(500);
    await database.query('UPDATE platform.user_sessions SET user_id = $1', [user.id]);
    const found = await addon.getUserSessions(user.id);
    expect(found.map(({ id }) => id).sort()).toEqual(sessions.map(({ id }) => id).sort());
    expect((await addon.getUserSessionStats(user.id)).totalActive).toBe(500);
  });
});

test('getUserSessionStats counts sessions that have not expired, and their devices', async () => {
  const user = await database.createUser();
  const make = (options) => database.createSession({ user, ...options });
  const sessions = [
    await make({ ipAddress: '192.0.2.1', userAgent: 'A' }),
    await make({ ipAddress: '192.0.2.1', userAgent: 'A' }),
    await make({ ipAddress: '192.0.2.1', userAgent: 'B' }),
    await make({ ipAddress: '192.0.2.2', userAgent: 'A' }),
    await make({ ipAddress: '192.0.2.9', userAgent: 'Z', expiresInSeconds: -1 }),
  ];
  const created = [20, 30, 10, 15, 300].map(ago);
  for (const [index, { id }] of sessions.entries()) {
    await database.query('UPDATE platform.user_sessions SET created_at = $2 WHERE id = $1', [id, created[index]]);
  }
  expect(await addon.getUserSessionStats(user.id)).toStrictEqual({
    totalActive: 4,
    oldestSession: created[1].toISOString(),
    newestSession: created[2].toISOString(),
    devicesCount: 3,
  });
});

describe('cleanupExpiredSessions', () => {
  test('nothing to do', async () => {
    await database.createSession();
    expect(await addon.cleanupExpiredSessions()).toBe(0);
  });

  test('deletes thousands of them, and no other', async () => {
    const [valid, expired] = [await database.createSessions(5), await database.createSessions(2500, { expiresInSeconds: 100 })];
    await database.query("UPDATE platform.user_sessions SET expires_at = now(), created_at = now() - interval '1 day' WHERE id = ANY($1)", [expired.map(({ id }) => id)]);
    expect(await addon.cleanupExpiredSessions()).toBe(2500);
    for (const { id } of valid) expect(await database.sessionExists(id)).toBe(true);
    expect(await addon.cleanupExpiredSessions()).toBe(0);
  });

  test('copies of what it deletes are forgotten, in both processes', async () => {
    const session = await local(here, database);
    await untilLocal(other, session);
    await database.query("UPDATE platform.user_sessions SET expires_at = now() - interval '1 second' WHERE id = $1", [session.id]);
    expect(await validate(here, session)).toMatchObject({ id: session.id });
    expect(await addon.cleanupExpiredSessions()).toBe(1);
    expect(await validate(here, session)).toBe(null);
    await untilAnswer(other, session, null);
  });
});

describe('cleanupInactiveSessions', () => {
  test.each([
    ...[0, -1, 1.5, NaN, Infinity, -Infinity, 3651, 1e300].map((days) => [days, RangeError]),
    ...['30', null, {}, [30], true, 30n].map((days) => [days, TypeError]),
  ])('%p days are refused, and nothing is deleted', async (days, type) => {
    await database.createSession({ lastActivityAt: ago(5000) });
    const error = await rejection(() => addon.cleanupInactiveSessions(days));
    expect(error).toBeInstanceOf(type);
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringContaining('days') });
    expect(await addon.cleanupInactiveSessions(3650)).toBe(1);
  });

  test.each([
    [[], 30],
    [[undefined], 30],
    [[30], 30],
    [[1], 1],
    [[365], 365],
  ])('of %j: those that were idle for longer go', async (args, days) => {
    const [kept, gone] = [await database.createSession({ lastActivityAt: ago(days - 0.1) }), await database.createSession({ lastActivityAt: ago(days + 0.1) })];
    expect(await addon.cleanupInactiveSessions(...args)).toBe(1);
    expect([await database.sessionExists(kept.id), await database.sessionExists(gone.id)]).toEqual([true, false]);
  });

  test('deletes thousands of them', async () => {
    await database.createSessions(2500);
    await database.query('UPDATE platform.user_sessions SET last_activity_at = $1', [ago(31)]);
    const kept = await database.createSession();
    expect(await addon.cleanupInactiveSessions()).toBe(2500);
    expect(await database.sessionExists(kept.id)).toBe(true);
  });

  test('a session that was used a moment ago is not idle, though nothing was written yet', async () => {
    await withEnvironment({ SESSION_ACTIVITY_FLUSH_SECONDS: '300' }, async () => {
      const session = await database.createSession({ lastActivityAt: ago(40) });
      expect(await validate(here, session)).toMatchObject({ id: session.id });
      expect(await addon.cleanupInactiveSessions()).toBe(0);
      expect(await validate(here, session)).toMatchObject({ id: session.id });
    });
  });

  test('copies of what it deletes are forgotten, in both processes', async () => {
    const session = await local(here, database, { lastActivityAt: ago(40) });
    await untilLocal(other, session);
    // What both know of its activity is written by and by, and set back until that is over.
    const setBack = () => database.query('UPDATE platform.user_sessions SET last_activity_at = $1', [ago(40)]);
    await until(
      async () => {
        await setBack();
        return (await addon.cleanupInactiveSessions()) === 1;
      },
      { what: 'a clean-up that no activity of the other process overtakes' },
    );
    expect(await validate(here, session)).toBe(null);
    await untilAnswer(other, session, null);
  });
});
