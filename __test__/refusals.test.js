'use strict';

// Redis lives but refuses what a revocation needs, or the answer of Postgres is lost. A revocation that Redis has not
// confirmed is kept, and this process reads no session from Redis until it is delivered.

const { startRedis, startPostgres, until } = require('./helpers/servers.js');
const { endProcesses } = require('./helpers/process.js');
const { Database } = require('./helpers/database.js');
const { tapPostgres, tapRedis } = require('./fixtures/faults/taps.js');
const { actor, warmUp, listening, kept, cached } = require('./fixtures/faults/cast.js');

/** Longer than the breaker may stay open: refusals of a replica count as an outage. */
const DELIVERY = { deadlineMs: 45_000, what: 'the delivery of the revocation' };

let redis;
let postgres;
let database;

beforeAll(async () => {
  [redis, postgres] = await Promise.all([startRedis(), startPostgres()]);
  database = new Database(postgres.url);
});

afterEach(endProcesses);
afterAll(() => database.end());

const validate = (one, { token }) => one.call('validateSessionWithCache', token);
const metrics = (one) => one.call('getSessionCacheMetrics');

/** Revokes while Redis refuses, and proves what must hold until `cure` and after it. */
async function revocationIsKept({ one, refuse, cure }) {
  const ended = await database.createSession();
  const other = await database.createSession();
  for (const session of [ended, other]) await cached(redis, one, session);
  await refuse();

  expect(await one.call('revokeSessionWithCache', ended.id, ended.token)).toBe(true);
  // The copy is believable: only the refusal to read stands between it and the caller.
  expect(await kept(redis, ended)).toBe('copy');
  await one.call('resetSessionCacheMetrics');
  const tokens = Array.from({ length: 20 }, () => [ended.token, other.token]).flat();
  for (const token of tokens) {
    expect(await one.call('validateAll', [token])).toEqual([token === other.token ? other.id : null]);
  }
  expect(await kept(redis, ended)).toBe('copy');
  // Each read of the one that lives asks Postgres; that the other has ended is known from its first read on.
  const { hits, misses, refused, databaseReads } = await metrics(one);
  expect({ hits, total: misses + refused }).toEqual({ hits: 0, total: tokens.length });
  expect(databaseReads).toBeGreaterThan(tokens.length / 2);

  await cure();
  await until(async () => (await kept(redis, ended)) !== 'copy', DELIVERY);
  await until(async () => {
    expect(await validate(one, ended)).toBeNull();
    expect(await validate(one, other)).toMatchObject({ id: other.id });
    return (await metrics(one)).redisHits > 0;
  }, DELIVERY);
  expect(await validate(one, ended)).toBeNull();
}

test('an ACL without DEL: kept, Redis is not read, delivered when it is allowed again', async () => {
  await redis.cli('ACL', 'SETUSER', 'app', 'on', '>secret', '~*', '&*', '+@all');
  const url = redis.url.replace('redis://', 'redis://app:secret@');
  const one = await actor({ redis: { url }, postgres });
  await warmUp(database, one);
  await revocationIsKept({
    one,
    refuse: () => redis.cli('ACL', 'SETUSER', 'app', '-del'),
    cure: () => redis.cli('ACL', 'SETUSER', 'app', '+del'),
  });
  expect(one.stderr).not.toContain('secret');
});

test('a read-only replica: kept, Redis is not read, delivered when it is a primary again', async () => {
  const one = await actor({ redis, postgres });
  await warmUp(database, one);
  await revocationIsKept({
    one,
    // A replica of nobody keeps its data, answers reads and refuses writes with READONLY.
    refuse: () => redis.cli('REPLICAOF', '127.0.0.1', '1'),
    cure: () => redis.cli('REPLICAOF', 'NO', 'ONE'),
  });
});

