'use strict';

// Entries in Redis that carry a seal: who does not know the secret can neither make one nor change one.

const { randomBytes } = require('node:crypto');
const { Database } = require('./helpers/database.js');
const { addon, here, keyOf, ask, from, ready, validate, grown, notBelieved, untilLocal, logOf } = require('./fixtures/sessions/steps.js');
const { copyOf, put, flipped } = require('./fixtures/sessions/entries.js');
const { until } = require('./helpers/servers.js');
const { spawnWorker } = require('./helpers/process.js');
const { openRedis, untilCopied } = require('./fixtures/functional/redis.js');
const { withEnvironment, rejection } = require('./fixtures/functional/environment.js');

const secret = () => randomBytes(24).toString('base64url');
const SECRET = secret();

let database;
let redis;

beforeAll(async () => {
  process.env.REDIS_KEY_PREFIX = 'seal:';
  process.env.SESSION_CACHE_SECRET = SECRET;
  database = new Database();
  redis = openRedis();
  addon.setLogHandler(() => {});
});

/** What is asked here is answered by Redis or Postgres, so that each entry is looked at. */
beforeEach(async () => {
  await ready(here, database);
  addon.configureSessionCache({ localEnabled: false });
});

afterAll(() => database.end());

/** A process with another value of SESSION_CACHE_SECRET (undefined: none). */
async function withSecret(value) {
  const worker = await spawnWorker(undefined, { SESSION_CACHE_SECRET: value, SESSION_CACHE_LOCAL_ENABLED: 'false' });
  return ready(worker, database);
}

async function cached(one = here) {
  const session = await database.createSession();
  expect(await validate(one, session)).toMatchObject({ id: session.id });
  await untilCopied(redis, session, { again: () => validate(one, session) });
  return session;
}

describe('SESSION_CACHE_SECRET', () => {
  const long = 'hunter2-'.repeat(4);

  test.each([
    ['one of 31 characters', long.slice(1)],
    ['a short one behind a long one', `${long},hunter2`],
    ['a short one before a long one', `hunter2,${long}`],
    ['an empty part at the end', `${long},`],
    ['an empty part at the beginning', `,${long}`],
    ['an empty part in the middle', `${long},,${long}x`],
    ['nothing but a comma', ','],
    ['two halves', `${long.slice(16)},${long.slice(16)}`],
  ])('%s is refused, without showing it', async (_, value) => {
    await withEnvironment({ SESSION_CACHE_SECRET: value }, async () => {
      const error = await rejection(() => addon.validateSessionWithCache('token'));
      expect(error).toMatchObject({ code: 'ERR_INVALID_CONFIG', message: expect.stringContaining('SESSION_CACHE_SECRET') });
      expect(error.message).toContain('32');
      expect(JSON.stringify([error.message, error.stack, error])).not.toMatch(/hunter2/);
    });
  });

  test.each([
    ['one of 32 characters', long],
    ['one of 32 characters of two bytes', 'é'.repeat(32)],
    ['two', `${long},${long}-former`],
    ['none', undefined],
    ['an empty one, which is none', ''],
  ])('%s is accepted', async (_, value) => {
    await withEnvironment({ SESSION_CACHE_SECRET: value }, async () => {
      await ready(here, database);
      const session = await cached();
      expect(Boolean(await redis.hget(keyOf(session), 'seal'))).toBe(Boolean(value));
      await addon.sessionCacheHealthCheck();
      expect(['redis', 'local']).toContain(await from(here, session));
    });
  });
});

test('an entry carries a seal of its own, and not the secret', async () => {
  const entries = [];
  for (const session of [await cached(), await cached()]) {
    const { fields } = await copyOf(redis, session);
    expect(Object.keys(fields).sort()).toEqual(['end', 'seal', 'run', 'session', 'version', 't0'].sort());
    expect(Buffer.concat(Object.values(fields)).includes(SECRET)).toBe(false);
    entries.push(fields);
    await addon.sessionCacheHealthCheck();
    expect(await from(here, session)).toBe('redis');
  }
  expect(entries[0].seal.equals(entries[1].seal)).toBe(false);
  expect(entries[0].seal.length).toBeGreaterThanOrEqual(16);
});

