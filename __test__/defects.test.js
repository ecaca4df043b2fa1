'use strict';

// What is wrong with Studio's database is found, said once with the cure, and never answered with "nobody".

const { randomUUID } = require('node:crypto');
const { Database } = require('./helpers/database.js');
const { startPostgres } = require('./helpers/servers.js');
const { spawnWorker } = require('./helpers/process.js');

const ID = '00000000-0000-4000-8000-000000000000';
const inAnHour = () => new Date(Date.now() + 3_600_000);

let postgres;
const opened = [];

beforeAll(async () => {
  postgres = await startPostgres();
});

afterAll(() => Promise.all(opened.map((database) => database.end())));

/** A database of its own, as its owner, who may do everything, sees it. */
async function openDatabase(options) {
  const database = new Database(await postgres.createDatabase(options));
  opened.push(database);
  return database;
}

/** A role that may read and write the tables, with `attributes`; the URL by which it reaches the same database. */
async function createRole(database, attributes = '') {
  const role = `app_${randomUUID().slice(0, 8)}`;
  await database.query(`CREATE ROLE ${role} LOGIN ${attributes}`);
  await database.query(`GRANT USAGE ON SCHEMA platform TO ${role}`);
  await database.query(`GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA platform TO ${role}`);
  const url = new URL(database.url);
  url.username = role;
  return { role, url: url.href };
}

/** The addon in a process that has not seen this database yet. */
const openAddon = (url) => spawnWorker(undefined, { DATABASE_URL: url, REDIS_KEY_PREFIX: `defects:${randomUUID()}:` });

/** Lets the process end, and gives what it logged. */
async function logOf(worker) {
  await worker.call('shutdown');
  expect(await worker.release()).toEqual({ code: 0, signal: null });
  return worker.stderr.split('\n').filter(Boolean).map((line) => JSON.parse(line));
}

/** One of each call that asks Postgres. */
const calls = ({ id, token, userId }) => [
  ['validateSessionWithCache', token],
  ['validateSession', token],
  ['revokeSessionWithCache', id],
  ['revokeSessionWithCache', id, token],
  ['revokeSessionByToken', token],
  ['revokeAllUserSessionsWithCache', userId],
  ['revokeOtherSessions', userId, ID],
  ['rotateSession', token, randomUUID(), inAnHour()],
  ['invalidateUserSessions', userId],
];

const unknown = { id: ID, token: 'unknown', userId: ID };

/** Every call rejects with ERR_SESSION_STORE and all of `texts`, and nothing happens to the session. */
async function expectRefusals(database, worker, session, texts) {
  for (const who of [session, unknown]) {
    for (const call of calls(who)) {
      const error = await worker.call(...call).then((value) => ({ call, value }), (reason) => reason);
      expect(error).toMatchObject({ code: 'ERR_SESSION_STORE' });
      for (const text of texts) expect(error.message).toContain(text);
    }
  }
  expect(await database.sessionExists(session.id)).toBe(true);
}

test('a sound database gives no cause for a word', async () => {
  const database = await openDatabase();
  const session = await database.createSession();
  const worker = await openAddon(database.url);
  expect(await worker.call('validateSessionWithCache', session.token)).toMatchObject({ id: session.id });
  expect(await worker.call('rotateSession', session.token, 'next', inAnHour())).toBe(true);
  expect(await logOf(worker)).toEqual([]);
});

describe('the trigger that breaks every update', () => {
  test('all but rotateSession work, and the log says once how to cure it', async () => {
    const database = await openDatabase({ defects: true });
    const worker = await openAddon(database.url);
    const sessions = await Promise.all(Array.from({ length: 5 }, () => database.createSession()));
    const user = await database.createUser();
    const [kept] = [await database.createSession({ user }), await database.createSession({ user })];
    for (const { id, token } of [...sessions, kept]) {
      expect(await worker.call('validateSessionWithCache', token)).toMatchObject({ id });
      expect(await worker.call('validateSession', token)).toMatchObject({ id });
    }
    expect(await worker.call('invalidateUserSessions', sessions[0].userId)).toBe(1);
    expect(await worker.call('revokeSessionWithCache', sessions[0].id)).toBe(true);
    expect(await worker.call('revokeSessionWithCache', sessions[1].id, sessions[1].token)).toBe(true);
    expect(await worker.call('revokeSessionByToken', sessions[2].token)).toBe(true);
    expect(await worker.call('revokeAllUserSessionsWithCache', sessions[3].userId)).toBe(1);
    expect(await worker.call('revokeOtherSessions', user.id, kept.id)).toBe(1);
    for (const { token } of sessions.slice(0, 4)) expect(await worker.call('validateSessionWithCache', token)).toBe(null);

    const { id, token } = sessions[4];
    await expect(worker.call('rotateSession', token, 'next', inAnHour())).rejects.toMatchObject({
      code: 'ERR_SESSION_STORE',
      message: expect.stringMatching(/trigger/i),
    });
    expect(await worker.call('validateSessionWithCache', token)).toMatchObject({ id });
    expect(await worker.call('validateSessionWithCache', 'next')).toBe(null);

    const findings = (await logOf(worker)).filter(({ message }) => message.includes('update_user_sessions_activity'));
    expect(findings).toMatchObject([{ level: 'WARN', message: expect.stringContaining('DROP TRIGGER') }]);
  });

  test('after the cure of the log, rotateSession works', async () => {
    const database = await openDatabase({ defects: true });
    const worker = await openAddon(database.url);
    const { id, token } = await database.createSession();
    await expect(worker.call('rotateSession', token, 'next', inAnHour())).rejects.toMatchObject({ code: 'ERR_SESSION_STORE' });
    const [cure] = worker.stderr.match(/DROP TRIGGER .*? ON platform\.user_sessions/);
    await database.query(cure.replaceAll('\\"', '"'));
    expect(await worker.call('rotateSession', token, 'next', inAnHour())).toBe(true);
    expect(await worker.call('validateSessionWithCache', 'next')).toMatchObject({ id });
  });
});