test('a process that is told of a revocation and may not delete the copy reads no session from Redis either', async () => {
  await redis.cli('ACL', 'SETUSER', 'told', 'on', '>secret', '~*', '&*', '+@all');
  const [teller, told] = await Promise.all([
    actor({ redis: null, postgres }),
    actor({ redis: { url: redis.url.replace('redis://', 'redis://told:secret@') }, postgres }),
  ]);
  await warmUp(database, teller, told);
  await listening(database, 2);
  const session = await database.createSession();
  await cached(redis, told, session);
  await redis.cli('ACL', 'SETUSER', 'told', '-del');
  expect(await teller.call('revokeSessionWithCache', session.id)).toBe(true);
  await until(async () => (await validate(told, session)) === null, {
    what: 'the refusal',
    deadlineMs: 1000,
    everyMs: 1,
  });
  expect(await kept(redis, session)).toBe('copy');
  for (let round = 0; round < 20; round += 1) expect(await validate(told, session)).toBeNull();
  await redis.cli('ACL', 'SETUSER', 'told', '+del');
  await until(async () => (await kept(redis, session)) !== 'copy', DELIVERY);
});

test('what is kept is kept over a shutdown that could not deliver it', async () => {
  await redis.cli('ACL', 'SETUSER', 'reopening', 'on', '>secret', '~*', '&*', '+@all');
  const one = await actor({ redis: { url: redis.url.replace('redis://', 'redis://reopening:secret@') }, postgres });
  await warmUp(database, one);
  const session = await database.createSession();
  await cached(redis, one, session);
  await redis.cli('ACL', 'SETUSER', 'reopening', '-del');
  expect(await one.call('revokeSessionWithCache', session.id, session.token)).toBe(true);
  await one.call('shutdown', 300);
  expect(await kept(redis, session)).toBe('copy');
  for (let round = 0; round < 20; round += 1) expect(await validate(one, session)).toBeNull();
  await redis.cli('ACL', 'SETUSER', 'reopening', '+del');
  await until(async () => (await kept(redis, session)) !== 'copy', DELIVERY);
});

test('a shutdown delivers what is kept, if Redis takes it again', async () => {
  await redis.cli('ACL', 'SETUSER', 'leaving', 'on', '>secret', '~*', '&*', '+@all');
  const one = await actor({ redis: { url: redis.url.replace('redis://', 'redis://leaving:secret@') }, postgres });
  await warmUp(database, one);
  const session = await database.createSession();
  await cached(redis, one, session);
  await redis.cli('ACL', 'SETUSER', 'leaving', '-del');
  expect(await one.call('revokeSessionWithCache', session.id, session.token)).toBe(true);
  await redis.cli('ACL', 'SETUSER', 'leaving', '+del');
  await one.call('shutdown');
  expect(await kept(redis, session)).toBe('nothing');
});

test.each(['before it arrives', 'after it was executed'])(
  'the connection is lost with a DEL %s: it is delivered on the next one',
  async (moment) => {
    const tap = await tapRedis(redis);
    const one = await actor({ redis: tap, postgres });
    await warmUp(database, one);
    const [ended, other] = [await database.createSession(), await database.createSession()];
    for (const session of [ended, other]) await cached(redis, one, session);
    let sent = false;
    let cuts = 0;
    tap.cutIf = (direction, chunk) => {
      sent ||= direction === 'toServer' && chunk.includes('$3\r\nDEL\r\n');
      if (!sent || cuts > 0 || (direction === 'toServer') !== (moment === 'before it arrives')) return false;
      cuts += 1;
      return true;
    };
    expect(await one.call('revokeSessionByToken', ended.token)).toBe(true);
    expect(cuts).toBe(1);
    expect(await validate(one, ended)).toBeNull();
    await until(async () => (await kept(redis, ended)) !== 'copy', { ...DELIVERY, deadlineMs: 3000 });
    await one.call('resetSessionCacheMetrics');
    await until(async () => {
      expect(await validate(one, other)).toMatchObject({ id: other.id });
      return (await metrics(one)).redisHits > 0;
    }, DELIVERY);
    expect(await validate(one, ended)).toBeNull();
  },
);

