'use strict';

// The environment: what is wrong is named, without a secret; what is right is used, without a restart.

const { mkdtempSync, rmSync } = require('node:fs');
const { tmpdir } = require('node:os');
const path = require('node:path');
const addon = require('./fixtures/functional/addon.js');
const { Database } = require('./helpers/database.js');
const { startRedis, freePort } = require('./helpers/servers.js');
const { spawnWorker, runScript } = require('./helpers/process.js');
const { openRedis, untilCopied } = require('./fixtures/functional/redis.js');
const { withEnvironment, rejection } = require('./fixtures/functional/environment.js');
const { here, ready, untilLocal } = require('./fixtures/sessions/steps.js');

const SECRET = 'hunter2';
const { validateSessionWithCache: validate } = addon;

let database;

beforeAll(() => {
  database = new Database();
  // Warnings of servers that are not there are meant to be.
  addon.setLogHandler(() => {});
});

afterAll(() => database.end());

test.each([
  ['REDIS_URL', SECRET],
  ['REDIS_URL', `http://:${SECRET}@127.0.0.1`],
  ['REDIS_URL', `redis://:${SECRET}@127.0.0.1:99999`],
  ['REDIS_URL', `redis://:${SECRET}@127.0.0.1:6379/first`],
  ['REDIS_URL', `redis://:${SECRET}@127.0.0.1:6379/-1`],
  ['REDIS_URL', `redis://:${SECRET}@`],
  ['REDIS_URL', `redis://user:%ff${SECRET}@127.0.0.1`],
  ['REDIS_URL', 'unix:'],
  ['DATABASE_URL', SECRET],
  ['DATABASE_URL', `mysql://studio:${SECRET}@127.0.0.1/studio`],
  ['DATABASE_URL', `postgres://studio:${SECRET}@127.0.0.1:99999/studio`],
  ['DATABASE_URL', `postgres://studio:${SECRET}@127.0.0.1:port/studio`],
  ['DATABASE_URL', `postgres://studio:${SECRET}@127.0.0.1/studio?sslmode=perhaps`],
  ['DATABASE_POOL_SIZE', '0'],
  ['DATABASE_POOL_SIZE', '1.5'],
  ['DATABASE_POOL_SIZE', '1001'],
  ['DATABASE_POOL_SIZE', 'ten'],
  ['DATABASE_STATEMENT_CACHE', 'no'],
  ['SESSION_CACHE_ENABLED', 'maybe'],
  ['SESSION_CACHE_ENABLED', 'TRUE '],
  ['SESSION_CACHE_TTL_SECONDS', '0'],
  ['SESSION_CACHE_TTL_SECONDS', '-1'],
  ['SESSION_CACHE_TTL_SECONDS', '301'],
  ['SESSION_CACHE_TTL_SECONDS', '5m'],
  ['SESSION_CACHE_TTL_SECONDS', '1e2'],
  ['STUDIO_REDIS_LOG', 'studio_redis_native=loud'],
  ['STUDIO_REDIS_LOG', '[[['],
])('%s=%s is refused by name, and the corrected value works at once', async (name, value) => {
  const { token, id } = await database.createSession();
  const former = process.env[name];
  await addon.shutdown();
  process.env[name] = value;
  try {
    const error = await rejection(() => validate(token));
    expect(error).toBeInstanceOf(Error);
    expect(error.code).toBe('ERR_INVALID_CONFIG');
    expect(error.message).toContain(name);
    expect(JSON.stringify([error.message, error.stack, error])).not.toContain(SECRET);
    expect(() => addon.getSessionCacheMetrics()).toThrow(expect.objectContaining({ code: 'ERR_INVALID_CONFIG' }));
    expect(() => addon.getRedisClient()).toThrow(expect.objectContaining({ code: 'ERR_INVALID_CONFIG' }));
  } finally {
    if (former === undefined) delete process.env[name];
    else process.env[name] = former;
  }
  expect(await validate(token)).toMatchObject({ id });
});

test.each([
  ['REDIS_USE_TLS', SECRET],
  ['REDIS_SENTINEL_HOSTS', `redis://${SECRET}:26379`],
  ['REDIS_CA_CERT', SECRET],
  ['REDIS_CLIENT_KEY', SECRET],
])('%s that can not be is refused, not ignored', async (name, value) => {
  await withEnvironment({ [name]: value }, async () => {
    const error = await rejection(() => validate('token'));
    expect(error).toMatchObject({ code: 'ERR_INVALID_CONFIG', message: expect.stringContaining(name) });
    // A switch is no secret.
    if (name !== 'REDIS_USE_TLS') expect(error.message).not.toContain(SECRET);
  });
});

