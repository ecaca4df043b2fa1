'use strict';

// Who a token belongs to: from Postgres, then from Redis, and never anybody who may not come in.

const { randomUUID } = require('node:crypto');
const addon = require('./fixtures/functional/addon.js');
const { Database } = require('./helpers/database.js');
const { startPostgres, startProxy, until } = require('./helpers/servers.js');
const { openRedis, everything, untilCopied: untilLeft } = require('./fixtures/functional/redis.js');
const { here, ready } = require('./fixtures/sessions/steps.js');

const PREFIX = 'validate:';
const { validateSessionWithCache, validateSession, getSessionCacheMetrics } = addon;

let database;
let postgres;
let proxy;
let redis;

beforeAll(async () => {
  postgres = await startPostgres({ settings: { log_statement: 'all' } });
  proxy = await startProxy(postgres.port);
  process.env.DATABASE_URL = postgres.url.replace(`:${postgres.port}/`, `:${proxy.port}/`);
  process.env.REDIS_KEY_PREFIX = PREFIX;
  database = new Database(postgres.url);
  redis = openRedis();
  await ready(here, database);
});

afterAll(() => database.end());

/** A copy is in Redis, and this process knows it: a read that is still leaving one would be joined. */
async function untilCopied(outside, session) {
  await untilLeft(outside, session);
  expect(await addon.sessionCacheHealthCheck()).toBe(true);
}

const keyOf = (session) => `${PREFIX}session:${session.hash}`;

/** How many statements Postgres was sent with this hash. Parameters are in the log, one line a statement. */
const statementsAbout = ({ hash }) => postgres.log.split('\n').filter((line) => line.includes(`'${hash}'`)).length;

/** The shape of the contract, from the row as `pg` reads it. */
async function expected({ id }) {
  const [row] = await database.query(
    `SELECT s.*, abbrev(s.ip_address) AS address, u.email, u.first_name, u.last_name, u.username
     FROM platform.user_sessions s JOIN platform.users u ON u.id = s.user_id WHERE s.id = $1`,
    [id],
  );
  return {
    id,
    userId: row.user_id,
    token: row.token,
    expiresAt: row.expires_at.toISOString(),
    lastActivityAt: row.last_activity_at.toISOString(),
    ...(row.address === null ? {} : { ipAddress: row.address }),
    ...(row.user_agent === null ? {} : { userAgent: row.user_agent }),
    createdAt: row.created_at.toISOString(),
    email: row.email,
    firstName: row.first_name,
    lastName: row.last_name,
    username: row.username,
  };
}

describe.each([
  ['validateSessionWithCache', validateSessionWithCache],
  ['validateSession', validateSession],
])('%s', (_, validate) => {
  test('an unknown token is nobody', async () => {
    expect(await validate(randomUUID())).toBe(null);
    expect(await validate(randomUUID().repeat(100))).toBe(null);
  });

  test('the stored hash is no token', async () => {
    const { hash } = await database.createSession();
    expect(await validate(hash)).toBe(null);
  });

  test('an expired session is nobody', async () => {
    const { token } = await database.createSession({ expiresInSeconds: -1 });
    expect(await validate(token)).toBe(null);
  });

  test('a session whose row was deleted is nobody', async () => {
    const { id, token } = await database.createSession();
    await database.query('DELETE FROM platform.user_sessions WHERE id = $1', [id]);
    expect(await validate(token)).toBe(null);
  });

  test('a session of a deleted user is nobody', async () => {
    const { token, userId } = await database.createSession();
    await database.deleteUser(userId);
    expect(await validate(token)).toBe(null);
  });

  test.each([
    ['for an hour', () => new Date(Date.now() + 3_600_000), false],
    ['for ever', () => 'infinity', false],
    ['until a second ago', () => new Date(Date.now() - 1000), true],
    ['since ever until never', () => '-infinity', true],
    ['not', () => null, true],
  ])('a user who is banned %s', async (__, bannedUntil, mayComeIn) => {
    const { id, token, userId } = await database.createSession();
    await database.banUser(userId, bannedUntil());
    const session = await validate(token);
    expect(session?.id ?? null).toBe(mayComeIn ? id : null);
  });

  test('a session without end is valid, and its end can be read', async () => {
    const { id, token } = await database.createSession();
    await database.query("UPDATE platform.user_sessions SET expires_at = 'infinity' WHERE id = $1", [id]);
    const session = await validate(token);
    expect(session.id).toBe(id);
    expect(session.expiresAt).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
    expect(new Date(session.expiresAt).getFullYear()).toBeGreaterThan(9000);
  });

  test('the answer has the shape of the contract and is frozen', async () => {
    const created = await database.createSession({ ipAddress: '192.0.2.7', userAgent: 'Mozilla/5.0' });
    const session = await validate(created.token);
    expect(session).toStrictEqual(await expected(created));
    expect(session.token).toBe(created.hash);
    expect(Object.isFrozen(session)).toBe(true);
    expect(() => {
      session.userId = randomUUID();
    }).toThrow(TypeError);
  });

  test.each(['2024-02-29 23:59:59.999999Z', '2023-12-31 23:59:59.0005+14', '1999-01-01', '2024-03-31 02:30:00.1+02'])('the time %s', async (time) => {
    const created = await database.createSession({ lastActivityAt: time });
    expect((await validate(created.token)).lastActivityAt).toBe((await expected(created)).lastActivityAt);
  });

  test('what is null in the row is absent from the session, and null in the user', async () => {
    const user = await database.createUser({ username: null, firstName: null, lastName: null });
    const { token } = await database.createSession({ user, ipAddress: null, userAgent: null });
    const session = await validate(token);
    expect('ipAddress' in session || 'userAgent' in session).toBe(false);
    expect(session).toMatchObject({ username: null, firstName: null, lastName: null });
  });

  test.each(['192.0.2.7', '2001:db8::1', '::ffff:192.0.2.7', '192.0.2.0/24'])('the address %s', async (ipAddress) => {
    const { token } = await database.createSession({ ipAddress });
    expect((await validate(token)).ipAddress).toBe(ipAddress);
  });
});

