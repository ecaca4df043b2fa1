'use strict';

// A session that has ended does not come back: the rules of the leases, one by one, on real servers. Two processes, both
// cut off from notifications, so that nothing but the rule under test can save the reader. Its answer of Postgres is kept
// back on the way, so that the reader's fill comes late.

const { startRedis, startPostgres, sleep, until } = require('./helpers/servers.js');
const { endProcesses } = require('./helpers/process.js');
const { Database } = require('./helpers/database.js');
const { tapPostgres, tapRedis } = require('./fixtures/faults/taps.js');
const { actor, warmUp, connected, keyOf, kept, keeps, cached } = require('./fixtures/faults/cast.js');

let redis;
let postgres;
let database;
/** What the reader talks to. */
let rows;
let writes;
/** What the revoker talks to. */
let deafened;
let reader;
let revoker;

/**
 * The reader is told of nothing, neither by Postgres nor by pushes of Redis, so that all that refuses its fill is the lease:
 * what it is told makes it forget the read by itself.
 */
const UNPUSHED = ['unpushed', 'on', '>unpushed', '~*', '&*', '+@all', '-client|tracking'];

const unpushed = ({ url }) => ({ url: url.replace('redis://', 'redis://unpushed:unpushed@') });

beforeAll(async () => {
  [redis, postgres] = await Promise.all([startRedis({ args: ['--user', ...UNPUSHED] }), startPostgres()]);
  database = new Database(postgres.url);
  [rows, deafened, writes] = await Promise.all([tapPostgres(postgres), tapPostgres(postgres), tapRedis(redis)]);
  rows.refusesListeners = true;
  deafened.refusesListeners = true;
});

beforeEach(async () => {
  [reader, revoker] = await Promise.all([
    actor({ redis: unpushed(writes), postgres: rows }),
    actor({ redis, postgres: deafened }),
  ]);
  await warmUp(database, reader, revoker);
});

afterEach(endProcesses);
afterAll(() => database.end());

const validate = (one, { token }) => one.call('validateSessionWithCache', token);

/** A reader with a lease whose answer of Postgres is on its way: the fill comes when `release` is called. */
async function heldRead(session, { one = reader, mark = session.user.email } = {}) {
  const fill = writes.count(mark);
  const held = rows.keep(mark);
  const answer = validate(one, session);
  await held.arrived;
  return {
    fill,
    answer,
    /** Lets the answer of Postgres through and waits until Redis has answered the fill. */
    async filled() {
      held.release();
      const seen = await answer;
      await until(() => fill.answered > 0, { what: 'the answer to the late fill' });
      return seen;
    },
    release: held.release,
  };
}

/** Nobody accepts the session, neither now nor after reading once more. */
async function refusedByAll(session) {
  for (const one of [revoker, reader, reader, revoker]) expect(await validate(one, session)).toBeNull();
}

test('a read that nothing overtakes leaves a copy that the other process reads', async () => {
  const session = await database.createSession();
  const read = await heldRead(session);
  expect(await kept(redis, session)).toBe('lease');
  expect(await read.filled()).toMatchObject({ id: session.id });
  expect(await kept(redis, session)).toBe('copy');
  await revoker.call('resetSessionCacheMetrics');
  expect(await validate(revoker, session)).toMatchObject({ id: session.id });
  expect(await revoker.call('getSessionCacheMetrics')).toMatchObject({ redisHits: 1, databaseReads: 0 });
});

const ENDINGS = {
  'revokeSessionWithCache with the token': ['revokeSessionWithCache', ({ id, token }) => [id, token]],
  'revokeSessionWithCache without the token': ['revokeSessionWithCache', ({ id }) => [id]],
  revokeSessionByToken: ['revokeSessionByToken', ({ token }) => [token]],
  revokeAllUserSessionsWithCache: ['revokeAllUserSessionsWithCache', ({ userId }) => [userId]],
  revokeOtherSessions: ['revokeOtherSessions', ({ userId }, stays) => [userId, stays.id]],
  rotateSession: ['rotateSession', ({ token }) => [token, `${token}-new`, new Date(Date.now() + 60_000)]],
};

test.each(Object.keys(ENDINGS))('late fill after %s: refused', async (way) => {
  const [method, args] = ENDINGS[way];
  const session = await database.createSession();
  const stays = await database.createSession({ user: session.user });
  const read = await heldRead(session);
  expect(await revoker.call(method, ...args(session, stays))).toBeTruthy();
  expect(await read.filled()).toMatchObject({ id: session.id });
  expect(await kept(redis, session)).not.toBe('copy');
  await refusedByAll(session);
});

