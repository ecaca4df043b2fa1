'use strict';

// With the triggers installed, whatever anybody writes to the tables is known in every process; and what does not
// matter leaves the copies where they are.

const { randomUUID } = require('node:crypto');
const { Database, hashOf } = require('./helpers/database.js');
const { addon, here, validate, from, untilLocal, untilAnswer } = require('./fixtures/sessions/steps.js');
const { untilListening } = require('./fixtures/sessions/servers.js');
const { startPostgres, until } = require('./helpers/servers.js');
const { spawnWorker } = require('./helpers/process.js');

let database;
let other;

beforeAll(async () => {
  process.env.REDIS_KEY_PREFIX = 'triggers-writes:';
  process.env.DATABASE_URL = (await startPostgres()).url;
  database = new Database();
  await addon.installTriggers();
  other = await spawnWorker();
  await validate(here, { token: 'first' });
  await validate(other, { token: 'first' });
  await untilListening(database, here);
  await untilListening(database, other);
  // What both hear from now on is all there is to hear.
  await heard();
});

afterAll(() => database.end());

const both = (work) => Promise.all([work(here), work(other)]);

/** A session that both processes hold. */
async function held(options) {
  const session = await database.createSession(options);
  await both((one) => untilLocal(one, session));
  return session;
}

/** Both processes have heard of everything that was committed before this call. */
async function heard() {
  const session = await database.createSession();
  await both((one) => until(() => from(one, session).then((who) => who === 'local'), { what: 'the tier', everyMs: 5 }));
  await database.query("UPDATE platform.users SET first_name = 'Heard' WHERE id = $1", [session.userId]);
  await both((one) => untilAnswer(one, session, { firstName: 'Heard' }));
}

const ofSession = (text) => (session, ...values) => database.query(text, [session.id, ...values]);
const ofUser = (text) => (session, ...values) => database.query(text, [session.userId, ...values]);
const setSession = (text) => ofSession(`UPDATE platform.user_sessions SET ${text} WHERE id = $1`);
const setUser = (text) => ofUser(`UPDATE platform.users SET ${text} WHERE id = $1`);

test.each([
  ['DELETE', ofSession('DELETE FROM platform.user_sessions WHERE id = $1'), null],
  ['DELETE by user', ofUser('DELETE FROM platform.user_sessions WHERE user_id = $1'), null],
  ['DELETE of the user', ofUser('DELETE FROM platform.users WHERE id = $1'), null],
  ['an end in the past', setSession("expires_at = now() - interval '1 second'"), null],
  ['another end', setSession("expires_at = '2100-01-01T00:00:00Z'"), { expiresAt: '2100-01-01T00:00:00.000Z' }],
  ['another token', setSession("token = repeat('0', 56) || left(md5(random()::text), 8)"), null],
  ['another email', setUser("email = 'new-' || email"), (session) => ({ email: `new-${session.user.email}` })],
  ['another first name', setUser("first_name = 'Grace'"), { firstName: 'Grace' }],
  ['no first name', setUser('first_name = NULL'), { firstName: null }],
  ['another last name', setUser("last_name = 'Hopper'"), { lastName: 'Hopper' }],
  ['another username', setUser("username = 'new-' || username"), (session) => ({ username: `new-${session.user.username}` })],
  ['a ban', setUser("banned_until = 'infinity'"), null],
  ['a deletion mark', setUser('deleted_at = now()'), null],
  ['several columns at once', setUser("first_name = 'Grace', metadata = '{}', updated_at = now()"), { firstName: 'Grace' }],
])('%s reaches both processes, and nobody else is touched', async (_, write, expected) => {
  const [session, bystander] = [await held(), await held()];
  await write(session);
  const shape = typeof expected === 'function' ? expected(session) : expected;
  await both((one) => untilAnswer(one, session, shape));
  await heard();
  await both(async (one) => expect(await from(one, bystander)).toBe('local'));
});

test('another user of a session', async () => {
  const [session, user] = [await held(), await database.createUser({ firstName: 'Grace' })];
  await setSession('user_id = $2')(session, user.id);
  await both((one) => untilAnswer(one, session, { userId: user.id, firstName: 'Grace' }));
});

test('a changed user in all sessions of theirs', async () => {
  const user = await database.createUser();
  const sessions = [await held({ user }), await held({ user }), await held({ user })];
  await setUser("last_name = 'Hopper'")(sessions[0]);
  for (const session of sessions) await both((one) => untilAnswer(one, session, { lastName: 'Hopper' }));
});

