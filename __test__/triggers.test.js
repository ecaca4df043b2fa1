'use strict';

// Installing and removing the triggers by which every process hears of writes by anyone.

const { randomUUID } = require('node:crypto');
const { existsSync, readFileSync } = require('node:fs');
const path = require('node:path');
const { Database } = require('./helpers/database.js');
const { addon } = require('./fixtures/sessions/steps.js');
const { startPostgres, freePort } = require('./helpers/servers.js');
const { spawnWorker } = require('./helpers/process.js');
const { withEnvironment, rejection } = require('./fixtures/functional/environment.js');

const FILE = path.join(__dirname, '..', 'sql', 'session_events.sql');
const SECRET = 'hunter2-owner';

let postgres;
let database;

beforeAll(async () => {
  postgres = await startPostgres();
  addon.setLogHandler(() => {});
});

/** Every test has a database of its own. */
beforeEach(async () => {
  process.env.DATABASE_URL = await postgres.createDatabase();
  database = new Database(process.env.DATABASE_URL);
});

afterEach(async () => {
  await addon.shutdown();
  await database.end();
});

/** What stands in the database beside its tables: triggers and functions, as text. */
async function installed() {
  const rows = await database.query(
    `SELECT 'trigger ' || tgrelid::regclass || ' ' || tgname || ' ' || tgenabled::text || ' ' || pg_get_triggerdef(oid) AS what
     FROM pg_trigger WHERE NOT tgisinternal
     UNION ALL SELECT 'function ' || oid::regprocedure || ' ' || prosrc FROM pg_proc
     WHERE pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) ORDER BY 1`,
  );
  return rows.map(({ what }) => what);
}

describe.each(['installTriggers', 'uninstallTriggers'])('%s', (name) => {
  test.each([
    ['null', null, 'options'],
    ['an array', [], 'options'],
    ['a boolean', true, 'options'],
    ['a string', 'dryRun', 'options'],
    ['an unknown option', { dry: true }, "'dry'"],
    ['dryRun: 1', { dryRun: 1 }, 'options.dryRun'],
    ["dryRun: 'true'", { dryRun: 'true' }, 'options.dryRun'],
    ['dryRun: null', { dryRun: null }, 'options.dryRun'],
  ])('%s is refused, and nothing is executed', async (_, options, text) => {
    const error = await rejection(() => addon[name](options));
    expect(error).toBeInstanceOf(TypeError);
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringContaining(text) });
    expect(await installed()).toEqual([]);
  });

  test('without DATABASE_URL', async () => {
    await withEnvironment({ DATABASE_URL: undefined }, async () => {
      const error = await rejection(() => addon[name]());
      expect(error).toMatchObject({ code: 'ERR_NOT_CONFIGURED', message: expect.stringContaining('DATABASE_URL') });
    });
  });

  test('without Postgres', async () => {
    await withEnvironment({ DATABASE_URL: `postgres://postgres:${SECRET}@127.0.0.1:${await freePort()}/x` }, async () => {
      const error = await rejection(() => addon[name]());
      expect(error).toMatchObject({ code: 'ERR_SESSION_STORE' });
      expect(JSON.stringify([error.message, error.stack, error, error.cause?.message])).not.toContain(SECRET);
    });
  });

  test('without the tables', async () => {
    await withEnvironment({ DATABASE_URL: await postgres.createDatabase({ schema: false }) }, async () => {
      // There is nothing to remove, which is what the caller wants; but there is nothing to install it on.
      if (name === 'uninstallTriggers') return addon[name]();
      const error = await rejection(() => addon[name]());
      expect(error).toMatchObject({ code: 'ERR_SESSION_STORE', message: expect.stringContaining('platform') });
    });
  });

  test('a role that does not own the tables is told who could, and nothing happens', async () => {
    if (name === 'uninstallTriggers') await addon.installTriggers();
    const before = await installed();
    const role = `app_${randomUUID().slice(0, 8)}`;
    await database.query(`CREATE ROLE ${role} LOGIN PASSWORD '${SECRET}'`);
    await database.query(`GRANT USAGE ON SCHEMA platform TO ${role}`);
    await database.query(`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA platform TO ${role}`);
    const url = new URL(database.url);
    Object.assign(url, { username: role, password: SECRET });
    await withEnvironment({ DATABASE_URL: url.href }, async () => {
      const error = await rejection(() => addon[name]());
      expect(error).toMatchObject({ code: 'ERR_SESSION_STORE', message: expect.stringMatching(/own/i) });
      expect(error.message).toContain('platform.user_sessions');
      expect(JSON.stringify([error.message, error.cause?.message])).not.toContain(SECRET);
    });
    expect(await installed()).toEqual(before);
  });
});