test('a variable that can not be read is named', async () => {
  const source = `
    process.env = new Proxy({ DATABASE_URL: 'postgres://127.0.0.1/x' }, { get(target, name) { if (name === 'REDIS_URL') throw new Error('on purpose'); return target[name]; } });
    require('./index.js').validateSession('token').catch((error) => console.log(error.code, error.message));`;
  expect((await runScript(source)).stdout).toMatch(/^ERR_INVALID_CONFIG .*REDIS_URL/);
});

describe('without DATABASE_URL', () => {
  const CALLS = [
    ['validateSessionWithCache', ['token']],
    ['validateSession', ['token']],
    ['revokeSessionWithCache', ['00000000-0000-4000-8000-000000000000']],
    ['revokeSessionByToken', ['token']],
    ['revokeAllUserSessionsWithCache', ['00000000-0000-4000-8000-000000000000']],
    ['revokeOtherSessions', ['00000000-0000-4000-8000-000000000000', '00000000-0000-4000-8000-000000000001']],
    ['rotateSession', ['token', 'new', new Date(Date.now() + 60_000)]],
    ['invalidateUserSessions', ['00000000-0000-4000-8000-000000000000']],
  ];

  test.each([undefined, ''])('%p: who asks for sessions is told, and Redis works', async (value) => {
    await withEnvironment({ DATABASE_URL: value }, async () => {
      for (const [name, args] of CALLS) {
        const error = await rejection(() => addon[name](...args));
        expect(error).toMatchObject({ code: 'ERR_NOT_CONFIGURED', message: expect.stringContaining('DATABASE_URL') });
      }
      expect(await addon.invalidateSessionCache('token')).toBe(undefined);
      expect(await addon.getRedisClient().ping()).toBe('PONG');
      expect(addon.getBreakerState()).toEqual({ redis: 'closed', postgres: 'closed' });
    });
    const { token, id } = await database.createSession();
    expect(await validate(token)).toMatchObject({ id });
  });
});

describe('without REDIS_URL', () => {
  test.each([undefined, ''])('%p: Postgres alone answers', async (value) => {
    await withEnvironment({ REDIS_URL: value }, async () => {
      const [session, other] = [await database.createSession(), await database.createSession()];
      expect(addon.getRedisClient()).toBe(null);
      expect(await addon.checkRedisHealth()).toBe(false);
      await untilLocal(here, session);
      expect(addon.getSessionCacheMetrics()).toMatchObject({ redisHits: 0, errors: 0 });
      expect(await addon.invalidateUserSessions(session.userId)).toBe(1);
      expect(await addon.rotateSession(session.token, `${session.token}2`, new Date(Date.now() + 60_000))).toBe(true);
      expect(await addon.revokeSessionByToken(`${session.token}2`)).toBe(true);
      expect(await validate(`${session.token}2`)).toBe(null);
      expect(await addon.revokeSessionWithCache(other.id)).toBe(true);
      expect(await validate(other.token)).toBe(null);
    });
  });

  test('a client from before says so', async () => {
    const client = addon.getRedisClient();
    await withEnvironment({ REDIS_URL: undefined }, async () => {
      const error = await rejection(() => client.ping());
      expect(error).toMatchObject({ code: 'ERR_NOT_CONFIGURED', message: expect.stringContaining('REDIS_URL') });
    });
    expect(await client.ping()).toBe('PONG');
  });

  test('one warning says so', async () => {
    const worker = await spawnWorker(undefined, { REDIS_URL: undefined });
    for (let call = 0; call < 3; call += 1) {
      await worker.call('getRedisClient');
      await worker.call('validateSessionWithCache', 'token');
    }
    await worker.call('shutdown');
    await worker.release();
    expect(worker.stderr.match(/REDIS_URL/g)).toHaveLength(1);
    expect(worker.stderr).toContain('"level":"WARN"');
  });
});

test.each(['', 'app:', 'a b{c}*?é:'])('REDIS_KEY_PREFIX=%p stands before every key', async (prefix) => {
  const redis = openRedis();
  const session = await database.createSession();
  await withEnvironment({ REDIS_KEY_PREFIX: prefix }, async () => {
    await ready(here, database);
    await validate(session.token);
    expect(await untilCopied(redis, session, { prefix })).toContain(session.id);
    const keys = await redis.keys(`*${session.hash}`);
    expect(keys).toEqual([`${prefix}session:${session.hash}`]);
    await addon.revokeSessionByToken(session.token);
    expect(await redis.keys(`*${session.hash}`)).toEqual([]);
  });
});

