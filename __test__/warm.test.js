'use strict';

// Copies that are left in Redis before anybody asks.

const { randomUUID } = require('node:crypto');
const { Database } = require('./helpers/database.js');
const { addon, here, keyOf, ask, ready, validate, grown } = require('./fixtures/sessions/steps.js');
const { startRedis, startPostgres, until } = require('./helpers/servers.js');
const { openRedis } = require('./fixtures/functional/redis.js');
const { withEnvironment, rejection } = require('./fixtures/functional/environment.js');

const { warmSessionCache: warm } = addon;

let database;
let redis;

beforeAll(async () => {
  const [server, postgres] = await Promise.all([startRedis(), startPostgres()]);
  process.env.REDIS_URL = server.url;
  process.env.DATABASE_URL = postgres.url;
  process.env.REDIS_KEY_PREFIX = 'warm:';
  database = new Database(postgres.url);
  redis = openRedis(server.url);
  await ready(here, database);
});

/** Neither copies nor sessions of other tests are in the way. */
beforeEach(async () => {
  await database.query('TRUNCATE platform.users CASCADE');
  await redis.flushall();
});

afterAll(() => database.end());

const hoursAgo = (hours) => new Date(Date.now() - hours * 3_600_000);
const isCopied = async (session) => (await redis.hexists(keyOf(session), 'session')) === 1;
const areCopied = (sessions) => Promise.all(sessions.map(isCopied));
const DONE = { success: true, status: 'completed', failed: 0, durationMs: expect.any(Number) };

describe('wrong options', () => {
  test.each([
    ['null', null, TypeError, 'options'],
    ['a number', 5, TypeError, 'options'],
    ['an array', [], TypeError, 'options'],
    ['an unknown one', { max: 5 }, TypeError, "'max'"],
    ...[0, -1, 1.5, NaN, Infinity, 100_001].map((limit) => [`limit ${limit}`, { limit }, RangeError, 'options.limit']),
    ...['10', null, {}, 10n].map((limit) => [`limit of type ${typeof limit}`, { limit }, TypeError, 'options.limit']),
    ...[0, -1, 0.5, NaN, Infinity, 8761].map((recentHours) => [`recentHours ${recentHours}`, { recentHours }, RangeError, 'options.recentHours']),
    ...['24', null, true].map((recentHours) => [`recentHours of type ${typeof recentHours}`, { recentHours }, TypeError, 'options.recentHours']),
    ...[{}, { aborted: true }, true, 'now', new AbortController()].map((signal) => [`signal ${String(signal)}`, { signal }, TypeError, 'options.signal']),
    ...[{}, 'log', true, null].map((onProgress) => [`onProgress ${String(onProgress)}`, { onProgress }, TypeError, 'options.onProgress']),
  ])('%s: refused by name', async (_, options, type, text) => {
    const session = await database.createSession();
    const error = await rejection(() => warm(options));
    expect(error).toBeInstanceOf(type);
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringContaining(text) });
    expect(await isCopied(session)).toBe(false);
  });

  test('what is left out is as good as undefined', async () => {
    await database.createSession();
    for (const args of [[], [undefined], [{}], [{ limit: undefined, recentHours: undefined, signal: undefined, onProgress: undefined }]]) {
      expect(await warm(...args)).toMatchObject({ total: 1, status: 'completed' });
    }
  });

  test('the bounds themselves are allowed', async () => {
    await database.createSession();
    for (const options of [{ limit: 1, recentHours: 1 }, { limit: 100_000, recentHours: 8760 }]) {
      expect(await warm(options)).toStrictEqual({ ...DONE, total: 1, warmed: 1 });
    }
  });

  test('without DATABASE_URL', async () => {
    await withEnvironment({ DATABASE_URL: undefined }, async () => {
      expect(await rejection(() => warm())).toMatchObject({ code: 'ERR_NOT_CONFIGURED' });
    });
  });
});

test('nothing to warm', async () => {
  expect(await warm()).toStrictEqual({ ...DONE, total: 0, warmed: 0 });
});

test('a warmed session is a hit in Redis, without any query', async () => {
  const sessions = await database.createSessions(20);
  const counts = await grown(here, async () => expect(await warm()).toStrictEqual({ ...DONE, total: 20, warmed: 20 }));
  expect(counts).toMatchObject({ total: 0, hits: 0, misses: 0 });
  const after = await grown(here, async () => {
    for (const session of sessions) {
      expect(await ask(here, session)).toEqual({ from: 'redis', session: expect.objectContaining({ id: session.id }) });
    }
  });
  expect(after).toMatchObject({ redisHits: 20, misses: 0, databaseReads: 0 });
});

