'use strict';

// When a session was last active: not written per request, but soon, in one statement, and never backwards.

const { Database } = require('./helpers/database.js');
const { addon, here, validate, from, untilLocal } = require('./fixtures/sessions/steps.js');
const { startPostgres, until, sleep } = require('./helpers/servers.js');
const { spawnWorker } = require('./helpers/process.js');

const LONG_AGO = new Date('2020-01-01T00:00:00Z');
const RARELY = '300';

let postgres;
let database;
/** Warnings and errors of this process's log. */
const complaints = [];

beforeAll(async () => {
  process.env.REDIS_KEY_PREFIX = 'activity:';
  postgres = await startPostgres();
  process.env.DATABASE_URL = postgres.url;
  database = new Database(postgres.url);
  // Each UPDATE of the sessions leaves a line, whoever executes it: when, and which rows.
  await database.query(`
    CREATE TABLE public.updates (id serial, at timestamptz DEFAULT clock_timestamp(), rows uuid[]);
    CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS
      'BEGIN INSERT INTO public.updates (rows) SELECT coalesce(array_agg(id), ''{}'') FROM written; RETURN NULL; END';
    CREATE TRIGGER note AFTER UPDATE ON platform.user_sessions REFERENCING NEW TABLE AS written
      FOR EACH STATEMENT EXECUTE FUNCTION public.note();`);
  addon.setLogHandler((line) => {
    if (line.level === 'WARN' || line.level === 'ERROR') complaints.push(line);
  });
});

beforeEach(async () => {
  await addon.shutdown();
  process.env.SESSION_ACTIVITY_FLUSH_SECONDS = RARELY;
  await database.query('TRUNCATE public.updates');
});

afterEach(() => expect(complaints.splice(0)).toEqual([]));

afterAll(() => database.end());

const updates = () => database.query('SELECT rows FROM public.updates ORDER BY id');

async function lastActivity({ id }) {
  const [row] = await database.query('SELECT last_activity_at FROM platform.user_sessions WHERE id = $1', [id]);
  return row.last_activity_at;
}

/** The time is one between `begun` and `ended`; it travels as an age, so that a slow way makes it a little later. */
function expectBetween(time, begun, ended) {
  expect(time.getTime()).toBeGreaterThanOrEqual(begun - 50);
  expect(time.getTime()).toBeLessThanOrEqual(ended + 1000);
}

test('validations write nothing; shutdown() writes the newest time, once', async () => {
  const session = await database.createSession({ lastActivityAt: LONG_AGO });
  for (let call = 0; call < 200; call += 1) await validate(here, session);
  expect(await lastActivity(session)).toEqual(LONG_AGO);
  expect(await updates()).toEqual([]);
  await sleep(200);
  const begun = Date.now();
  await validate(here, session);
  const ended = Date.now();
  await sleep(1500);
  await addon.shutdown();
  expectBetween(await lastActivity(session), begun, ended);
  expect(await updates()).toEqual([{ rows: [session.id] }]);
});

test('hits in the process count, and are written by and by', async () => {
  process.env.SESSION_ACTIVITY_FLUSH_SECONDS = '1';
  const session = await database.createSession({ lastActivityAt: LONG_AGO });
  await untilLocal(here, session);
  await until(async () => (await lastActivity(session)) > LONG_AGO, { what: 'the first time', deadlineMs: 10_000 });
  for (let round = 0; round < 2; round += 1) {
    const former = await lastActivity(session);
    const begun = Date.now();
    expect(await from(here, session)).toBe('local');
    const ended = Date.now();
    await until(async () => (await lastActivity(session)) > former, { what: 'the time of a hit', deadlineMs: 10_000 });
    expectBetween(await lastActivity(session), begun, ended);
  }
});

test('what is not used is not written again', async () => {
  process.env.SESSION_ACTIVITY_FLUSH_SECONDS = '1';
  const session = await database.createSession({ lastActivityAt: LONG_AGO });
  await validate(here, session);
  await until(async () => (await updates()).length > 0, { what: 'the time', deadlineMs: 10_000 });
  const count = (await updates()).length;
  await sleep(2500);
  expect((await updates()).length).toBe(count);
});

