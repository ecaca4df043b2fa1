'use strict';

// A session gets a new token: from that moment on the old one is nobody's.

const { randomUUID } = require('node:crypto');
const vm = require('node:vm');
const addon = require('./fixtures/functional/addon.js');
const { Database, hashOf } = require('./helpers/database.js');
const { openRedis, untilCopied } = require('./fixtures/functional/redis.js');
const { rejection } = require('./fixtures/functional/environment.js');

const PREFIX = 'rotate:';
const { validateSessionWithCache: validate, rotateSession: rotate } = addon;
const inAnHour = () => new Date(Date.now() + 3_600_000);

let database;
let redis;

beforeAll(() => {
  process.env.REDIS_KEY_PREFIX = PREFIX;
  database = new Database();
  redis = openRedis();
});

afterAll(() => database.end());

const keyOf = (hash) => `${PREFIX}session:${hash}`;

async function cached(options) {
  const session = await database.createSession(options);
  expect(await validate(session.token)).toMatchObject({ id: session.id });
  await untilCopied(redis, session, { again: () => validate(session.token) });
  return session;
}

async function expectUntouched(session) {
  expect(await validate(session.token)).toMatchObject({ id: session.id, expiresAt: session.expiresAt.toISOString() });
}

test.each([
  ['the past', () => new Date(Date.now() - 1000), RangeError],
  ['this moment', () => new Date(), RangeError],
  ['an invalid Date', () => new Date('tomorrow'), RangeError],
  ['a number', () => Date.now() + 3_600_000, TypeError],
  ['an ISO string', () => inAnHour().toISOString(), TypeError],
  ['nothing', () => undefined, TypeError],
])('expiresAt: %s', async (_, expiresAt, type) => {
  const session = await cached();
  const next = randomUUID();
  const error = await rejection(() => rotate(session.token, next, expiresAt()));
  expect(error).toBeInstanceOf(type);
  expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringContaining('expiresAt') });
  await expectUntouched(session);
  expect(await validate(next)).toBe(null);
});

test.each([
  ['empty', () => ''],
  ['too long', () => 'x'.repeat(4097)],
  ['the same', (session) => session.token],
])('newToken: %s', async (_, newToken) => {
  const session = await cached();
  const error = await rejection(() => rotate(session.token, newToken(session), inAnHour()));
  expect(error).toBeInstanceOf(RangeError);
  expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringContaining('newToken') });
  await expectUntouched(session);
});

test('newToken: that of another session', async () => {
  const [session, other] = [await cached(), await cached()];
  const error = await rejection(() => rotate(session.token, other.token, inAnHour()));
  expect(error).toBeInstanceOf(RangeError);
  expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringContaining('newToken') });
  expect(error.message).not.toContain(other.token);
  await expectUntouched(session);
  await expectUntouched(other);
});

test.each([
  ['an unknown token', async () => ({ token: randomUUID() })],
  ['an empty token', async () => ({ token: '' })],
  ['an expired session', () => database.createSession({ expiresInSeconds: -5 })],
  ['a revoked session', async () => {
    const session = await cached();
    await addon.revokeSessionWithCache(session.id);
    return session;
  }],
  ['a session of a banned user', async () => {
    const session = await database.createSession();
    await database.banUser(session.userId);
    return session;
  }],
  ['a session of a deleted user', async () => {
    const session = await database.createSession();
    await database.deleteUser(session.userId);
    return session;
  }],
])('%s is not rotated', async (_, make) => {
  const { token } = await make();
  const next = randomUUID();
  expect(await rotate(token, next, inAnHour())).toBe(false);
  expect(await validate(token)).toBe(null);
  expect(await validate(next)).toBe(null);
});

test('the old token is refused at once, and the new one opens the same session with its new end', async () => {
  const [session, bystander] = [await cached(), await cached()];
  const [next, expiresAt] = [randomUUID(), new Date(Date.now() + 7_200_123)];
  expect(await rotate(session.token, next, expiresAt)).toBe(true);
  expect(await redis.exists(keyOf(session.hash))).toBe(0);
  expect(await validate(session.token)).toBe(null);
  expect(await addon.validateSession(session.token)).toBe(null);
  const expected = { id: session.id, userId: session.userId, token: hashOf(next), expiresAt: expiresAt.toISOString() };
  expect(await validate(next)).toMatchObject(expected);
  await untilCopied(redis, { hash: hashOf(next) });
  expect(await validate(next)).toMatchObject(expected);
  const [row] = await database.query('SELECT token, expires_at FROM platform.user_sessions WHERE id = $1', [session.id]);
  expect(row).toEqual({ token: hashOf(next), expires_at: expiresAt });
  await expectUntouched(bystander);
});

test('a new token that was asked for before is valid at once', async () => {
  const [session, next] = [await cached(), randomUUID()];
  expect(await validate(next)).toBe(null);
  expect(await rotate(session.token, next, inAnHour())).toBe(true);
  expect(await validate(next)).toMatchObject({ id: session.id });
});

test('there and back again', async () => {
  const [session, next] = [await cached(), randomUUID()];
  expect(await rotate(session.token, next, inAnHour())).toBe(true);
  expect(await validate(next)).toMatchObject({ id: session.id });
  expect(await rotate(next, session.token, inAnHour())).toBe(true);
  expect(await validate(next)).toBe(null);
  expect(await validate(session.token)).toMatchObject({ id: session.id });
});

test('of two rotations at once one succeeds', async () => {
  const [session, tokens] = [await cached(), [randomUUID(), randomUUID()]];
  const answers = await Promise.all(tokens.map((next) => rotate(session.token, next, inAnHour())));
  expect(answers.filter(Boolean)).toHaveLength(1);
  expect(await validate(session.token)).toBe(null);
  const valid = await Promise.all(tokens.map((next) => validate(next)));
  expect(valid.map((found) => found !== null)).toEqual(answers);
});

test('validations of the old token that are under way leave no copy behind', async () => {
  for (let round = 0; round < 20; round += 1) {
    const [session, next] = [await database.createSession(), randomUUID()];
    const reads = Array.from({ length: 20 }, () => validate(session.token));
    expect(await rotate(session.token, next, inAnHour())).toBe(true);
    await Promise.all(reads);
    expect(await validate(session.token)).toBe(null);
    expect(await validate(next)).toMatchObject({ id: session.id });
  }
});

test('the longest token, and a token of any text', async () => {
  for (const next of [`${randomUUID()}${'x'.repeat(4060)}`, `${randomUUID()} \0 日本 '"`]) {
    const session = await cached();
    expect(await rotate(session.token, next, inAnHour())).toBe(true);
    expect(await validate(next)).toMatchObject({ id: session.id });
  }
});

test('a Date of another realm, and the last one', async () => {
  const [session, ...tokens] = [await cached(), randomUUID(), randomUUID()];
  const foreign = vm.runInNewContext('new Date(Date.now() + 3600000)');
  expect(await rotate(session.token, tokens[0], foreign)).toBe(true);
  expect(await validate(tokens[0])).toMatchObject({ expiresAt: new Date(foreign.getTime()).toISOString() });
  expect(await rotate(tokens[0], tokens[1], new Date(8.64e15))).toBe(true);
  expect(new Date((await validate(tokens[1])).expiresAt).getFullYear()).toBeGreaterThan(9000);
});