test('a ban that is lifted', async () => {
  const session = await held();
  await database.banUser(session.userId);
  await both((one) => untilAnswer(one, session, null));
  await database.banUser(session.userId, null);
  await both((one) => untilAnswer(one, session, { id: session.id }, { deadlineMs: 15_000 }));
});

test('the new token of a session is heard too: it was asked for before', async () => {
  const [session, next] = [await held(), { token: randomUUID() }];
  await both(async (one) => expect(await validate(one, next)).toBe(null));
  await both(async (one) => expect(await from(one, next)).toBe('nobody'));
  await setSession('token = $2')(session, hashOf(next.token));
  await both((one) => untilAnswer(one, next, { id: session.id }, { deadlineMs: 2000 }));
  await both((one) => untilAnswer(one, session, null));
});

test.each([
  ['TRUNCATE of the sessions', 'TRUNCATE platform.user_sessions'],
  ['TRUNCATE of the users', 'TRUNCATE platform.users CASCADE'],
  ['DELETE of everything', 'DELETE FROM platform.users'],
])('%s', async (_, statement) => {
  const sessions = [await held(), await held(), await held()];
  await database.query(statement);
  for (const session of sessions) await both((one) => untilAnswer(one, session, null));
});

test.each([
  ['deleted', 'DELETE FROM platform.user_sessions WHERE id = ANY($1)', null],
  ['renamed', "UPDATE platform.users SET first_name = 'Grace' WHERE id IN (SELECT user_id FROM platform.user_sessions WHERE id = ANY($1))", { firstName: 'Grace' }],
])('1,000 sessions that are %s in one statement', async (_, statement, shape) => {
  const sessions = await database.createSessions(1000);
  const read = (one) => Promise.all(sessions.map((session) => validate(one, session)));
  for (let round = 0; round < 3; round += 1) await both(read);
  await database.query(statement, [sessions.map(({ id }) => id)]);
  for (const session of sessions) await both((one) => untilAnswer(one, session, shape));
});

test('a writer whose role is that of a replica is heard as well', async () => {
  const session = await held();
  const client = await database.pool.connect();
  try {
    await client.query('SET session_replication_role = replica');
    await client.query('DELETE FROM platform.user_sessions WHERE id = $1', [session.id]);
  } finally {
    client.release(true);
  }
  await both((one) => untilAnswer(one, session, null));
});

test.each(['', 'junk', ' ', 'A'.repeat(64), `${'0'.repeat(64)} ${'1'.repeat(63)}`, 'x'.repeat(7999), "{'token':'*'}"])('a notification of %p by somebody harms nothing', async (payload) => {
  const session = await held();
  await database.query("SELECT pg_notify('studio_sessions', $1)", [payload]);
  await heard();
  await both(async (one) => expect(await validate(one, session)).toMatchObject({ id: session.id }));
});

test('a write that is rolled back is none', async () => {
  const session = await held();
  const client = await database.pool.connect();
  try {
    await client.query('BEGIN');
    await client.query('DELETE FROM platform.user_sessions WHERE id = $1', [session.id]);
    await client.query('ROLLBACK');
  } finally {
    client.release();
  }
  await heard();
  await both(async (one) => expect(await from(one, session)).toBe('local'));
});

test.each([
  ['activity', setSession('last_activity_at = now()')],
  ['address and agent', setSession("ip_address = '203.0.113.9', user_agent = 'other'")],
  ['a refresh token', setSession("refresh_token = md5(random()::text)")],
  ['the same token', setSession('token = token')],
  ['the same end', setSession('expires_at = expires_at')],
  ['sign-in times of the user', setUser("updated_at = now(), metadata = jsonb_build_object('last_sign_in', now())")],
  ['password and picture of the user', setUser("password_hash = 'x', avatar_url = 'y'")],
  ['the same names and email', setUser('first_name = first_name, last_name = last_name, email = email, username = username')],
  ['nothing at all', setUser('banned_until = banned_until, deleted_at = deleted_at')],
  ['somebody without sessions', async () => database.query("UPDATE platform.users SET first_name = 'x' WHERE id = $1", [(await database.createUser()).id])],
])('%s: the copies stay', async (_, write) => {
  const session = await held();
  await write(session);
  await heard();
  await both(async (one) => expect(await from(one, session)).toBe('local'));
});