test('hundreds of sessions are one statement', async () => {
  const sessions = await database.createSessions(300);
  for (let round = 0; round < 3; round += 1) {
    await Promise.all(sessions.map((session) => validate(here, session)));
    await sleep(20);
  }
  await addon.shutdown();
  const written = await updates();
  expect(written).toHaveLength(1);
  expect([...written[0].rows].sort()).toEqual(sessions.map(({ id }) => id).sort());
});

test('a thousand validations cost at most one statement', async () => {
  process.env.SESSION_ACTIVITY_FLUSH_SECONDS = RARELY;
  const sessions = await database.createSessions(50);
  for (let round = 0; round < 20; round += 1) await Promise.all(sessions.map((session) => validate(here, session)));
  await addon.shutdown();
  expect(await updates()).toHaveLength(1);
});

test('a time never moves backwards', async () => {
  const [session, other] = [await database.createSession(), await database.createSession({ lastActivityAt: LONG_AGO })];
  await validate(here, session);
  await validate(here, other);
  const later = new Date(Date.now() + 3_600_000);
  await database.query('UPDATE platform.user_sessions SET last_activity_at = $2 WHERE id = $1', [session.id, later]);
  await addon.shutdown();
  expect(await lastActivity(session)).toEqual(later);
  expect((await lastActivity(other)) > LONG_AGO).toBe(true);
});

test('a session that never was active gets a time', async () => {
  const session = await database.createSession();
  await database.query('UPDATE platform.user_sessions SET last_activity_at = NULL WHERE id = $1', [session.id]);
  expect(await validate(here, session)).toMatchObject({ id: session.id });
  const begun = Date.now();
  await validate(here, session);
  await addon.shutdown();
  expect((await lastActivity(session)).getTime()).toBeGreaterThan(begun - 60_000);
});

test.each([
  ['validateSession', (session) => addon.validateSession(session.token)],
  ['invalidateSessionCache', (session) => addon.invalidateSessionCache(session.token)],
  ['getUserSessions', (session) => addon.getUserSessions(session.userId)],
])('%s is no activity', async (_, call) => {
  const session = await database.createSession({ lastActivityAt: LONG_AGO });
  await call(session);
  await addon.shutdown();
  expect(await lastActivity(session)).toEqual(LONG_AGO);
  expect(await updates()).toEqual([]);
});

test('nobody and those who have ended are no obstacle for the others', async () => {
  const sessions = await Promise.all(Array.from({ length: 4 }, () => database.createSession({ lastActivityAt: LONG_AGO })));
  for (const session of sessions) await validate(here, session);
  await validate(here, { token: 'unknown' });
  await addon.revokeSessionWithCache(sessions[0].id);
  await database.query('DELETE FROM platform.user_sessions WHERE id = $1', [sessions[1].id]);
  await addon.shutdown();
  for (const session of sessions.slice(2)) expect((await lastActivity(session)) > LONG_AGO).toBe(true);
});

test('a write of activity keeps the copies of all, also where the triggers are', async () => {
  process.env.SESSION_ACTIVITY_FLUSH_SECONDS = '1';
  await addon.installTriggers();
  try {
    const session = await database.createSession({ lastActivityAt: LONG_AGO });
    await untilLocal(here, session);
    await until(async () => (await lastActivity(session)) > LONG_AGO, { what: 'the time', deadlineMs: 10_000 });
    expect(await from(here, session)).toBe('local');
  } finally {
    await addon.uninstallTriggers();
  }
});

test('two processes that write the same sessions do not block each other for good', async () => {
  process.env.SESSION_ACTIVITY_FLUSH_SECONDS = '1';
  const sessions = await database.createSessions(400);
  const workers = await Promise.all([spawnWorker(), spawnWorker(), spawnWorker()]);
  const end = Date.now() + 5000;
  await Promise.all(
    workers.map(async (worker, index) => {
      const mine = index % 2 ? sessions : [...sessions].reverse();
      while (Date.now() < end) {
        await Promise.all(mine.map((session) => validate(worker, session)));
        await sleep(100);
      }
    }),
  );
  for (const worker of workers) {
    await worker.call('shutdown');
    expect(await worker.release()).toEqual({ code: 0, signal: null });
    expect(worker.stderr).toBe('');
  }
  expect(postgres.log).not.toMatch(/deadlock/);
});
