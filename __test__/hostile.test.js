'use strict';

// What a hostile hand leaves in Redis: never a session that Postgres does not have, never a rejection, never a hang.

const { Database } = require('./helpers/database.js');
const { addon, here, keyOf, ask, ready, validate, grown } = require('./fixtures/sessions/steps.js');
const { copyOf, put } = require('./fixtures/sessions/entries.js');
const { startRedis } = require('./helpers/servers.js');
const { spawnWorker } = require('./helpers/process.js');
const { openRedis } = require('./fixtures/functional/redis.js');

const MEGABYTE = 1024 * 1024;

let database;
let redis;

beforeAll(async () => {
  const server = await startRedis();
  process.env.REDIS_URL = server.url;
  process.env.REDIS_KEY_PREFIX = 'hostile:';
  database = new Database();
  redis = openRedis(server.url);
  await ready(here, database);
  addon.setLogHandler(() => {});
});

afterAll(() => database.end());

/** Two sessions with their entries: one that has ended since, and one that has changed since. */
async function victims() {
  const [ended, changed] = [await database.createSession(), await database.createSession()];
  const entries = [];
  for (const session of [ended, changed]) {
    await validate(here, session);
    entries.push({ ...(await copyOf(redis, session)), session });
  }
  await database.query('DELETE FROM platform.user_sessions WHERE id = $1', [ended.id]);
  await database.query("UPDATE platform.users SET first_name = 'Grace' WHERE id = $1", [changed.userId]);
  return [
    { ...entries[0], truth: null },
    { ...entries[1], truth: expect.objectContaining({ id: changed.id, firstName: 'Grace' }) },
  ];
}

/** Puts what `forge` makes of the fields in the place of each entry: the answer is Postgres' all the same, also later. */
async function expectTruth(forge) {
  for (const { key, fields, session, truth } of await victims()) {
    const forged = forge({ ...fields }, session);
    const counts = await grown(here, async () => {
      await put(redis, key, forged);
      for (let call = 0; call < 3; call += 1) expect(await validate(here, session)).toEqual(truth);
    });
    expect(counts.errors).toBe(0);
  }
}

const text = (value) => Buffer.from(value);
const json = (change) => (fields, session) => {
  const value = JSON.parse(fields.session.toString());
  return { ...fields, session: text(JSON.stringify(change(value, session) ?? value)) };
};
const raw = (change) => (fields, session) => ({ ...fields, session: text(change(fields.session.toString(), session)) });
const field = (name, value) => (fields) => ({ ...fields, [name]: typeof value === 'function' ? value(fields[name]) : value });
/** Microseconds of the entry's birth, changed. */
const shifted = (by) => (bytes) => text(String(BigInt(bytes.toString()) + BigInt(by)));

test('the proof that the entries themselves are believed: unchanged, they are', async () => {
  for (const { key, fields, session } of await victims()) {
    addon.configureSessionCache({ localEnabled: false });
    await put(redis, key, fields);
    expect(await ask(here, session)).toEqual({ from: 'redis', session: expect.objectContaining({ firstName: 'Ada' }) });
    addon.configureSessionCache({ localEnabled: true });
    await redis.del(key);
  }
});

describe('a field', () => {
  const NAMES = ['version', 'run', 't0', 'end', 'session'];

  test.each(NAMES)('%s that is not there', (name) => expectTruth(field(name, undefined)));
  test.each(NAMES)('%s that is empty', (name) => expectTruth(field(name, '')));
  test.each(NAMES)('%s of 1 MB', (name) => expectTruth(field(name, Buffer.alloc(MEGABYTE, '7'))));
  test.each(NAMES)('%s with a NUL behind it', (name) => expectTruth(field(name, (bytes) => Buffer.concat([bytes, Buffer.from([0])]))));
  test.each(NAMES)('%s that is no text', (name) => expectTruth(field(name, Buffer.from([0xff, 0xfe, 0, 0x80]))));
  test('none but the session', () => expectTruth(({ session }) => ({ session })));
});

test.each(['0', '2', '99', '1.0', '01', ' 1', '-1', 'x'])('the version %p', (version) => expectTruth(field('version', version)));

test.each(['0'.repeat(40), 'f'.repeat(40), ' ', '*', '%'])('the life %p of the server', (run) => expectTruth(field('run', run)));

describe('an end', () => {
  test.each([
    'inf', '-inf', 'Infinity', 'nan', '-nan', '-1', '0', '1', '0x7fffffffffffffff', '0xffffffffffffffffffff', '1e400', '1e300', '1e18',
    '99999999999999999999999999', '9223372036854775807', '18446744073709551616', 'never', '5 minutes',
  ])('of %p', (end) => expectTruth(field('end', end)));

  test('that has come', () => expectTruth(field('end', () => String((Date.now() - 1) * 1000))));
  test.each([310, 3600, 315_360_000])('%i s after the read is later than any copy lives', (seconds) =>
    expectTruth((fields) => ({ ...fields, end: shifted(seconds * 1e6)(fields.t0) })));
});

test.each(['nan', 'x', '-', '0x', '--1'])('a birth of %p', (t0) => expectTruth(field('t0', t0)));