describe('no memory left (maxmemory with noeviction)', () => {
  let one;
  let ended;
  let other;

  beforeEach(async () => {
    one = await actor({ redis, postgres });
    await warmUp(database, one);
    [ended, other] = [await database.createSession(), await database.createSession()];
    for (const session of [ended, other]) await cached(redis, one, session);
    await redis.cli('CONFIG', 'SET', 'maxmemory-policy', 'noeviction');
    await redis.cli('CONFIG', 'SET', 'maxmemory', '1');
    await expect(redis.cli('SET', 'anything', 'x')).rejects.toMatchObject({ reply: expect.stringMatching(/^OOM/) });
  });

  afterEach(() => redis.cli('CONFIG', 'SET', 'maxmemory', '0'));

  const validated = async (sessions) => {
    const answers = await one.call(
      'validateAll',
      sessions.map(({ token }) => token),
    );
    expect(answers).toEqual(sessions.map(({ id }) => id));
  };

  test('no validation fails, and the breaker stays closed', async () => {
    const sessions = await database.createSessions(200);
    for (let round = 0; round < 3; round += 1) await validated(sessions);
    expect(await one.call('getBreakerState')).toMatchObject({ redis: 'closed' });
    await redis.cli('CONFIG', 'SET', 'maxmemory', '0');
    await cached(redis, one, sessions[0]);
  });

  test('a revocation removes its copy, and the other copies are still read', async () => {
    expect(await one.call('revokeSessionWithCache', ended.id)).toBe(true);
    expect(await kept(redis, ended)).not.toBe('copy');
    expect(await validate(one, ended)).toBeNull();
    await one.call('resetSessionCacheMetrics');
    await validated([other]);
    expect(await metrics(one)).toMatchObject({ redisHits: 1 });
  });

  test('nothing is written beyond the limit that its operator set', async () => {
    const sessions = await database.createSessions(50);
    const keys = Number(await redis.cli('DBSIZE'));
    for (let round = 0; round < 2; round += 1) await validated(sessions);
    // Less, where a lease of before has ended meanwhile.
    expect(Number(await redis.cli('DBSIZE')) - keys).toBeLessThanOrEqual(0);
  });

  test('a lease that stands is not filled beyond the limit', async () => {
    await redis.cli('CONFIG', 'SET', 'maxmemory', '0');
    const tap = await tapPostgres(postgres);
    const reader = await actor({ redis, postgres: tap });
    await warmUp(database, reader);
    const session = await database.createSession();
    const held = tap.keep(session.user.email);
    const answer = validate(reader, session);
    await held.arrived;
    expect(await kept(redis, session)).toBe('lease');
    await redis.cli('CONFIG', 'SET', 'maxmemory', '1');
    held.release();
    expect(await answer).toMatchObject({ id: session.id });
    await validate(reader, other); // Behind the fill, on the same connection.
    expect(await kept(redis, session)).toBe('lease');
  });
});

// -- The answer of the DELETE is lost --------------------------------------------------------------------------------

const WAYS = {
  'revokeSessionWithCache with the token': ['revokeSessionWithCache', ({ id, token }) => [id, token], false],
  'revokeSessionWithCache without the token': ['revokeSessionWithCache', ({ id }) => [id], false],
  revokeSessionByToken: ['revokeSessionByToken', ({ token }) => [token], false],
  revokeAllUserSessionsWithCache: ['revokeAllUserSessionsWithCache', ({ userId }) => [userId], 0],
};

test.each(Object.keys(WAYS))(
  'the answer of the DELETE of %s is lost: it rejects, copies are forgotten, it can be repeated',
  async (way) => {
    const [method, args, nothingLeft] = WAYS[way];
    const tap = await tapPostgres(postgres);
    // Deaf, so that it does not learn of its own deletion by the notification that went with it.
    tap.deaf = true;
    const one = await actor({ redis, postgres: tap });
    await warmUp(database, one);
    const session = await database.createSession();
    await cached(redis, one, session);
    // The first answer that the server gives after the row is gone is the one of the deletion.
    let cuts = 0;
    tap.cutIf = async () => {
      if (cuts > 0 || (await database.sessionExists(session.id))) return false;
      cuts += 1;
      return true;
    };

    await expect(one.call(method, ...args(session))).rejects.toMatchObject({ code: 'ERR_SESSION_STORE' });
    expect(cuts).toBe(1);
    expect(await database.sessionExists(session.id)).toBe(false);
    expect(await kept(redis, session)).toBe('nothing');
    expect(await validate(one, session)).toBeNull();
    expect(await one.call(method, ...args(session))).toBe(nothingLeft);
    expect(await validate(one, session)).toBeNull();
  },
);