test('a warmed copy is that of a validation, and ends like one', async () => {
  const created = await database.createSession({ expiresInSeconds: 100 });
  await warm();
  const { session } = await ask(here, created);
  const { lastActivityAt, ...rest } = await addon.validateSession(created.token);
  expect(session).toStrictEqual({ ...rest, lastActivityAt: expect.any(String) });
  expect(Object.isFrozen(session)).toBe(true);
  expect(await redis.pttl(keyOf(created))).toBeLessThanOrEqual(100_001);
  const long = await database.createSession();
  await warm();
  expect(await redis.pttl(keyOf(long))).toBeLessThanOrEqual(300_001);
});

test('limit: the latest active come first', async () => {
  const sessions = await database.createSessions(30);
  for (const [index, { id }] of sessions.entries()) {
    const time = hoursAgo(1 + ((index * 7) % 30) / 10);
    await database.query('UPDATE platform.user_sessions SET last_activity_at = $2 WHERE id = $1', [id, time]);
  }
  expect(await warm({ limit: 10 })).toStrictEqual({ ...DONE, total: 10, warmed: 10 });
  expect(await areCopied(sessions)).toEqual(sessions.map((_, index) => (index * 7) % 30 < 10));
});

test('recentHours: 24 unless said otherwise', async () => {
  const [recent, old, older] = await Promise.all([23, 25, 47].map((hours) => database.createSession({ lastActivityAt: hoursAgo(hours) })));
  expect((await warm()).warmed).toBe(1);
  expect(await areCopied([recent, old, older])).toEqual([true, false, false]);
  expect((await warm({ recentHours: 26 })).total).toBe(2);
  expect((await warm({ recentHours: 48 })).total).toBe(3);
  expect(await areCopied([recent, old, older])).toEqual([true, true, true]);
});

test('who may not come in is not warmed', async () => {
  const [banned, deleted, expired, valid] = await Promise.all([...Array.from({ length: 2 }, () => database.createSession()), database.createSession({ expiresInSeconds: -1 }), database.createSession()]);
  await database.banUser(banned.userId);
  await database.deleteUser(deleted.userId);
  expect(await warm()).toStrictEqual({ ...DONE, total: 1, warmed: 1 });
  expect(await areCopied([banned, deleted, expired, valid])).toEqual([false, false, false, true]);
  for (const session of [banned, deleted, expired]) expect(await validate(here, session)).toBe(null);
});

test('progress is told after every batch, grows, and ends with the result', async () => {
  await database.createSessions(350);
  const told = [];
  const result = await warm({ onProgress: (...args) => told.push(args) });
  expect(result).toStrictEqual({ ...DONE, total: 350, warmed: 350 });
  await until(() => told.at(-1)?.[0].warmed === 350, { what: 'the last progress' });
  expect(told.every((args) => args.length === 1)).toBe(true);
  const steps = told.map(([progress]) => progress);
  expect(steps.length).toBeGreaterThanOrEqual(4);
  expect(steps.every(({ total }) => total === 350)).toBe(true);
  for (let step = 1; step < steps.length; step += 1) {
    expect(steps[step].warmed + steps[step].failed).toBeGreaterThan(steps[step - 1].warmed + steps[step - 1].failed);
  }
  expect(steps.at(-1)).toStrictEqual({ total: 350, warmed: 350, failed: 0 });
});

test('others are served meanwhile', async () => {
  await database.createSessions(3000);
  const session = await database.createSession();
  let ended = false;
  const warming = warm({ limit: 3000 }).finally(() => (ended = true));
  let served = 0;
  while (!ended) {
    expect(await validate(here, session)).toMatchObject({ id: session.id });
    await new Promise(setImmediate);
    served += 1;
  }
  expect((await warming).warmed).toBe(3000);
  expect(served).toBeGreaterThan(10);
});

describe('sessionCache.warmSession', () => {
  const { warmSession } = addon.sessionCache ?? {};

  test.each([undefined, null, 1, {}, ['token'], true])('%p is refused', async (token) => {
    const error = await rejection(() => warmSession(token));
    expect(error).toBeInstanceOf(TypeError);
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringContaining('token') });
  });

  test.each(['', 'x'.repeat(4097), randomUUID()])('nobody is not warmed', async (token) => {
    expect(await warmSession(token)).toBe(false);
    expect(await redis.hexists(keyOf({ token }), 'session')).toBe(0);
  });

  test('one session is copied, as Postgres has it, whatever else is given', async () => {
    const session = await database.createSession();
    expect(await warmSession(session.token, { id: randomUUID(), userId: randomUUID(), email: 'mallory@example.com' })).toBe(true);
    expect(await ask(here, session)).toEqual({
      from: 'redis',
      session: expect.objectContaining({ id: session.id, userId: session.userId, email: session.user.email }),
    });
  });

  test('who may not come in is not warmed', async () => {
    const session = await database.createSession();
    await database.banUser(session.userId);
    expect(await warmSession(session.token)).toBe(false);
    expect(await isCopied(session)).toBe(false);
  });
});