test('the second call is answered by Redis, with the same session', async () => {
  const created = await database.createSession();
  addon.resetSessionCacheMetrics();
  const first = await validateSessionWithCache(created.token);
  await untilCopied(redis, created);
  const asked = statementsAbout(created);
  const second = await validateSessionWithCache(created.token);
  expect(second).toStrictEqual(first);
  expect(Object.isFrozen(second)).toBe(true);
  expect(statementsAbout(created)).toBe(asked);
  expect(getSessionCacheMetrics()).toMatchObject({ misses: 1, redisHits: 1, databaseReads: 1, total: 2 });
});

test.each([
  ['quotes and what JSON escapes', `"'\\\n\r\t\u0001{}[]`],
  ['what other formats escape', '</script>\u2028\u2029$1 %s ${x} \\u0000'],
  ['scripts of the world', 'Zoë 日本語 عربى 👩‍👩‍👧 e\u0301'],
  ['names of prototypes', '__proto__'],
  ['nothing', ''],
])('names with %s come back the same from both stores', async (_, text) => {
  const user = await database.createUser({ firstName: text, lastName: `${text}${text}`, username: `${randomUUID()}${text}`, email: `o'${randomUUID()}"\\{ö@exämple.test` });
  const created = await database.createSession({ user, userAgent: text });
  const first = await validateSessionWithCache(created.token);
  expect(first).toStrictEqual(await expected(created));
  await untilCopied(redis, created);
  addon.resetSessionCacheMetrics();
  expect(await validateSessionWithCache(created.token)).toStrictEqual(first);
  expect(getSessionCacheMetrics().redisHits).toBe(1);
});

test('a very long user agent comes back whole from both stores', async () => {
  const userAgent = 'agént '.repeat(50_000);
  const created = await database.createSession({ userAgent });
  expect((await validateSessionWithCache(created.token)).userAgent).toBe(userAgent);
  await untilCopied(redis, created);
  addon.resetSessionCacheMetrics();
  expect((await validateSessionWithCache(created.token)).userAgent).toBe(userAgent);
  expect(getSessionCacheMetrics().redisHits).toBe(1);
});

test('the copy is under the hash of the token; the token itself is nowhere', async () => {
  const created = await database.createSession();
  const unknown = randomUUID();
  await validateSessionWithCache(created.token);
  await validateSessionWithCache(unknown);
  await untilCopied(redis, created);
  const texts = await everything(redis);
  expect(texts.filter((text) => text.startsWith(`${keyOf(created)} `))).toHaveLength(1);
  for (const { token } of [created, { token: unknown }]) expect(texts.filter((text) => text.includes(token))).toEqual([]);
});