test('late fill after a revocation and a new lease: refused, because the lease is another', async () => {
  const session = await database.createSession();
  const read = await heldRead(session);
  expect(await revoker.call('revokeSessionWithCache', session.id, session.token)).toBe(true);
  expect(await validate(revoker, session)).toBeNull();
  expect(await kept(redis, session)).toBe('lease');
  await read.filled();
  expect(await kept(redis, session)).toBe('lease');
  await refusedByAll(session);
});

test.each([
  ['invalidateSessionCache', (session) => [session.token]],
  ['invalidateUserSessions', (session) => [session.userId]],
])('late fill after %s: refused, and the change is seen by all', async (method, args) => {
  const session = await database.createSession();
  const read = await heldRead(session);
  await database.query("UPDATE platform.users SET first_name = 'Grace' WHERE id = $1", [session.userId]);
  await revoker.call(method, ...args(session));
  expect(await read.filled()).toMatchObject({ firstName: 'Ada' });
  expect(await kept(redis, session)).not.toBe('copy');
  for (const one of [reader, revoker]) expect(await validate(one, session)).toMatchObject({ firstName: 'Grace' });
});

test('late fill after FLUSHALL: refused', async () => {
  const session = await database.createSession();
  const read = await heldRead(session);
  await redis.cli('FLUSHALL');
  await database.query('DELETE FROM platform.user_sessions WHERE id = $1', [session.id]);
  expect(await read.filled()).toMatchObject({ id: session.id });
  expect(await kept(redis, session)).toBe('nothing');
  await refusedByAll(session);
});

test('in one process, a read that a forgetting overtook is not joined by a later call, and leaves nothing', async () => {
  const session = await database.createSession({ user: await database.createUser({ firstName: 'Overtaken' }) });
  const read = await heldRead(session, { mark: 'Overtaken' });
  await database.query("UPDATE platform.users SET first_name = 'Grace' WHERE id = $1", [session.userId]);
  await reader.call('invalidateSessionCache', session.token);
  const later = await reader.call('timed', 'validateSessionWithCache', session.token);
  expect(later.value).toMatchObject({ firstName: 'Grace' });
  await keeps(redis, session, 'copy');
  read.release();
  expect(await read.answer).toMatchObject({ firstName: 'Overtaken' });
  // What the reader writes after this stands behind a fill of the overtaken read, if there were one.
  await warmUp(database, reader);
  expect(read.fill.sent).toBe(0);
  expect(await validate(revoker, session)).toMatchObject({ firstName: 'Grace' });
});

test('in one process, a read that a revocation overtook is not joined by a later call', async () => {
  const session = await database.createSession();
  const read = await heldRead(session);
  expect(await reader.call('revokeSessionWithCache', session.id)).toBe(true);
  const later = await Promise.race([validate(reader, session), sleep(2000).then(() => 'it has joined the read')]);
  expect(later).toBeNull();
  read.release();
  expect(await read.answer).toMatchObject({ id: session.id });
  await warmUp(database, reader);
  expect(read.fill.sent).toBe(0);
  await refusedByAll(session);
});

test.each([
  ['revokeSessionByToken', ({ token }) => [token], null],
  ['invalidateSessionCache', ({ token }) => [token], expect.objectContaining({ firstName: 'Grace' })],
])('in one process, a read whose fill is under way is not joined after %s', async (method, args, answer) => {
  const session = await database.createSession();
  const read = await heldRead(session);
  redis.freeze();
  try {
    read.release();
    expect(await read.answer).toMatchObject({ firstName: 'Ada' });
    await until(() => read.fill.sent > 0, { what: 'the fill in the socket' });
    await database.query("UPDATE platform.users SET first_name = 'Grace' WHERE id = $1", [session.userId]);
    await reader.call(method, ...args(session));
    for (let call = 0; call < 5; call += 1) expect(await validate(reader, session)).toEqual(answer);
  } finally {
    redis.thaw();
  }
});

test('a read is joined in its first 2 s only', async () => {
  const session = await database.createSession();
  const read = await heldRead(session);
  await reader.call('resetSessionCacheMetrics');
  await sleep(2050);
  expect(await validate(reader, session)).toMatchObject({ id: session.id });
  expect(await reader.call('getSessionCacheMetrics')).toMatchObject({ databaseReads: 1, coalesced: 0 });
  read.release();
  await read.answer;
});