describe('a Redis of its own', () => {
  /** A session is cached in the server that `outside` looks into. */
  async function expectCachedIn(outside, url) {
    await withEnvironment({ REDIS_URL: url }, async () => {
      await ready(here, database);
      const session = await database.createSession();
      await validate(session.token);
      await untilCopied(outside, session);
      expect(await addon.sessionCacheHealthCheck()).toBe(true);
      addon.resetSessionCacheMetrics();
      await validate(session.token);
      expect(addon.getSessionCacheMetrics()).toMatchObject({ redisHits: 1, errors: 0 });
      expect(await addon.getRedisClient().ping()).toBe('PONG');
      expect(await addon.checkRedisHealth()).toBe(true);
    });
  }

  test('requirepass, and a wrong password', async () => {
    const server = await startRedis({ args: ['--requirepass', 'p@ss:w/rd%?#'] });
    const outside = openRedis(server.url, { password: 'p@ss:w/rd%?#' });
    const url = (password) => `redis://:${encodeURIComponent(password)}@127.0.0.1:${server.port}`;
    await expectCachedIn(outside, url('p@ss:w/rd%?#'));
    await withEnvironment({ REDIS_URL: url(SECRET) }, async () => {
      const session = await database.createSession();
      expect(await validate(session.token)).toMatchObject({ id: session.id });
      expect(await addon.checkRedisHealth()).toBe(false);
      const error = await rejection(() => addon.getRedisClient().ping());
      expect(error.message).toContain('WRONGPASS');
      expect(error.message).not.toContain(SECRET);
    });
  });

  test('an ACL user whose name and password need percent-encoding', async () => {
    const server = await startRedis();
    const outside = openRedis(server.url);
    await outside.call('ACL', 'SETUSER', 'st@dio:ü', 'on', '>p@ss/w:rd%é', '~session:*', '&*', '+@all');
    await outside.call('ACL', 'SETUSER', 'default', 'resetpass', '>other');
    const credentials = ['st@dio:ü', 'p@ss/w:rd%é'].map(encodeURIComponent).join(':');
    await expectCachedIn(outside, `redis://${credentials}@127.0.0.1:${server.port}`);
  });

  test('a database by number', async () => {
    const server = await startRedis();
    await expectCachedIn(openRedis(server.url, { db: 3 }), `${server.url}/3`);
    expect(await openRedis(server.url).dbsize()).toBe(0);
  });

  test('a Unix socket, and a database on it', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'socket '));
    try {
      const server = await startRedis({ args: ['--unixsocket', path.join(folder, 'redis.sock')] });
      const url = `unix:${folder.replace(' ', '%20')}/redis.sock`;
      await expectCachedIn(openRedis(server.url), url);
      await expectCachedIn(openRedis(server.url, { db: 2 }), `${url}?db=2`);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  test('localhost, and valkey:', async () => {
    const server = await startRedis();
    await expectCachedIn(openRedis(server.url), `valkey://localhost:${server.port}`);
  });

  test('a server that is not there', async () => {
    await withEnvironment({ REDIS_URL: `redis://:${SECRET}@127.0.0.1:${await freePort()}` }, async () => {
      const session = await database.createSession();
      expect(await validate(session.token)).toMatchObject({ id: session.id });
      const error = await rejection(() => addon.getRedisClient().ping());
      expect(error).toMatchObject({ code: 'ERR_CONNECTION', message: expect.stringContaining('127.0.0.1') });
      expect(error.message).not.toContain(SECRET);
    });
  });
});

test('a Postgres that is not there is an error that shows no password', async () => {
  await withEnvironment({ DATABASE_URL: `postgres://studio:${SECRET}@127.0.0.1:${await freePort()}/studio` }, async () => {
    const error = await rejection(() => validate('token'));
    expect(error.code).toBe('ERR_SESSION_STORE');
    expect(error.message).toContain('127.0.0.1');
    expect(error.cause).toMatchObject({ code: 'ERR_CONNECTION' });
    expect(JSON.stringify([error.message, error.stack, error.cause.message])).not.toContain(SECRET);
  });
});

test.each([{ DATABASE_STATEMENT_CACHE: 'false' }, { DATABASE_POOL_SIZE: '1' }, { SESSION_CACHE_ENABLED: '0' }])('works with %p', async (variables) => {
  await withEnvironment(variables, async () => {
    const sessions = await database.createSessions(50);
    const found = await Promise.all(sessions.map(({ token }) => validate(token)));
    expect(found.map(({ id }) => id)).toEqual(sessions.map(({ id }) => id));
    expect(await addon.revokeSessionByToken(sessions[0].token)).toBe(true);
    expect(await validate(sessions[0].token)).toBe(null);
  });
});