test('a copy lives five minutes at most, and says when it ends', async () => {
  const created = await database.createSession();
  const before = Date.now();
  await validateSessionWithCache(created.token);
  await untilCopied(redis, created);
  const left = await redis.pttl(keyOf(created));
  expect(left).toBeGreaterThan(0);
  expect(left).toBeLessThanOrEqual(300_000);
  const end = Number(await redis.hget(keyOf(created), 'end')) / 1000;
  expect(Math.abs(end - (before + 300_000))).toBeLessThan(30_000);
});

test('a copy ends no later than its session', async () => {
  const created = await database.createSession({ expiresInSeconds: 20 });
  await validateSessionWithCache(created.token);
  await untilCopied(redis, created);
  expect(await redis.pttl(keyOf(created))).toBeLessThanOrEqual(20_001);
  expect(Number(await redis.hget(keyOf(created), 'end'))).toBeLessThanOrEqual((created.expiresAt.getTime() + 1) * 1000);
});

test('a session that was cached is nobody from its end on', async () => {
  const created = await database.createSession({ expiresInSeconds: 2 });
  expect(await validateSessionWithCache(created.token)).not.toBe(null);
  await untilCopied(redis, created);
  await until(async () => (await validateSessionWithCache(created.token)) === null, { deadlineMs: 10_000, what: 'the end' });
  const [{ over }] = await database.query('SELECT clock_timestamp() >= $1::timestamptz AS over', [created.expiresAt]);
  expect(over).toBe(true);
});

test('what somebody else put under a key is not believed', async () => {
  const warnings = [];
  addon.setLogHandler((line) => warnings.push(line));
  const created = await database.createSession();
  const other = await database.createSession();
  await validateSessionWithCache(other.token);
  await untilCopied(redis, other);
  for (const put of [
    () => redis.copy(keyOf(other), keyOf(created), 'REPLACE'),
    () => redis.set(keyOf(created), 'text'),
    () => redis.hset(keyOf(created), { version: '1', session: '{}', end: '99999999999999999', run: 'x' }),
  ]) {
    await redis.del(keyOf(created));
    await put();
    expect(await validateSessionWithCache(created.token)).toMatchObject({ id: created.id });
  }
  await until(() => warnings.length > 0, { what: 'the warning' });
  expect(warnings[0]).toMatchObject({ level: 'WARN', message: expect.stringContaining('unreadable') });
  addon.setLogHandler(null);
});

describe('1,000 simultaneous calls', () => {
  const thousand = (token) => Array.from({ length: 1000 }, () => validateSessionWithCache(token));

  test.each([
    ['a valid token', () => database.createSession()],
    ['an unknown token', async () => ({ id: null, token: randomUUID() })],
  ])('for %s join one query, and get its answer', async (_, make) => {
    const { id, token } = await make();
    await validateSessionWithCache(randomUUID());
    addon.resetSessionCacheMetrics();
    proxy.holdReplies();
    const calls = thousand(token);
    await until(() => getSessionCacheMetrics().databaseReads > 0, { what: 'the query' });
    // The answer waits until each call has had its turn; none can be late.
    await until(() => addon.getRedisClient().ping(), { what: 'a turn of the event loop and back' });
    proxy.release();
    const sessions = await Promise.all(calls);
    expect(sessions.every((session) => (session?.id ?? null) === id && Object.isFrozen(session))).toBe(true);
    expect(getSessionCacheMetrics()).toMatchObject({ total: 1000, misses: 1000, databaseReads: 1, coalesced: 999 });
  });

  test('cost Postgres one query, however fast it answers', async () => {
    for (let round = 0; round < 20; round += 1) {
      const created = await database.createSession();
      const asked = statementsAbout(created);
      const sessions = await Promise.all(thousand(created.token));
      expect(sessions.every((session) => session.id === created.id)).toBe(true);
      expect(statementsAbout(created) - asked).toBe(1);
    }
  });
});

test('500 tokens at once are not mixed up', async () => {
  const sessions = await database.createSessions(500);
  const read = () => Promise.all(sessions.map(({ token }) => validateSessionWithCache(token)));
  const ids = sessions.map(({ id }) => id);
  expect((await read()).map((session) => session?.id)).toEqual(ids);
  await Promise.all(sessions.map((session) => untilCopied(redis, session)));
  expect((await read()).map((session) => session?.id)).toEqual(ids);
});
