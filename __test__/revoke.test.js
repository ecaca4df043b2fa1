'use strict';

// Who is no longer logged in; and copies that are forgotten without ending a session.

const { randomUUID } = require('node:crypto');
const addon = require('./fixtures/functional/addon.js');
const { Database } = require('./helpers/database.js');
const { openRedis, untilCopied } = require('./fixtures/functional/redis.js');

const PREFIX = 'revoke:';
const { validateSessionWithCache: validate } = addon;

let database;
let redis;

beforeAll(() => {
  process.env.REDIS_KEY_PREFIX = PREFIX;
  database = new Database();
  redis = openRedis();
});

afterAll(() => database.end());

const keyOf = (session) => `${PREFIX}session:${session.hash}`;

/** A session that has a copy in Redis. */
async function cached(options) {
  const session = await database.createSession(options);
  expect(await validate(session.token)).toMatchObject({ id: session.id });
  await untilCopied(redis, session, { again: () => validate(session.token) });
  return session;
}

/** Neither store knows it, and no validation lets it in. A late reader may have left a lease, which is no copy. */
async function expectEnded(session) {
  expect(await redis.hexists(keyOf(session), 'session')).toBe(0);
  expect(await validate(session.token)).toBe(null);
  expect(await addon.validateSession(session.token)).toBe(null);
  expect(await database.sessionExists(session.id)).toBe(false);
}

async function expectAlive(session) {
  expect(await validate(session.token)).toMatchObject({ id: session.id });
  expect(await database.sessionExists(session.id)).toBe(true);
}

describe('revokeSessionWithCache', () => {
  test.each(['', 'no-uuid', '00000000-0000-4000-8000-00000000000g', '00000000-0000-4000-8000-0000000000000', ' ', '1; DELETE'])('%p is nobody', async (id) => {
    const bystander = await cached();
    expect(await addon.revokeSessionWithCache(id)).toBe(false);
    expect(await addon.revokeSessionWithCache(id, bystander.token)).toBe(false);
    await expectAlive(bystander);
  });

  test('an id that no session has', async () => {
    expect(await addon.revokeSessionWithCache(randomUUID())).toBe(false);
  });

  test.each([['with', (session) => [session.token]], ['without', () => []]])('ends a cached session %s its token, once', async (_, token) => {
    const [session, bystander] = [await cached(), await cached()];
    expect(await addon.revokeSessionWithCache(session.id, ...token(session))).toBe(true);
    await expectEnded(session);
    expect(await addon.revokeSessionWithCache(session.id, ...token(session))).toBe(false);
    await expectAlive(bystander);
  });

  test('the id may be written in capitals', async () => {
    const session = await cached();
    expect(await addon.revokeSessionWithCache(session.id.toUpperCase())).toBe(true);
    await expectEnded(session);
  });

  test('ends the session of the id when the token is of another one, which goes on', async () => {
    const [session, other] = [await cached(), await cached()];
    expect(await addon.revokeSessionWithCache(session.id, other.token)).toBe(true);
    await expectEnded(session);
    await expectAlive(other);
  });

  test('ends a session that nobody has asked for, and one that has expired', async () => {
    const unread = await database.createSession();
    expect(await addon.revokeSessionWithCache(unread.id)).toBe(true);
    await expectEnded(unread);
    const expired = await database.createSession({ expiresInSeconds: -5 });
    expect(await addon.revokeSessionWithCache(expired.id)).toBe(true);
    await expectEnded(expired);
  });

  test('two calls at once: one of them ended it', async () => {
    const session = await cached();
    const answers = await Promise.all([addon.revokeSessionWithCache(session.id), addon.revokeSessionByToken(session.token)]);
    expect(answers.sort()).toEqual([false, true]);
    await expectEnded(session);
  });

  test('validations that are under way leave no copy behind', async () => {
    for (let round = 0; round < 20; round += 1) {
      const session = await database.createSession();
      const reads = Array.from({ length: 20 }, () => validate(session.token));
      expect(await addon.revokeSessionWithCache(session.id)).toBe(true);
      await Promise.all(reads);
      await expectEnded(session);
    }
  });
});

describe('revokeSessionByToken', () => {
  test('an unknown token, and a hash in its place', async () => {
    const session = await cached();
    expect(await addon.revokeSessionByToken(randomUUID())).toBe(false);
    expect(await addon.revokeSessionByToken(session.hash)).toBe(false);
    await expectAlive(session);
  });

  test('ends a session, once', async () => {
    const [session, bystander] = [await cached(), await cached()];
    expect(await addon.revokeSessionByToken(session.token)).toBe(true);
    await expectEnded(session);
    expect(await addon.revokeSessionByToken(session.token)).toBe(false);
    await expectAlive(bystander);
  });
});