test('the life of a copy is counted from before the read, by the clock of the server', async () => {
  const session = await database.createSession();
  await reader.call('configureSessionCache', { ttlSeconds: 10 });
  const read = await heldRead(session);
  await sleep(1500);
  await read.filled();
  const left = Number(await redis.cli('PTTL', keyOf(session)));
  expect(left).toBeGreaterThan(5000);
  expect(left).toBeLessThanOrEqual(8510);
});

test('a copy ends with its session', async () => {
  const session = await database.createSession({ expiresInSeconds: 5 });
  await cached(redis, reader, session);
  expect(Number(await redis.cli('PTTL', keyOf(session)))).toBeLessThanOrEqual(5000);
});

test('a copy whose end has passed is not believed, though its key stands', async () => {
  const session = await database.createSession();
  await cached(redis, reader, session);
  await database.query('DELETE FROM platform.user_sessions WHERE id = $1', [session.id]);
  expect(await validate(revoker, session)).toMatchObject({ id: session.id });
  const [seconds, microseconds] = (await redis.cli('TIME')).split('\n').map(Number);
  await redis.cli('HSET', keyOf(session), 'end', `${seconds * 1e6 + microseconds - 1}`);
  await redis.cli('PERSIST', keyOf(session));
  await refusedByAll(session);
});

test('a copy of another format version is not believed', async () => {
  const session = await database.createSession();
  await cached(redis, reader, session);
  await database.query('DELETE FROM platform.user_sessions WHERE id = $1', [session.id]);
  await redis.cli('HSET', keyOf(session), 'version', '99');
  await refusedByAll(session);
});

/** Ends the server without a word and starts it again; it reads its snapshot, if it finds one. */
async function crash() {
  await redis.kill();
  await redis.restart();
  await Promise.all([connected(redis, reader), connected(redis, revoker)]);
}

test('restart from a snapshot with the copy in it: the copy is back and is not believed', async () => {
  const session = await database.createSession();
  await cached(redis, reader, session);
  await redis.cli('SAVE');
  expect(await revoker.call('revokeSessionWithCache', session.id, session.token)).toBe(true);
  expect(await kept(redis, session)).toBe('nothing');
  await crash();
  expect(await kept(redis, session)).toBe('copy');
  await refusedByAll(session);
});

test('restart from a snapshot with the lease in it: the lease is back, and the read from before does not fill it', async () => {
  const session = await database.createSession();
  const read = await heldRead(session);
  await redis.cli('SAVE');
  expect(await revoker.call('revokeSessionWithCache', session.id, session.token)).toBe(true);
  await crash();
  expect(await kept(redis, session)).toBe('lease');
  read.release();
  expect(await read.answer).toMatchObject({ id: session.id });
  // What the reader writes after this stands behind a fill, if there were one.
  await warmUp(database, reader);
  expect(read.fill.sent).toBe(0);
  expect(await kept(redis, session)).toBe('lease');
  await refusedByAll(session);
});

// Below 3 s the links survive the silence; above it they are replaced, and what is in the old sockets is executed all
// the same when the server wakes up.
test.each([1000, 4000])(
  'freeze of %d ms and thaw of the server with a fill in its socket: no copy stays',
  async (frozenMs) => {
    const session = await database.createSession();
    const read = await heldRead(session);
    redis.freeze();
    const thawed = sleep(frozenMs).then(() => redis.thaw());
    try {
      read.release();
      expect(await read.answer).toMatchObject({ id: session.id });
      await until(() => read.fill.sent > 0, { what: 'the fill in the socket' });
      // The order of sockets must not matter, but the fill is in its own before the DEL is in another.
      expect(await revoker.call('revokeSessionWithCache', session.id, session.token)).toBe(true);
      const accepted = revoker.call('watch', session.token);
      await accepted;
      await thawed;
      await until(() => read.fill.answered > 0 || frozenMs > 3000, { what: 'the answer to the fill' });
      await until(async () => (await kept(redis, session)) !== 'copy', {
        what: 'the end of the copy',
        deadlineMs: 3000,
      });
      await sleep(1500);
      expect(await revoker.call('stopWatching', session.token)).toMatchObject({ accepted: 0, errors: [] });
      expect(await kept(redis, session)).not.toBe('copy');
      await refusedByAll(session);
    } finally {
      await thawed;
    }
  },
);
