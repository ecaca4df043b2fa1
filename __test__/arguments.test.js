'use strict';

// What is not meant is refused: with a code, with a class of this realm, by a message that names the argument.

const { spawnSync } = require('node:child_process');
const path = require('node:path');
const addon = require('./fixtures/functional/addon.js');
const { Database } = require('./helpers/database.js');
const { startPostgres } = require('./helpers/servers.js');
const { rejection } = require('./fixtures/functional/environment.js');

const ID = '00000000-0000-4000-8000-000000000000';
const later = () => new Date(Date.now() + 3_600_000);

/** Function, argument, how it is passed, and what an answer of "nobody" is. */
const STRINGS = [
  ['validateSessionWithCache', 'token', (value) => [value], null],
  ['validateSession', 'token', (value) => [value], null],
  ['revokeSessionWithCache', 'sessionId', (value) => [value], false],
  ['revokeSessionWithCache', 'token', (value) => [ID, value], false],
  ['revokeSessionByToken', 'token', (value) => [value], false],
  ['revokeAllUserSessionsWithCache', 'userId', (value) => [value], 0],
  ['revokeOtherSessions', 'userId', (value) => [value, ID], 0],
  ['revokeOtherSessions', 'exceptSessionId', (value) => [ID, value], undefined],
  ['rotateSession', 'token', (value) => [value, 'new', later()], false],
  ['rotateSession', 'newToken', (value) => ['old', value, later()], undefined],
  ['invalidateSessionCache', 'token', (value) => [value], undefined],
  ['invalidateUserSessions', 'userId', (value) => [value], 0],
];

const NO_STRINGS = [
  ['undefined', undefined],
  ['null', null],
  ['a number', 1],
  ['NaN', NaN],
  ['a boolean', true],
  ['an object', {}],
  ['an array', ['token']],
  ['a function', () => 'token'],
  ['a Symbol', Symbol('token')],
  ['a BigInt', 1n],
  ['a String object', new String('token')],
  ['a Buffer', Buffer.from('token')],
  ['what has no text', { toString: () => { throw new Error('not to be called'); } }],
];

const NOBODY = [
  ['an empty string', ''],
  ['4097 bytes', 'x'.repeat(4097)],
  ['4097 bytes in 4096 characters', `${'x'.repeat(4095)}é`],
  ['4098 bytes in 1366 characters', '€'.repeat(1366)],
  ['4100 bytes in 2050 code units', '😀'.repeat(1025)],
  ['10 MB', 'x'.repeat(10 * 1024 * 1024)],
];

/** Of these a token might be made; an id is none of them. */
const STRANGE = [
  ['a lone high surrogate', '\ud800'],
  ['a lone low surrogate', 'a\udc00b'],
  ['surrogates in the wrong order', '\udc00\ud800'],
  ['NUL', '\0'],
  ['NUL within', 'a\0b'],
  ['SQL', "' OR 1=1 --"],
];

let database;
let postgres;

beforeAll(async () => {
  postgres = await startPostgres({ settings: { log_statement: 'all' } });
  process.env.DATABASE_URL = postgres.url;
  process.env.REDIS_KEY_PREFIX = 'arguments:';
  database = new Database(postgres.url);
});

afterAll(() => database.end());

describe.each(STRINGS)('%s: %s', (name, argument, args, nobody) => {
  const optional = name === 'revokeSessionWithCache' && argument === 'token';
  const wrong = NO_STRINGS.filter(([, value]) => !(optional && value == null));

  test.each(wrong)('%s is no string', async (_, value) => {
    const error = await rejection(() => addon[name](...args(value)));
    expect(error).toBeInstanceOf(TypeError);
    expect(error.code).toBe('ERR_INVALID_ARG');
    expect(error.message).toMatch(new RegExp(`^${argument} must be a string`));
  });

  if (argument === 'newToken') {
    test.each(NOBODY)('%s is no token', async (_, value) => {
      const error = await rejection(() => addon[name](...args(value)));
      expect(error).toBeInstanceOf(RangeError);
      expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringContaining('newToken') });
    });
  } else if (argument !== 'exceptSessionId') {
    // A session that stays though its id is none has tests of its own, in revoke.test.js.
    test.each([...NOBODY, ...STRANGE])('%s is nobody', async (_, value) => {
      expect(await addon[name](...args(value))).toBe(nobody);
    });
  }
});