describe('all sessions of a user', () => {
  const ofUser = (user, count) => Promise.all(Array.from({ length: count }, () => cached({ user })));

  test('revokeAllUserSessionsWithCache: no user, no session', async () => {
    const user = await database.createUser();
    for (const id of ['', 'no-uuid', randomUUID(), user.id]) expect(await addon.revokeAllUserSessionsWithCache(id)).toBe(0);
  });

  test.each([1, 300])('revokeAllUserSessionsWithCache: %i of them, and nobody else', async (count) => {
    const bystander = await cached();
    const sessions = await ofUser(await database.createUser(), count);
    expect(await addon.revokeAllUserSessionsWithCache(sessions[0].userId)).toBe(count);
    for (const session of sessions) await expectEnded(session);
    expect(await addon.revokeAllUserSessionsWithCache(sessions[0].userId)).toBe(0);
    await expectAlive(bystander);
  });

  test('revokeOtherSessions ends all but one', async () => {
    const bystander = await cached();
    const [kept, ...others] = await ofUser(await database.createUser(), 5);
    expect(await addon.revokeOtherSessions(kept.userId, kept.id)).toBe(4);
    for (const session of others) await expectEnded(session);
    await expectAlive(kept);
    await expectAlive(bystander);
    expect(await addon.revokeOtherSessions(kept.userId, kept.id.toUpperCase())).toBe(0);
    await expectAlive(kept);
  });

  test("revokeOtherSessions with another user's session, or none, as the exception ends all", async () => {
    const bystander = await cached();
    const sessions = await ofUser(await database.createUser(), 2);
    expect(await addon.revokeOtherSessions(sessions[0].userId, bystander.id)).toBe(2);
    for (const session of sessions) await expectEnded(session);
    await expectAlive(bystander);
  });

  test.each(['', 'no-uuid', 'x'.repeat(5000)])('revokeOtherSessions ends nothing if the exception is no UUID', async (except) => {
    const [session] = await ofUser(await database.createUser(), 1);
    expect(await addon.revokeOtherSessions(session.userId, except)).toBe(0);
    await expectAlive(session);
  });
});

describe('forgetting', () => {
  test('invalidateSessionCache: the copy goes, the session stays', async () => {
    const session = await cached();
    expect(await addon.invalidateSessionCache(session.token)).toBe(undefined);
    expect(await redis.exists(keyOf(session))).toBe(0);
    addon.resetSessionCacheMetrics();
    await expectAlive(session);
    expect(addon.getSessionCacheMetrics()).toMatchObject({ misses: 1, databaseReads: 1 });
    await addon.invalidateSessionCache(randomUUID());
  });

  test('invalidateUserSessions: no user', async () => {
    for (const id of ['', 'no-uuid', randomUUID()]) expect(await addon.invalidateUserSessions(id)).toBe(0);
  });

  test('invalidateUserSessions shows changed names at once, in all sessions of the user', async () => {
    const user = await database.createUser();
    const sessions = [await cached({ user }), await cached({ user })];
    await database.query("UPDATE platform.users SET first_name = 'Grace', username = NULL, email = $2 WHERE id = $1", [user.id, `new-${user.email}`]);
    expect(await validate(sessions[0].token)).toMatchObject({ firstName: 'Ada' });
    expect(await addon.invalidateUserSessions(user.id)).toBe(2);
    for (const { token } of sessions) {
      expect(await validate(token)).toMatchObject({ firstName: 'Grace', username: null, email: `new-${user.email}` });
    }
  });

  test.each([
    ['a ban', (id) => database.banUser(id)],
    ['a deleted user', (id) => database.deleteUser(id)],
  ])('invalidateUserSessions shows %s at once', async (_, change) => {
    const session = await cached();
    await change(session.userId);
    expect(await validate(session.token)).toMatchObject({ id: session.id });
    expect(await addon.invalidateUserSessions(session.userId)).toBe(1);
    expect(await validate(session.token)).toBe(null);
  });

  test('validateSession goes past the cache: it reads, leaves and counts nothing there', async () => {
    const [session, unread] = [await cached(), await database.createSession()];
    await database.query("UPDATE platform.users SET first_name = 'Grace' WHERE id = $1", [session.userId]);
    addon.resetSessionCacheMetrics();
    expect(await addon.validateSession(session.token)).toMatchObject({ firstName: 'Grace' });
    expect(await addon.validateSession(unread.token)).toMatchObject({ id: unread.id });
    expect(addon.getSessionCacheMetrics()).toMatchObject({ total: 0, databaseReads: 0 });
    expect(await validate(session.token)).toMatchObject({ firstName: 'Ada' });
    expect(await redis.exists(keyOf(unread))).toBe(0);
  });
});

test('invalidations are counted by tokens', async () => {
  const user = await database.createUser();
  const sessions = [await cached({ user }), await cached({ user }), await cached()];
  addon.resetSessionCacheMetrics();
  await addon.invalidateUserSessions(user.id);
  await addon.revokeSessionByToken(sessions[2].token);
  expect(addon.getSessionCacheMetrics().invalidations).toBe(3);
});