describe('a session', () => {
  test.each(['null', 'true', '1', '""', '[]', '{}', '{', '}', '[[[', '{"id":1}', 'undefined', '\u0000', '\ufeff{}', ' '])('of %p', (value) => expectTruth(raw(() => value)));

  test('cut at any place', async () => {
    const [{ key, fields, session }] = await victims();
    for (let length = 1; length < fields.session.length; length += 13) {
      await put(redis, key, { ...fields, session: fields.session.subarray(0, length) });
      expect(await validate(here, session)).toBe(null);
    }
  });

  test.each(['id', 'userId', 'token', 'expiresAt', 'lastActivityAt', 'createdAt', 'email', 'firstName', 'lastName', 'username'])('whose %s is of a wrong type', async (name) => {
    for (const value of [1, true, {}, [], ['x'], { toString: 'x' }]) {
      await expectTruth(json((session) => ({ ...session, [name]: value })));
    }
  });

  test.each(['id', 'userId', 'token', 'expiresAt', 'lastActivityAt', 'createdAt', 'email'])('without %s, or with null there', async (name) => {
    await expectTruth(json((session) => ({ ...session, [name]: undefined })));
    await expectTruth(json((session) => ({ ...session, [name]: null })));
  });

  test.each(['token', 'id', 'userId', 'email', 'firstName'])('with two of %s', async (name) => {
    await expectTruth(raw((value) => value.replace('{', `{${JSON.stringify(name)}:"x",`)));
    await expectTruth(raw((value) => value.replace(/}$/, `,${JSON.stringify(name)}:"x"}`)));
  });

  test.each([
    ['more than there is', (session) => ({ ...session, role: 'admin' })],
    ['a prototype', (session) => JSON.parse(JSON.stringify(session).replace('{', '{"__proto__":{"role":"admin"},'))],
    ["another token's", (session) => ({ ...session, token: 'a'.repeat(64) })],
    ["a token's hash in capitals", (session) => ({ ...session, token: session.token.toUpperCase() })],
    ['a list around it', (session) => [session]],
    ['text around it', (session) => JSON.stringify(session)],
    ['1 MB more', (session) => ({ ...session, more: 'x'.repeat(MEGABYTE) })],
  ])('with %s', (_, change) => expectTruth(json(change)));

  test.each([64, 200, 100_000])('with %i levels', async (levels) => {
    await expectTruth(raw((value) => value.replace(/}$/, `,"deep":${'['.repeat(levels)}${']'.repeat(levels)}}`)));
    await expectTruth(raw(() => '['.repeat(levels)));
    await expectTruth(raw((value) => value.replace(/"firstName":"[^"]*"/, `"firstName":${'{"a":'.repeat(levels)}1${'}'.repeat(levels)}`)));
  });

  test('that is no JSON but for another reader', async () => {
    await expectTruth(raw((value) => `${value} ${value}`));
    await expectTruth(raw((value) => value.replaceAll('"', "'")));
    await expectTruth(raw((value) => value.replace(/}$/, ',}')));
    await expectTruth(raw((value) => `/**/${value}`));
    await expectTruth(raw((value) => `${value}\u0000`));
  });
});

describe('another kind of key', () => {
  test.each([
    ['a string', (key) => redis.set(key, 'text')],
    ['a list', (key) => redis.rpush(key, 'version', '1')],
    ['a set', (key) => redis.sadd(key, 'session')],
    ['a sorted set', (key) => redis.zadd(key, 1, 'session')],
    ['a stream', (key) => redis.xadd(key, '*', 'session', '{}')],
    ['an empty hash but for a strange field', (key) => redis.hset(key, 'x', 'y')],
  ])('%s', async (_, make) => {
    for (const { key, session, truth } of await victims()) {
      await redis.del(key);
      await make(key);
      await addon.sessionCacheHealthCheck();
      for (let call = 0; call < 3; call += 1) expect(await validate(here, session)).toEqual(truth);
    }
  });
});

describe('a lease', () => {
  const lease = (change) => ({ run, t0 }) => ({ lease: 'nonce', run, t0, ...change });

  test.each([
    ['with a nonce of 1 MB', { lease: Buffer.alloc(MEGABYTE, 'n') }],
    ['with an empty nonce', { lease: '' }],
    ['with a nonce that is no text', { lease: Buffer.from([0xff, 0, 0xfe]) }],
    ['of another life', { run: '0'.repeat(40) }],
    ['with a life of 1 MB', { run: Buffer.alloc(MEGABYTE, 'r') }],
    ...['', 'x', 'nan', 'inf', '-1', '1e300', '0x10', '99999999999999999999999', '9'.repeat(1000)].map((t0) => [`from ${t0.slice(0, 20)}`, { t0 }]),
    ['without a life', { run: undefined }],
    ['without a time', { t0: undefined }],
  ])('%s', async (_, change) => {
    await expectTruth(lease(change));
  });

  test('from the future makes no copy that outlives five minutes', async () => {
    const other = await ready(await spawnWorker(), database);
    for (const ahead of [10 * 60e6, 1e13]) {
      const session = await database.createSession();
      const [{ fields }] = await victims();
      await put(redis, keyOf(session), lease({ t0: shifted(ahead)(fields.t0) })(fields));
      expect(await validate(here, session)).toMatchObject({ id: session.id });
      await addon.sessionCacheHealthCheck();
      await database.query('DELETE FROM platform.user_sessions WHERE id = $1', [session.id]);
      // Whoever believes such a copy would do so for as long as the forger wants.
      const end = Number(await redis.hget(keyOf(session), 'end'));
      if (end > (Date.now() + 300_000) * 1000) expect(await validate(other, session)).toBe(null);
    }
  });
});