test('a token may be left out where the id is enough', async () => {
  for (const args of [[ID], [ID, undefined], [ID, null]]) expect(await addon.revokeSessionWithCache(...args)).toBe(false);
});

test('what can be nobody is not looked up', async () => {
  const before = postgres.log.length;
  const alone = ['validateSessionWithCache', 'validateSession', 'revokeSessionByToken', 'revokeSessionWithCache'];
  for (const [, value] of NOBODY) {
    for (const name of alone) await addon[name](value);
    await addon.rotateSession(value, 'new', later());
  }
  for (const id of ['no-uuid', `${ID}0`, '{', '\0', ...NOBODY.map(([, value]) => value)]) {
    await addon.revokeSessionWithCache(id, 'token');
    await addon.revokeAllUserSessionsWithCache(id);
    await addon.revokeOtherSessions(id, ID);
    await addon.invalidateUserSessions(id);
  }
  expect(postgres.log.slice(before)).not.toMatch(/platform\.user_sessions/);
  await addon.validateSession('somebody, perhaps');
  expect(postgres.log.slice(before)).toMatch(/platform\.user_sessions/);
});

test.each([
  ['4096 bytes', 'x'.repeat(4096)],
  ['4096 bytes in 2048 characters', 'é'.repeat(2048)],
  ['4096 bytes in 1024 pairs', '😀'.repeat(1024)],
  ['a lone surrogate within', 'sur\ud800rogate'],
  ['NUL within', 'tok\0en'],
  ['one byte', 'x'],
])('a token of %s opens its session', async (_, token) => {
  const session = await database.createSession({ token });
  expect(await addon.validateSessionWithCache(token)).toMatchObject({ id: session.id });
  expect(await addon.validateSessionWithCache(token.slice(0, -1))).toBe(null);
  expect(await addon.validateSessionWithCache(`${token}\0`)).toBe(null);
});

test('a token that is cut where it would fit is not the longer one', async () => {
  const { id, token } = await database.createSession({ token: `${'y'.repeat(4093)}` });
  expect(await addon.validateSessionWithCache(token)).toMatchObject({ id });
  for (const rest of ['😀', '€€', 'é'.repeat(5000)]) expect(await addon.validateSessionWithCache(token + rest)).toBe(null);
});

describe('rotateSession: expiresAt', () => {
  const NO_DATES = [...NO_STRINGS, ['a string', '2099-01-01T00:00:00Z'], ['what looks like a Date', { getTime: () => 4e12 }], ['a Date by prototype', Object.create(Date.prototype)]];
  test.each(NO_DATES)('%s is no Date', async (_, value) => {
    const error = await rejection(() => addon.rotateSession('old', 'new', value));
    expect(error).toBeInstanceOf(TypeError);
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringMatching(/^expiresAt must be a Date/) });
  });

  test.each([
    ['an invalid Date', new Date(NaN)],
    ['the past', new Date(Date.now() - 1000)],
    ['a time before 1970', new Date(-1)],
  ])('%s is out of range', async (_, value) => {
    const error = await rejection(() => addon.rotateSession('old', 'new', value));
    expect(error).toBeInstanceOf(RangeError);
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringContaining('expiresAt') });
  });
});

