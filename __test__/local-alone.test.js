'use strict';

// The tier in the process where there is no Redis: what it can know is what Postgres tells.

const { Database } = require('./helpers/database.js');
const { addon, here, from, validate, local, untilLocal, untilAnswer, metrics } = require('./fixtures/sessions/steps.js');
const { untilListening } = require('./fixtures/sessions/servers.js');
const { startPostgres, until } = require('./helpers/servers.js');
const { spawnWorker } = require('./helpers/process.js');

let postgres;
let database;

beforeAll(async () => {
  postgres = await startPostgres();
});

beforeEach(async () => {
  delete process.env.REDIS_URL;
  process.env.DATABASE_URL = await postgres.createDatabase();
  database = new Database(process.env.DATABASE_URL);
});

afterEach(async () => {
  await addon.shutdown();
  await database.end();
});

const rename = ({ userId }) => database.query("UPDATE platform.users SET first_name = 'Grace' WHERE id = $1", [userId]);

/** The name changes without anybody's being told; gives the ages (ms since before the first read) of all old answers. */
async function agesOfOldAnswers(session, begun) {
  const ages = [];
  await rename(session);
  await until(
    async () => {
      const age = performance.now() - begun;
      const { firstName } = await validate(here, session);
      if (firstName === 'Ada') ages.push(age);
      return firstName === 'Grace';
    },
    { what: 'the end of the copy', deadlineMs: 30_000, everyMs: 5 },
  );
  return ages;
}

/** The process answers by itself for so long; once the listener is up and knows the triggers, nothing disturbs it. */
async function steady(session, milliseconds) {
  let since = performance.now();
  await until(
    async () => {
      if ((await from(here, session)) !== 'local') since = performance.now();
      return performance.now() - since > milliseconds;
    },
    { what: 'a long life', deadlineMs: 40_000, everyMs: 20 },
  );
}

test('without triggers an answer is 5 s old at most', async () => {
  await steady(await database.createSession(), 2500);
  const session = await database.createSession();
  const begun = performance.now();
  await untilLocal(here, session);
  const ages = await agesOfOldAnswers(session, begun);
  // It was held for a while, and not for much longer than promised, whatever else the machine does.
  expect(ages.length).toBeGreaterThan(10);
  expect(Math.max(...ages)).toBeLessThan(5500);
  await untilLocal(here, session);
  expect((await metrics(here)).redisHits).toBe(0);
});

test('calls of this process end it at once', async () => {
  const [ended, rotated, changed] = [await local(here, database), await local(here, database), await local(here, database)];
  expect(await addon.revokeSessionWithCache(ended.id)).toBe(true);
  expect(await validate(here, ended)).toBe(null);
  expect(await addon.rotateSession(rotated.token, 'next', new Date(Date.now() + 60_000))).toBe(true);
  expect(await validate(here, rotated)).toBe(null);
  expect(await validate(here, { token: 'next' })).toMatchObject({ id: rotated.id });
  await rename(changed);
  expect(await addon.invalidateUserSessions(changed.userId)).toBe(1);
  expect(await validate(here, changed)).toMatchObject({ firstName: 'Grace' });
});

test('revocations of another process are heard', async () => {
  const other = await spawnWorker();
  const session = await local(here, database);
  await untilListening(database, here);
  expect(await other.call('revokeSessionWithCache', session.id)).toBe(true);
  await untilAnswer(here, session, null, { deadlineMs: 4000 });
});

describe('with triggers', () => {
  test('an answer lives longer, as long as the listener hears, and deletions by anyone are heard', async () => {
    await addon.installTriggers();
    const session = await local(here, database);
    // Longer than a copy that nobody watches over may live.
    await steady(session, 6500);
    await database.query('DELETE FROM platform.user_sessions WHERE id = $1', [session.id]);
    await untilAnswer(here, session, null);
  });

  test('that are disabled an answer is 5 s old at most', async () => {
    await addon.installTriggers();
    await database.query('ALTER TABLE platform.users DISABLE TRIGGER USER');
    await database.query('ALTER TABLE platform.user_sessions DISABLE TRIGGER USER');
    await addon.shutdown();
    const session = await database.createSession();
    const begun = performance.now();
    await untilLocal(here, session);
    await untilListening(database, here);
    const ages = await agesOfOldAnswers(session, begun);
    expect(Math.max(...ages)).toBeLessThan(5500);
  });
});

test.each([
  ['localEnabled', { localEnabled: false }],
  ['enabled', { enabled: false }],
])('%s: false leaves Postgres alone', async (_, options) => {
  const session = await local(here, database);
  addon.configureSessionCache(options);
  for (let call = 0; call < 3; call += 1) expect(await from(here, session)).toBe('postgres');
  expect((await metrics(here)).localEntries).toBe(0);
});