test('a change of any byte of any field is a miss', async () => {
  const session = await cached();
  const { key, fields } = await copyOf(redis, session);
  await database.query("UPDATE platform.users SET first_name = 'Grace' WHERE id = $1", [session.userId]);
  let changes = 0;
  for (const [name, bytes] of Object.entries(fields)) {
    const step = name === 'session' ? 7 : 1;
    for (let index = 0; index < bytes.length; index += step) {
      await put(redis, key, { ...fields, [name]: flipped(bytes, index) });
      const counts = await grown(here, async () => {
        expect(await validate(here, session)).toMatchObject({ firstName: 'Grace' });
      });
      expect({ name, index, redisHits: counts.redisHits, notBelieved: notBelieved(counts) }).toEqual({ name, index, redisHits: 0, notBelieved: 1 });
      changes += 1;
    }
  }
  expect(changes).toBeGreaterThan(150);
  // The proof that it was not the putting: the same entry, unchanged, is believed.
  await put(redis, key, fields);
  expect(await ask(here, session)).toEqual({ from: 'redis', session: expect.objectContaining({ firstName: 'Ada' }) });
});

test.each([
  ['cut by a byte', (bytes) => bytes.subarray(1)],
  ['longer by a byte', (bytes) => Buffer.concat([bytes, Buffer.from('0')])],
  ['longer by a NUL', (bytes) => Buffer.concat([bytes, Buffer.from([0])])],
  ['empty', () => Buffer.alloc(0)],
  ['not there', () => undefined],
])('a field that is %s is a miss', async (_, change) => {
  const session = await cached();
  const { key, fields } = await copyOf(redis, session);
  await database.query("UPDATE platform.users SET first_name = 'Grace' WHERE id = $1", [session.userId]);
  for (const name of Object.keys(fields)) {
    await put(redis, key, { ...fields, [name]: change(fields[name]) });
    expect(await ask(here, session)).toEqual({ from: 'postgres', session: expect.objectContaining({ firstName: 'Grace' }) });
  }
});

test('bytes that move from one field to its neighbour are a miss', async () => {
  const session = await cached();
  const { key, fields } = await copyOf(redis, session);
  await database.query("UPDATE platform.users SET first_name = 'Grace' WHERE id = $1", [session.userId]);
  for (const [left, right] of [['version', 'run'], ['run', 't0'], ['t0', 'end'], ['end', 'session'], ['end', 't0'], ['version', 'end']]) {
    const moved = { ...fields, [left]: Buffer.concat([fields[left], fields[right].subarray(0, 1)]), [right]: fields[right].subarray(1) };
    await put(redis, key, moved);
    expect(await ask(here, session)).toEqual({ from: 'postgres', session: expect.objectContaining({ firstName: 'Grace' }) });
  }
});

test("an entry is nobody else's: neither a copy under another key nor a seal of another entry counts", async () => {
  const [victim, mallory] = [await cached(), await cached()];
  const [theirs, own] = [await copyOf(redis, victim), await copyOf(redis, mallory)];
  await database.query("UPDATE platform.users SET first_name = 'Grace'");
  const forged = [
    own.fields,
    { ...own.fields, session: theirs.fields.session },
    { ...theirs.fields, seal: own.fields.seal },
    { ...theirs.fields, end: own.fields.end },
    { ...theirs.fields, session: Buffer.from(theirs.fields.session.toString().replace(victim.userId, mallory.userId)) },
  ];
  for (const fields of forged) {
    await put(redis, theirs.key, fields);
    const counts = await grown(here, async () => {
      expect(await validate(here, victim)).toMatchObject({ id: victim.id, userId: victim.userId, firstName: 'Grace' });
    });
    expect(counts).toMatchObject({ redisHits: 0, databaseReads: 1 });
    expect(notBelieved(counts)).toBe(1);
  }
});

test('a prolonged life is a miss, and an ended one is not prolonged by its key', async () => {
  const session = await cached();
  const { key, fields } = await copyOf(redis, session);
  await database.query('DELETE FROM platform.user_sessions WHERE id = $1', [session.id]);
  await put(redis, key, { ...fields, end: Buffer.from(String(Number(fields.end) + 60_000_000)) });
  expect(await ask(here, session)).toEqual({ from: 'postgres', session: null });
});