describe('row-level security', () => {
  test('hides rows from a role: refused with role and cure, never "nobody"', async () => {
    const database = await openDatabase({ defects: true });
    const session = await database.createSession();
    const { role, url } = await createRole(database);
    const worker = await openAddon(url);
    await expectRefusals(database, worker, session, [role, 'platform.user_sessions', `ALTER ROLE "${role}" BYPASSRLS`]);
    await database.query(`ALTER ROLE ${role} BYPASSRLS`);
    await worker.call('shutdown');
    expect(await worker.call('validateSessionWithCache', session.token)).toMatchObject({ id: session.id });
    expect(await worker.call('validateSessionWithCache', 'unknown')).toBe(null);
  });

  test('is logged once, with the cure', async () => {
    const database = await openDatabase({ defects: true });
    const { role, url } = await createRole(database);
    const worker = await openAddon(url);
    for (let call = 0; call < 20; call += 1) {
      await expect(worker.call('validateSessionWithCache', `token ${call}`)).rejects.toMatchObject({ code: 'ERR_SESSION_STORE' });
    }
    const findings = (await logOf(worker)).filter(({ message }) => message.includes('Row-level security'));
    expect(findings).toMatchObject([{ level: 'ERROR', message: expect.stringContaining(`ALTER ROLE "${role}" BYPASSRLS`) }]);
  });

  test.each([
    ['the owner of the tables', async (database) => {
      const { role, url } = await createRole(database);
      for (const table of ['users', 'user_sessions']) await database.query(`ALTER TABLE platform.${table} OWNER TO ${role}`);
      return url;
    }],
    ['a superuser', async (database) => database.url],
    ['a role that bypasses it', async (database) => (await createRole(database, 'BYPASSRLS')).url],
  ])('does not concern %s', async (_, urlOf) => {
    const database = await openDatabase({ defects: true });
    const session = await database.createSession();
    const worker = await openAddon(await urlOf(database));
    expect(await worker.call('validateSessionWithCache', session.token)).toMatchObject({ id: session.id });
    expect(await worker.call('validateSessionWithCache', 'unknown')).toBe(null);
    expect(await worker.call('revokeSessionByToken', session.token)).toBe(true);
    expect((await logOf(worker)).filter(({ message }) => message.includes('Row-level security'))).toEqual([]);
  });

  test('that is forced upon the owner is found too', async () => {
    const database = await openDatabase({ defects: true });
    const session = await database.createSession();
    const { role, url } = await createRole(database);
    await database.query(`ALTER TABLE platform.user_sessions OWNER TO ${role}`);
    await database.query('ALTER TABLE platform.user_sessions FORCE ROW LEVEL SECURITY');
    await expectRefusals(database, await openAddon(url), session, [role, 'platform.user_sessions']);
  });

  test('on the users hides sessions as well', async () => {
    const database = await openDatabase();
    await database.query('ALTER TABLE platform.users ENABLE ROW LEVEL SECURITY');
    const { token } = await database.createSession();
    const { role, url } = await createRole(database);
    const worker = await openAddon(url);
    for (const asked of [token, 'unknown']) {
      await expect(worker.call('validateSessionWithCache', asked)).rejects.toMatchObject({
        code: 'ERR_SESSION_STORE',
        message: expect.stringMatching(new RegExp(`platform\\.users.*${role}`)),
      });
    }
  });
});

test.each([
  ['a column of the sessions', 'ALTER TABLE platform.user_sessions DROP COLUMN user_agent', 'platform.user_sessions.user_agent'],
  ['a column of the users', 'ALTER TABLE platform.users DROP COLUMN banned_until', 'platform.users.banned_until'],
  ['a table', 'ALTER TABLE platform.user_sessions RENAME TO other', 'platform.user_sessions'],
  ['the schema', 'ALTER SCHEMA platform RENAME TO other', 'platform.user_sessions'],
])('without %s: refused by name, logged once', async (_, damage, name) => {
  const database = await openDatabase();
  const session = await database.createSession();
  await database.query(damage);
  const worker = await openAddon(database.url);
  for (const call of [...calls(session), ...calls(unknown)]) {
    await expect(worker.call(...call)).rejects.toMatchObject({ code: 'ERR_SESSION_STORE', message: expect.stringContaining(name) });
  }
  const findings = (await logOf(worker)).filter(({ message }) => message.includes(name));
  expect(findings).toMatchObject([{ level: 'ERROR' }]);
});

test('a role without privileges is told so, and never that nobody is logged in', async () => {
  const database = await openDatabase();
  const session = await database.createSession();
  const { role, url } = await createRole(database);
  await database.query(`REVOKE ALL ON ALL TABLES IN SCHEMA platform FROM ${role}`);
  await expectRefusals(database, await openAddon(url), session, []);
});
