'use strict';

// Triggers that are switched off, and a listener that did not hear.

const { Database } = require('./helpers/database.js');
const { addon, here, validate, from, local, untilLocal, untilAnswer, logOf } = require('./fixtures/sessions/steps.js');
const { untilListening, endListener, silence } = require('./fixtures/sessions/servers.js');
const { startPostgres, startProxy, until } = require('./helpers/servers.js');
const { spawnWorker } = require('./helpers/process.js');

let postgres;
let database;
/** Before Postgres, for all processes of this file. */
let proxy;

beforeAll(async () => {
  process.env.REDIS_KEY_PREFIX = 'triggers-faults:';
  postgres = await startPostgres();
  database = new Database(postgres.url);
  proxy = await startProxy(postgres.port);
  process.env.DATABASE_URL = postgres.url.replace(`:${postgres.port}/`, `:${proxy.port}/`);
  addon.setLogHandler(() => {});
});

beforeEach(async () => {
  await addon.installTriggers();
});

afterAll(() => database.end());

const deleteRow = ({ id }) => database.query('DELETE FROM platform.user_sessions WHERE id = $1', [id]);

/** The server process of this process's listener, or undefined. */
async function listenerPid() {
  const name = `studio-redis-native:${process.pid}:listener`;
  const [row] = await database.query('SELECT pid FROM pg_stat_activity WHERE application_name = $1', [name]);
  return row?.pid;
}

/** What a new process logs of the triggers, by the time it has served and ended. */
async function warnings() {
  const worker = await spawnWorker();
  const { token, id } = await database.createSession();
  for (let call = 0; call < 5; call += 1) {
    expect(await worker.call('validateSessionWithCache', token)).toMatchObject({ id });
  }
  await untilListening(database, worker);
  await worker.call('shutdown');
  expect(await worker.release()).toEqual({ code: 0, signal: null });
  return logOf(worker).filter(({ message }) => /trigger/i.test(message));
}

test('triggers that are in order, and none at all, give no cause for a word', async () => {
  expect(await warnings()).toEqual([]);
  await addon.uninstallTriggers();
  expect(await warnings()).toEqual([]);
});

test.each([
  ['of the sessions', ['user_sessions']],
  ['of the users', ['users']],
  ['of both tables', ['users', 'user_sessions']],
])('triggers %s that are disabled: one warning with the cure', async (_, tables) => {
  for (const table of tables) await database.query(`ALTER TABLE platform.${table} DISABLE TRIGGER USER`);
  const said = await warnings();
  expect(said).toMatchObject([{ level: 'WARN', message: expect.stringMatching(/triggers.*enabled/) }]);
  expect(JSON.stringify(said)).toMatch(/installTriggers/);
});

describe('a listener', () => {
  test('that is ended while a row is deleted: what it may have missed is not believed', async () => {
    for (let round = 0; round < 5; round += 1) {
      const session = await local(here, database);
      await untilListening(database, here);
      // The notification is lost on the way, as if it had come in the gap.
      const speak = silence(proxy, session.hash);
      const former = await listenerPid();
      await deleteRow(session);
      await endListener(database, here);
      await until(async () => ![undefined, former].includes(await listenerPid()), { what: 'the next listener' });
      await untilListening(database, here);
      speak();
      await untilAnswer(here, session, null, { deadlineMs: 10_000 });
      for (let call = 0; call < 20; call += 1) expect(await validate(here, session)).toBe(null);
    }
  });

  test('that was away for a while believes neither its own copies nor those of Redis', async () => {
    const session = await local(here, database);
    await proxy.cut();
    await deleteRow(session);
    await proxy.restore();
    await untilAnswer(here, session, null, { deadlineMs: 20_000 });
  });

  test('that is back lets sessions be held again', async () => {
    const session = await local(here, database);
    await endListener(database, here);
    await untilListening(database, here);
    await untilLocal(here, session);
    await deleteRow(session);
    await untilAnswer(here, session, null);
  });

  test('that is connected but deaf is found out', async () => {
    const session = await local(here, database);
    await untilListening(database, here);
    const speak = silence(proxy);
    try {
      await deleteRow(session);
      await untilAnswer(here, session, null, { deadlineMs: 15_000 });
    } finally {
      speak();
    }
    const next = await database.createSession();
    await until(async () => (await from(here, next)) === 'local', { what: 'the tier again', deadlineMs: 30_000, everyMs: 50 });
  });
});