describe('an entry of somebody else', () => {
  const hits = async (one, session) => {
    const counts = await grown(one, async () => expect(await validate(one, session)).toMatchObject({ id: session.id }));
    return { redisHits: counts.redisHits, unsealed: counts.notBelieved.unsealed };
  };

  test.each([
    ['without a secret', undefined],
    ['with another secret', secret()],
    ['with this secret as its last', `${secret()},${SECRET}`],
  ])('%s is a miss, and counted', async (_, value) => {
    const stranger = await withSecret(value);
    for (let round = 0; round < 3; round += 1) {
      const session = await cached(stranger);
      expect(await hits(here, session)).toEqual({ redisHits: 0, unsealed: 1 });
    }
  });

  test('is logged once, with the name of the variable, and without secret, token and hash', async () => {
    const [stranger, one] = [await withSecret(undefined), await withSecret(SECRET)];
    const sessions = [];
    for (let round = 0; round < 5; round += 1) {
      sessions.push(await cached(stranger));
      expect(await hits(one, sessions.at(-1))).toEqual({ redisHits: 0, unsealed: 1 });
    }
    await one.call('shutdown');
    expect(await one.release()).toEqual({ code: 0, signal: null });
    const said = logOf(one).filter(({ level }) => level === 'WARN' || level === 'ERROR');
    expect(said).toMatchObject([{ message: expect.stringContaining('SESSION_CACHE_SECRET') }]);
    for (const text of [SECRET, ...sessions.flatMap(({ token, hash, id }) => [token, hash, id])]) expect(one.stderr).not.toContain(text);
  });

  test('rotation: the first seals, all verify', async () => {
    const [former, next] = [secret(), secret()];
    const [old, both, fresh] = await Promise.all([former, `${next},${former}`, next].map(withSecret));
    const [byOld, byBoth, byFresh] = [await cached(old), await cached(both), await cached(fresh)];
    expect(await hits(both, byOld)).toEqual({ redisHits: 1, unsealed: 0 });
    expect(await hits(both, byFresh)).toEqual({ redisHits: 1, unsealed: 0 });
    expect(await hits(fresh, byBoth)).toEqual({ redisHits: 1, unsealed: 0 });
    expect(await hits(old, byBoth)).toEqual({ redisHits: 0, unsealed: 1 });
    expect(await hits(fresh, byOld)).toEqual({ redisHits: 0, unsealed: 1 });
  });
});

describe('everything else works sealed', () => {
  beforeEach(() => addon.configureSessionCache({ localEnabled: true }));

  test('hits in the process, revocation, rotation, forgetting and warming, here and elsewhere', async () => {
    const other = await withSecret(`${SECRET}`);
    const sessions = await database.createSessions(6);
    for (const session of sessions) await untilLocal(here, session);
    const [revoked, rotated, changed, , warmed] = sessions;
    expect(await other.call('revokeSessionWithCache', revoked.id)).toBe(true);
    await until(async () => (await validate(here, revoked)) === null, { what: 'the revocation', deadlineMs: 5000 });
    expect(await addon.rotateSession(rotated.token, 'sealed-next', new Date(Date.now() + 60_000))).toBe(true);
    expect(await validate(here, rotated)).toBe(null);
    expect(await validate(other, { token: 'sealed-next' })).toMatchObject({ id: rotated.id });
    await database.query("UPDATE platform.users SET first_name = 'Grace' WHERE id = $1", [changed.userId]);
    expect(await addon.invalidateUserSessions(changed.userId)).toBe(1);
    for (const one of [here, other]) expect(await validate(one, changed)).toMatchObject({ firstName: 'Grace' });
    await addon.invalidateSessionCache(warmed.token);
    expect(await addon.sessionCache.warmSession(warmed.token)).toBe(true);
    expect(await from(other, warmed)).toBe('redis');
    expect((await addon.warmSessionCache({ limit: 3 })).status).toBe('completed');
  });
});
