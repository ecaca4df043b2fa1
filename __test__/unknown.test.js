'use strict';

// Tokens that are nobody's: remembered for a few seconds, in a place of their own.

const { randomUUID } = require('node:crypto');
const { Database, hashOf } = require('./helpers/database.js');
const { addon, here, ask, from, ready, validate, local, locals, untilAnswer, grown, metrics } = require('./fixtures/sessions/steps.js');
const { until } = require('./helpers/servers.js');
const { spawnWorker } = require('./helpers/process.js');
const { withEnvironment } = require('./fixtures/functional/environment.js');

let database;

beforeAll(async () => {
  process.env.REDIS_KEY_PREFIX = 'unknown:';
  database = new Database();
  await ready(here, database);
});

afterAll(() => database.end());

const inAnHour = () => new Date(Date.now() + 3_600_000);
const unknown = () => ({ token: randomUUID() });

/** Validates many tokens, some of them at a time. */
async function flood(one, tokens) {
  for (let first = 0; first < tokens.length; first += 250) {
    const answers = await Promise.all(tokens.slice(first, first + 250).map((token) => validate(one, { token })));
    expect(answers.every((answer) => answer === null)).toBe(true);
  }
}

test('Postgres is asked once, then the answer is known', async () => {
  const guess = unknown();
  addon.resetSessionCacheMetrics();
  expect(await ask(here, guess)).toEqual({ session: null, from: 'postgres' });
  for (let call = 0; call < 50; call += 1) expect(await ask(here, guess)).toEqual({ session: null, from: 'nobody' });
  expect(await metrics(here)).toMatchObject({ total: 51, misses: 1, refused: 50, databaseReads: 1, hits: 0, hitRate: 0, errors: 0 });
});

test('it is known for a few seconds, not for good', async () => {
  const session = { token: randomUUID() };
  expect(await validate(here, session)).toBe(null);
  expect(await from(here, session)).toBe('nobody');
  // Inserted by somebody who tells nobody.
  const { id } = await database.createSession({ token: session.token });
  await untilAnswer(here, session, { id }, { deadlineMs: 15_000 });
});

test('a session that has ended, one of a banned user and an expired one are refused in the same way', async () => {
  const [ended, banned, expired] = [await local(here, database), await database.createSession(), await database.createSession({ expiresInSeconds: -1 })];
  await database.banUser(banned.userId);
  expect(await addon.revokeSessionByToken(ended.token)).toBe(true);
  for (const session of [ended, banned, expired]) {
    // News of the end that come back by Postgres end what is known, once more.
    await until(async () => (await from(here, session)) === 'nobody', { what: 'an answer without a question', deadlineMs: 5000 });
    expect(await ask(here, session)).toEqual({ session: null, from: 'nobody' });
  }
});

test('validateSession asks Postgres all the same', async () => {
  const guess = unknown();
  expect(await validate(here, guess)).toBe(null);
  const { id } = await database.createSession({ token: guess.token });
  expect(await addon.validateSession(guess.token)).toMatchObject({ id });
});

describe('a token that becomes a session by rotateSession', () => {
  test('in this process: at once', async () => {
    for (let round = 0; round < 10; round += 1) {
      const [session, next] = [await database.createSession(), unknown()];
      expect(await validate(here, next)).toBe(null);
      expect(await validate(here, next)).toBe(null);
      expect(await addon.rotateSession(session.token, next.token, inAnHour())).toBe(true);
      expect(await validate(here, next)).toMatchObject({ id: session.id });
      expect(await validate(here, session)).toBe(null);
    }
  });

  test('in this process, while many ask for it', async () => {
    for (let round = 0; round < 10; round += 1) {
      const [session, next] = [await database.createSession(), unknown()];
      const guesses = Array.from({ length: 20 }, () => validate(here, next));
      expect(await addon.rotateSession(session.token, next.token, inAnHour())).toBe(true);
      expect(await validate(here, next)).toMatchObject({ id: session.id });
      await Promise.all(guesses);
      expect(await validate(here, next)).toMatchObject({ id: session.id });
    }
  });

  test('in another process: soon', async () => {
    const other = await ready(await spawnWorker(), database);
    const [session, next] = [await database.createSession(), unknown()];
    expect(await validate(here, next)).toBe(null);
    expect(await from(here, next)).toBe('nobody');
    expect(await other.call('rotateSession', session.token, next.token, inAnHour())).toBe(true);
    await untilAnswer(here, next, { id: session.id }, { deadlineMs: 15_000 });
  });
});

test.each([
  ['invalidateSessionCache', ({ token }) => addon.invalidateSessionCache(token)],
  ['switching the cache off and on', () => [false, true].forEach((enabled) => addon.configureSessionCache({ enabled }))],
])('%s ends the knowledge', async (_, forget) => {
  const guess = unknown();
  expect(await validate(here, guess)).toBe(null);
  const { id } = await database.createSession({ token: guess.token });
  await forget(guess);
  expect(await validate(here, guess)).toMatchObject({ id });
});

test('switched off, the cache knows nobody', async () => {
  addon.configureSessionCache({ enabled: false });
  try {
    const guess = unknown();
    for (let call = 0; call < 3; call += 1) expect(await from(here, guess)).toBe('postgres');
  } finally {
    addon.configureSessionCache({ enabled: true });
  }
});

test('calls at once for one unknown token cost one query', async () => {
  const guess = unknown();
  const counts = await grown(here, async () => {
    const answers = await Promise.all(Array.from({ length: 500 }, () => validate(here, guess)));
    expect(answers.every((answer) => answer === null)).toBe(true);
  });
  expect(counts).toMatchObject({ total: 500, databaseReads: 1, hits: 0 });
  expect(counts.misses + counts.refused).toBe(500);
});

test('a flood of guesses pushes out no session', async () => {
  await withEnvironment({ SESSION_CACHE_LOCAL_ENTRIES: '100' }, async () => {
    const sessions = await locals(here, database, 50);
    const before = await metrics(here);
    await flood(here, Array.from({ length: 5000 }, randomUUID));
    expect((await metrics(here)).localEntries).toBe(before.localEntries);
    const counts = await grown(here, async () => {
      for (const session of sessions) expect(await validate(here, session)).toMatchObject({ id: session.id });
    });
    expect(counts.localHits).toBe(50);
  });
});

test('a flood of guesses fills no memory', async () => {
  const worker = await spawnWorker(require.resolve('./fixtures/sessions/weighed.js'));
  const tokens = Array.from({ length: 40_000 }, randomUUID);
  await flood(worker, tokens.slice(0, 10_000));
  const before = await worker.call('residentBytes');
  await flood(worker, tokens.slice(10_000));
  const after = await worker.call('residentBytes');
  expect(after - before).toBeLessThan(48 * 1024 * 1024);
});

test('a token of which only the hash is asked for stays what it is', async () => {
  const session = await local(here, database);
  for (let call = 0; call < 3; call += 1) expect(await validate(here, { token: hashOf(session.token) })).toBe(null);
  expect(await validate(here, session)).toMatchObject({ id: session.id });
  await until(async () => (await from(here, session)) === 'local', { what: 'the tier' });
});
