'use strict';

// What ends an answer out of the process: calls of its own at once, others within moments.

const { randomUUID } = require('node:crypto');
const { Database } = require('./helpers/database.js');
const { addon, here, keyOf, grown, from, ready, validate, local, untilLocal, untilAnswer, metrics } = require('./fixtures/sessions/steps.js');
const { sessionLink } = require('./fixtures/sessions/servers.js');
const { startRedis, until } = require('./helpers/servers.js');
const { spawnWorker } = require('./helpers/process.js');
const { openRedis } = require('./fixtures/functional/redis.js');

let database;
let redis;
let other;

beforeAll(async () => {
  const server = await startRedis();
  process.env.REDIS_URL = server.url;
  process.env.REDIS_KEY_PREFIX = 'local-ends:';
  database = new Database();
  redis = openRedis(server.url);
  await ready(here, database);
  other = await ready(await spawnWorker(), database);
});

afterAll(() => database.end());

const inAnHour = () => new Date(Date.now() + 3_600_000);
const rename = ({ userId }) => database.query("UPDATE platform.users SET first_name = 'Grace' WHERE id = $1", [userId]);

/** Calls that end a session, as method and arguments. */
const REVOCATIONS = {
  'revokeSessionWithCache with the token': ({ id, token }) => ['revokeSessionWithCache', id, token],
  'revokeSessionWithCache without the token': ({ id }) => ['revokeSessionWithCache', id],
  revokeSessionByToken: ({ token }) => ['revokeSessionByToken', token],
  revokeAllUserSessionsWithCache: ({ userId }) => ['revokeAllUserSessionsWithCache', userId],
  revokeOtherSessions: ({ userId }) => ['revokeOtherSessions', userId, randomUUID()],
  rotateSession: ({ token }) => ['rotateSession', token, randomUUID(), inAnHour()],
};

/** Calls that forget without ending. */
const FORGETTINGS = {
  invalidateSessionCache: ({ token }) => ['invalidateSessionCache', token],
  invalidateUserSessions: ({ userId }) => ['invalidateUserSessions', userId],
};

describe.each(Object.entries(REVOCATIONS))('%s', (_, call) => {
  test('ends it at once in this process', async () => {
    const [session, bystander] = [await local(here, database), await local(here, database)];
    const counts = await grown(here, async () => {
      expect(await here.call(...call(session))).toBeTruthy();
      for (let i = 0; i < 20; i += 1) expect(await validate(here, session)).toBe(null);
    });
    expect(counts.localHits).toBe(0);
    expect(await from(here, bystander)).toBe('local');
  });

  test('ends it in another process', async () => {
    const [session, bystander] = [await local(here, database), await local(here, database)];
    await untilLocal(other, session);
    expect(await other.call(...call(session))).toBeTruthy();
    expect(await validate(other, session)).toBe(null);
    await untilAnswer(here, session, null);
    expect(await from(here, bystander)).toBe('local');
  });
});

test('after rotateSession the new token is cached as any other', async () => {
  const session = await local(here, database);
  const next = { ...session, token: randomUUID() };
  expect(await validate(here, next)).toBe(null);
  expect(await addon.rotateSession(session.token, next.token, inAnHour())).toBe(true);
  expect(await validate(here, session)).toBe(null);
  expect(await validate(here, next)).toMatchObject({ id: session.id });
  await untilLocal(here, next);
});

describe.each(Object.entries(FORGETTINGS))('%s', (_, call) => {
  test('shows a changed user at once in this process, and soon in another', async () => {
    const session = await local(here, database);
    await untilLocal(other, session);
    await rename(session);
    expect(await validate(here, session)).toMatchObject({ firstName: 'Ada' });
    await here.call(...call(session));
    expect(await validate(here, session)).toMatchObject({ firstName: 'Grace' });
    await untilAnswer(other, session, { firstName: 'Grace' });
    await untilLocal(here, session);
    expect(await validate(here, session)).toMatchObject({ firstName: 'Grace' });
  });
});

test.each([
  ['a ban', (id) => database.banUser(id)],
  ['a deleted user', (id) => database.deleteUser(id)],
])('%s is seen at once after invalidateUserSessions', async (_, change) => {
  const user = await database.createUser();
  const sessions = [await local(here, database, { user }), await local(here, database, { user })];
  await change(user.id);
  expect(await addon.invalidateUserSessions(user.id)).toBe(2);
  for (const session of sessions) expect(await validate(here, session)).toBe(null);
});

test('validations that are under way bring nothing back', async () => {
  for (let round = 0; round < 20; round += 1) {
    const session = await database.createSession();
    if (round % 2) await untilLocal(here, session);
    const reads = Array.from({ length: 20 }, () => validate(here, session));
    expect(await addon.revokeSessionWithCache(session.id)).toBe(true);
    expect(await validate(here, session)).toBe(null);
    await Promise.all(reads);
    for (let call = 0; call < 5; call += 1) expect(await validate(here, session)).toBe(null);
  }
});

describe('the key in Redis', () => {
  test.each([
    ['DEL', (key) => redis.del(key)],
    ['UNLINK', (key) => redis.unlink(key)],
    ['RENAME', (key) => redis.rename(key, `elsewhere:${randomUUID()}`)],
    ['EXPIRE', (key) => redis.pexpire(key, 0)],
    ['a string in its place', (key) => redis.set(key, 'text')],
    ['FLUSHDB', () => redis.flushdb()],
    ['FLUSHALL ASYNC', () => redis.flushall('ASYNC')],
  ])('%s by somebody else is heard', async (_, remove) => {
    const session = await local(here, database);
    await rename(session);
    expect(await validate(here, session)).toMatchObject({ firstName: 'Ada' });
    await remove(keyOf(session));
    await untilAnswer(here, session, { firstName: 'Grace' });
    await untilLocal(here, session);
  });

  test('FLUSHALL empties the tier', async () => {
    const sessions = [await local(here, database), await local(here, database)];
    expect((await metrics(here)).localEntries).toBeGreaterThanOrEqual(2);
    await redis.flushall();
    await until(async () => (await metrics(here)).localEntries === 0, { what: 'an empty tier', deadlineMs: 5000 });
    await untilLocal(here, ...sessions);
  });

  test('a key of another prefix is none of ours', async () => {
    const session = await local(here, database);
    const { localHits } = await grown(here, async () => {
      await redis.set(`other:session:${session.hash}`, 'text');
      await redis.del(`other:session:${session.hash}`, `session:${session.hash}`);
      await addon.sessionCacheHealthCheck();
      expect(await from(here, session)).toBe('local');
    });
    expect(localHits).toBe(1);
  });
});

describe('a lost session connection', () => {
  test('is not believed, and the tier comes back with the next one', async () => {
    const session = await local(here, database);
    const link = await sessionLink(redis, here);
    await redis.client('KILL', 'ID', link);
    await until(async () => (await from(here, session)) !== 'local', { what: 'another answer', everyMs: 1, deadlineMs: 5000 });
    await untilLocal(here, session);
    expect(await sessionLink(redis, here)).not.toBe(link);
  });

  test('what was deleted in the gap is asked for anew', async () => {
    for (let round = 0; round < 5; round += 1) {
      const session = await local(here, database);
      await rename(session);
      // One transaction: the connection has gone when the key goes, so nobody can be told.
      const link = await sessionLink(redis, here);
      const answers = await redis.multi().client('KILL', 'ID', link).del(keyOf(session)).exec();
      expect(answers).toEqual([[null, 1], [null, 1]]);
      await untilAnswer(here, session, { firstName: 'Grace' });
      await untilLocal(here, session);
    }
  });
});
