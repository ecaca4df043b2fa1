'use strict';

// Activity that cannot be written now, or not at all.

const { readFileSync } = require('node:fs');
const path = require('node:path');
const { Database } = require('./helpers/database.js');
const { addon, here, local, validate, logOf } = require('./fixtures/sessions/steps.js');
const { startPostgres, startProxy, until, sleep } = require('./helpers/servers.js');
const { spawnWorker } = require('./helpers/process.js');

const CURE = path.join(__dirname, '..', 'sql', 'fix_activity_trigger.sql');
const LONG_AGO = new Date('2020-01-01T00:00:00Z');

let postgres;

beforeAll(async () => {
  process.env.REDIS_KEY_PREFIX = 'activity-faults:';
  process.env.SESSION_ACTIVITY_FLUSH_SECONDS = '1';
  postgres = await startPostgres();
  addon.setLogHandler(() => {});
});

const opened = [];

afterAll(() => Promise.all(opened.map((database) => database.end())));

async function openDatabase(options) {
  const database = new Database(await postgres.createDatabase(options));
  opened.push(database);
  return database;
}

async function lastActivity(database, { id }) {
  const [row] = await database.query('SELECT last_activity_at FROM platform.user_sessions WHERE id = $1', [id]);
  return row.last_activity_at;
}

const written = (database, session, options) =>
  until(async () => (await lastActivity(database, session)) > LONG_AGO, { what: 'the time', deadlineMs: 20_000, ...options });

describe('Postgres away', () => {
  let proxy;
  let database;

  beforeEach(async () => {
    await addon.shutdown();
    database = await openDatabase();
    proxy = await startProxy(postgres.port);
    process.env.DATABASE_URL = database.url.replace(`:${postgres.port}/`, `:${proxy.port}/`);
  });

  test('at the time of the flush: the time is kept, and written later as it was', async () => {
    const session = await database.createSession({ lastActivityAt: LONG_AGO });
    const begun = Date.now();
    await validate(here, session);
    const ended = Date.now();
    await proxy.cut();
    // Two times of writing pass, in vain.
    await sleep(2500);
    expect(await lastActivity(database, session)).toEqual(LONG_AGO);
    await proxy.restore();
    await written(database, session, { deadlineMs: 60_000 });
    const time = await lastActivity(database, session);
    expect(time.getTime()).toBeGreaterThanOrEqual(begun - 50);
    expect(time.getTime()).toBeLessThanOrEqual(ended + 1000);
  }, 90_000);

  test('at shutdown(): it ends in its time all the same', async () => {
    const session = await database.createSession({ lastActivityAt: LONG_AGO });
    await validate(here, session);
    await proxy.cut();
    const begun = performance.now();
    await addon.shutdown(1000);
    expect(performance.now() - begun).toBeLessThan(4000);
  });

  test('silent, at the time of the flush: validations go on, and the time is written later', async () => {
    const session = await local(here, database, { lastActivityAt: LONG_AGO });
    proxy.freeze();
    try {
      await sleep(2500);
      // Not out of the process, once the listener is silent as well: but Redis has a copy.
      expect(await validate(here, session)).toMatchObject({ id: session.id });
    } finally {
      proxy.thaw();
    }
    await written(database, session, { deadlineMs: 60_000 });
  }, 90_000);
});

describe("the trigger of Studio's schema that makes every update fail", () => {
  const openAddon = (database) => spawnWorker(undefined, { DATABASE_URL: database.url });

  async function endOf(worker) {
    await worker.call('shutdown');
    expect(await worker.release()).toEqual({ code: 0, signal: null });
    return logOf(worker);
  }

  test('validations work, the log says once how to cure it, and nothing is tried in vain', async () => {
    const database = await openDatabase({ defects: true });
    const sessions = await database.createSessions(20);
    const worker = await openAddon(database);
    const before = postgres.log.length;
    for (let round = 0; round < 8; round += 1) {
      for (const session of sessions) expect(await validate(worker, session)).toMatchObject({ id: session.id });
      await sleep(500);
    }
    const log = await endOf(worker);
    const said = log.filter(({ message }) => message.includes('fix_activity_trigger.sql'));
    expect(said).toMatchObject([{ level: 'WARN', message: expect.stringContaining('sql/fix_activity_trigger.sql') }]);
    expect(log.filter(({ level }) => level === 'ERROR')).toEqual([]);
    const failures = postgres.log.slice(before).match(/ERROR: .*updated_at/g) ?? [];
    expect(failures.length).toBeLessThanOrEqual(1);
  });

  test('cleanupInactiveSessions refuses: it would delete sessions that are in use', async () => {
    const database = await openDatabase({ defects: true });
    const session = await database.createSession({ lastActivityAt: LONG_AGO });
    const worker = await openAddon(database);
    for (let call = 0; call < 2; call += 1) {
      await expect(worker.call('cleanupInactiveSessions', 30)).rejects.toMatchObject({
        code: 'ERR_SESSION_STORE',
        message: expect.stringContaining('fix_activity_trigger.sql'),
      });
    }
    expect(await worker.call('validateSessionWithCache', session.token)).toMatchObject({ id: session.id });
    await expect(worker.call('cleanupInactiveSessions')).rejects.toMatchObject({ code: 'ERR_SESSION_STORE' });
    expect(await database.sessionExists(session.id)).toBe(true);
    await database.createSession({ expiresInSeconds: -5 });
    expect(await worker.call('cleanupExpiredSessions')).toBe(1);
  });

  test('once cured, activity is written after a new start', async () => {
    const database = await openDatabase({ defects: true });
    const session = await database.createSession({ lastActivityAt: LONG_AGO });
    const worker = await openAddon(database);
    await validate(worker, session);
    await worker.call('shutdown');
    await database.query(readFileSync(CURE, 'utf8'));
    await validate(worker, session);
    await written(database, session);
    await database.query("UPDATE platform.user_sessions SET last_activity_at = now() - interval '40 days'");
    expect(await worker.call('cleanupInactiveSessions', 30)).toBe(1);
    expect(await validate(worker, session)).toBe(null);
  });

  test('once cured, it is noticed without a restart', async () => {
    const database = await openDatabase({ defects: true });
    const session = await database.createSession({ lastActivityAt: LONG_AGO });
    const worker = await openAddon(database);
    await validate(worker, session);
    await expect(worker.call('cleanupInactiveSessions')).rejects.toMatchObject({ code: 'ERR_SESSION_STORE' });
    await database.query(readFileSync(CURE, 'utf8'));
    await until(
      async () => {
        expect(await validate(worker, session)).toMatchObject({ id: session.id });
        return (await lastActivity(database, session)) > LONG_AGO;
      },
      { what: 'a written time', deadlineMs: 90_000, everyMs: 500 },
    );
    expect(await worker.call('cleanupInactiveSessions')).toBe(0);
  }, 120_000);

  test('the cure may be executed twice, and where there is nothing to cure', async () => {
    const sql = readFileSync(CURE, 'utf8');
    for (const defects of [true, false]) {
      const database = await openDatabase({ defects });
      await database.query(sql);
      await database.query(sql);
      const { id } = await database.createSession();
      await database.query('UPDATE platform.user_sessions SET last_activity_at = now() WHERE id = $1', [id]);
    }
  });
});