describe('configureSessionCache', () => {
  const thrown = (options) => {
    try {
      addon.configureSessionCache(options);
    } catch (error) {
      return error;
    }
    throw new Error('It was accepted.');
  };
  /** What does not change by itself, as a push of Redis does that comes late. */
  const settled = () => ({ ...addon.getSessionCacheMetrics(), invalidationsBy: undefined });

  test.each([
    ['undefined', undefined, 'options'],
    ['null', null, 'options'],
    ['a boolean', false, 'options'],
    ['a string', 'enabled', 'options'],
    ['a function', () => {}, 'options'],
    ['a misspelled key', { enable: false }, 'enable'],
    ['a misspelled key beside a right one', { enabled: false, ttl: 1 }, 'ttl'],
    ['an array', [true], 'options'],
    ['enabled as a string', { enabled: 'false' }, 'enabled'],
    ['enabled as null', { enabled: null }, 'enabled'],
    ['enabled as a number', { enabled: 0 }, 'enabled'],
    ['ttlSeconds as a string', { ttlSeconds: '60' }, 'ttlSeconds'],
    ['ttlSeconds as a BigInt', { ttlSeconds: 60n }, 'ttlSeconds'],
    ['localEnabled as a string', { localEnabled: 'yes' }, 'localEnabled'],
    ['a getter that throws', { get enabled() { throw new Error('on purpose'); } }, 'enabled'],
  ])('%s is a TypeError', (_, options, named) => {
    const before = settled();
    const error = thrown(options);
    expect(error).toBeInstanceOf(TypeError);
    expect(error.code).toBe('ERR_INVALID_ARG');
    expect(error.message).toContain(named);
    expect(settled()).toEqual(before);
  });

  test.each([0, -1, 0.5, 1.5, 301, NaN, Infinity, -Infinity, 2 ** 53])('ttlSeconds %p is a RangeError, and nothing is changed', (ttlSeconds) => {
    const before = settled();
    const error = thrown({ enabled: !before.enabled, ttlSeconds });
    expect(error).toBeInstanceOf(RangeError);
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringContaining('ttlSeconds') });
    expect(settled()).toEqual(before);
  });

  test('a long misspelled name is not repeated whole', () => {
    expect(thrown({ ['x'.repeat(1_000_000)]: 1 }).message.length).toBeLessThan(500);
  });
});

describe('the Redis client', () => {
  const NO_ARGUMENTS = NO_STRINGS.filter(([, value]) => !(typeof value === 'number' || Buffer.isBuffer(value)));

  test.each([
    ['get', (client, value) => client.get(value), 'key'],
    ['set: key', (client, value) => client.set(value, 'x'), 'key'],
    ['set: value', (client, value) => client.set('arguments:x', value), 'value'],
    ['del', (client, value) => client.del('arguments:x', value), 'keys'],
  ])('%s takes text, numbers and bytes', async (_, call, named) => {
    for (const [, value] of NO_ARGUMENTS) {
      const error = await rejection(() => call(addon.getRedisClient(), value));
      expect(error).toBeInstanceOf(TypeError);
      expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringMatching(new RegExp(`^${named} must be`)) });
    }
    for (const value of [NaN, Infinity]) expect(await rejection(() => call(addon.getRedisClient(), value))).toBeInstanceOf(RangeError);
  });

  test.each([-1, 0.5, NaN, Infinity, 2 ** 32, '5', 5n, null])('set: %p is no expiration', async (value) => {
    const error = await rejection(() => addon.getRedisClient().set('arguments:x', 'y', value));
    expect(error).toBeInstanceOf(typeof value === 'number' ? RangeError : TypeError);
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringContaining('expirationSeconds') });
    expect(await addon.getRedisClient().get('arguments:x')).toBe(null);
  });

  test('what Redis itself refuses carries its word', async () => {
    const error = await rejection(() => addon.getRedisClient().call('DEL'));
    expect(error).toMatchObject({ code: 'ERR_REPLY', reply: 'ERR', message: expect.stringContaining('wrong number of arguments') });
  });
});

test.each([['a string', '5'], ['null', null], ['a BigInt', 5n], ['an object', {}]])('shutdown: %s is no number', async (_, value) => {
  const error = await rejection(() => addon.shutdown(value));
  expect(error).toBeInstanceOf(TypeError);
  expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringContaining('timeoutMs') });
});

test.each([-1, 0.5, NaN, Infinity, 2 ** 31])('shutdown: %p is out of range', async (value) => {
  const error = await rejection(() => addon.shutdown(value));
  expect(error).toBeInstanceOf(RangeError);
  expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringContaining('timeoutMs') });
});

test.each([['undefined', undefined], ['a string', 'log'], ['an object', {}]])('setLogHandler: %s is no function', (_, value) => {
  let error;
  try {
    addon.setLogHandler(value);
  } catch (caught) {
    error = caught;
  }
  expect(error).toBeInstanceOf(TypeError);
  expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringContaining('handler') });
});

test('the declarations accept what is right and refuse what is wrong', () => {
  const tsc = path.join(path.dirname(require.resolve('typescript/package.json')), 'bin', 'tsc');
  const options = ['--noEmit', '--strict', '--target', 'es2022', '--module', 'nodenext', '--types', 'node'];
  const { status, stdout } = spawnSync(process.execPath, [tsc, ...options, 'types.test-d.ts'], { cwd: __dirname, encoding: 'utf8' });
  expect({ status, stdout }).toEqual({ status: 0, stdout: '' });
});