describe('dryRun', () => {
  test('shows the SQL of the package and executes nothing', async () => {
    const sql = await addon.installTriggers({ dryRun: true });
    expect(sql).toContain('CREATE');
    expect(existsSync(FILE)).toBe(true);
    expect(sql).toBe(readFileSync(FILE, 'utf8'));
    expect(await addon.uninstallTriggers({ dryRun: true })).toContain('DROP');
    expect(await installed()).toEqual([]);
    await addon.installTriggers();
    const before = await installed();
    await addon.uninstallTriggers({ dryRun: true });
    expect(await installed()).toEqual(before);
  });

  test.each([[[]], [[undefined]], [[{}]], [[{ dryRun: undefined }]], [[{ dryRun: false }]]])('installTriggers(...%j) executes it', async (args) => {
    expect(await addon.installTriggers(...args)).toBe(await addon.installTriggers({ dryRun: true }));
    expect((await installed()).length).toBeGreaterThan(0);
  });
});

test('installing twice, and at once from two processes, leaves what installing once leaves', async () => {
  await addon.installTriggers();
  const once = await installed();
  for (const table of ['platform.users', 'platform.user_sessions']) {
    expect(once.some((what) => what.startsWith(`trigger ${table} `))).toBe(true);
  }
  await addon.installTriggers();
  expect(await installed()).toEqual(once);
  const other = await spawnWorker();
  for (let round = 0; round < 5; round += 1) {
    await Promise.all([addon.installTriggers(), other.call('installTriggers'), addon.installTriggers()]);
    expect(await installed()).toEqual(once);
  }
});

test('an administrator may execute the SQL', async () => {
  await database.query(await addon.installTriggers({ dryRun: true }));
  const byHand = await installed();
  await addon.uninstallTriggers();
  await addon.installTriggers();
  expect(await installed()).toEqual(byHand);
  await database.query(await addon.uninstallTriggers({ dryRun: true }));
  expect(await installed()).toEqual([]);
});

test('uninstalling removes everything that installing made, and nothing else; twice is as good as once', async () => {
  await database.query(`CREATE FUNCTION platform.mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'`);
  await database.query('CREATE TRIGGER mine BEFORE UPDATE ON platform.user_sessions FOR EACH ROW EXECUTE FUNCTION platform.mine()');
  const before = await installed();
  await addon.uninstallTriggers();
  expect(await installed()).toEqual(before);
  await addon.installTriggers();
  expect((await installed()).length).toBeGreaterThan(before.length);
  await addon.uninstallTriggers();
  expect(await installed()).toEqual(before);
  await addon.uninstallTriggers();
  expect(await installed()).toEqual(before);
});

test('disabled triggers are enabled by installing again', async () => {
  await addon.installTriggers();
  const before = await installed();
  await database.query('ALTER TABLE platform.user_sessions DISABLE TRIGGER USER');
  expect(await installed()).not.toEqual(before);
  await addon.installTriggers();
  expect(await installed()).toEqual(before);
});

test('writers need no rights beyond those of the tables', async () => {
  await addon.installTriggers();
  const session = await database.createSession();
  const role = `app_${randomUUID().slice(0, 8)}`;
  await database.query(`CREATE ROLE ${role} LOGIN`);
  await database.query(`GRANT USAGE ON SCHEMA platform TO ${role}`);
  await database.query(`GRANT SELECT, UPDATE, DELETE ON ALL TABLES IN SCHEMA platform TO ${role}`);
  const url = new URL(database.url);
  url.username = role;
  const theirs = new Database(url.href);
  await theirs.query('UPDATE platform.users SET first_name = $2 WHERE id = $1', [session.userId, 'Grace']);
  await theirs.query('DELETE FROM platform.user_sessions WHERE id = $1', [session.id]);
  await theirs.end();
  expect(await database.sessionExists(session.id)).toBe(false);
});
