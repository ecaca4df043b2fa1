'use strict';

// Warming that is stopped, that has nowhere to go, or that is overtaken.

const { Database } = require('./helpers/database.js');
const { addon, here, keyOf, ready, validate, collectLog } = require('./fixtures/sessions/steps.js');
const { startRedis, startPostgres, startProxy, freePort, until } = require('./helpers/servers.js');
const { spawnWorker } = require('./helpers/process.js');
const { openRedis } = require('./fixtures/functional/redis.js');
const { withEnvironment } = require('./fixtures/functional/environment.js');

const { warmSessionCache: warm } = addon;

let database;
let postgres;
let server;
let redis;

beforeAll(async () => {
  [server, postgres] = await Promise.all([startRedis(), startPostgres()]);
  process.env.REDIS_URL = server.url;
  process.env.DATABASE_URL = postgres.url;
  process.env.REDIS_KEY_PREFIX = 'warm-faults:';
  database = new Database(postgres.url);
  redis = openRedis(server.url);
  await ready(here, database);
});

beforeEach(async () => {
  await database.query('TRUNCATE platform.users CASCADE');
  await redis.flushall();
});

afterEach(() => addon.setLogHandler(null));

afterAll(() => database.end());

const isCopied = async (session) => (await redis.hexists(keyOf(session), 'session')) === 1;
const copies = async (sessions) => (await Promise.all(sessions.map(isCopied))).filter(Boolean).length;
const NOTHING = { success: true, status: 'completed', total: 0, warmed: 0, failed: 0, durationMs: expect.any(Number) };

describe('a signal', () => {
  test('that is given before: nothing is warmed', async () => {
    const sessions = await database.createSessions(10);
    expect(await warm({ signal: AbortSignal.abort() })).toMatchObject({ success: false, status: 'stopped', warmed: 0, failed: 0 });
    expect(await copies(sessions)).toBe(0);
  });

  test('that is given meanwhile: it stops after the batch that is under way', async () => {
    const sessions = await database.createSessions(2000);
    const controller = new AbortController();
    let steps = 0;
    const result = await warm({
      limit: 2000,
      signal: controller.signal,
      onProgress: () => {
        steps += 1;
        controller.abort();
      },
    });
    expect(result).toMatchObject({ success: false, status: 'stopped', total: 2000 });
    expect(result.warmed).toBeGreaterThanOrEqual(100);
    expect(result.warmed).toBeLessThan(2000);
    expect(steps).toBeGreaterThanOrEqual(1);
    expect(await copies(sessions)).toBe(result.warmed);
  });

  test('that comes at once after the call', async () => {
    await database.createSessions(2000);
    const controller = new AbortController();
    const warming = warm({ limit: 2000, signal: controller.signal });
    controller.abort(new Error('mine'));
    expect(await warming).toMatchObject({ success: false, status: 'stopped' });
  });

  test('that never comes, or comes too late, changes nothing', async () => {
    await database.createSessions(10);
    const controller = new AbortController();
    expect(await warm({ signal: controller.signal })).toMatchObject({ status: 'completed', warmed: 10 });
    controller.abort();
    expect(await warm()).toMatchObject({ status: 'completed', warmed: 10 });
  });

  test('serves many times, and is not held', async () => {
    const { signal } = new AbortController();
    const warnings = [];
    const listen = (warning) => warnings.push(warning.name);
    process.on('warning', listen);
    for (let round = 0; round < 30; round += 1) await warm({ signal });
    await new Promise(setImmediate);
    process.off('warning', listen);
    expect(warnings).toEqual([]);
  });
});

test.each([
  ['throws', () => { throw new Error('on purpose'); }, 'on purpose'],
  ['throws what is no error', () => { throw 'this text'; }, 'this text'],
])('an onProgress that %s is logged and stops nothing', async (_, onProgress, text) => {
  const log = collectLog();
  await database.createSessions(250);
  expect(await warm({ onProgress })).toMatchObject({ status: 'completed', warmed: 250 });
  await until(() => log.lines.length > 0, { what: 'a line' });
  expect(log.lines[0]).toMatchObject({ message: expect.stringContaining(text) });
});

test('an onProgress that asks for sessions, and warms once more', async () => {
  const [session] = await database.createSessions(150);
  const calls = [];
  await warm({
    onProgress: () => {
      calls.push(validate(here, session), warm({ limit: 1 }));
    },
  });
  await until(() => calls.length >= 4, { what: 'all progress' });
  for (const answer of await Promise.all(calls)) expect(answer).toBeTruthy();
});

describe('there is nothing to warm', () => {
  beforeEach(() => database.createSessions(3));

  test('without Redis', async () => {
    await withEnvironment({ REDIS_URL: undefined }, async () => {
      const onProgress = jest.fn();
      expect(await warm({ onProgress })).toStrictEqual(NOTHING);
      expect(await addon.sessionCache.warmSession('token')).toBe(false);
    });
  });

  test('with the cache switched off', async () => {
    addon.configureSessionCache({ enabled: false });
    try {
      expect(await warm()).toStrictEqual(NOTHING);
      const session = await database.createSession();
      expect(await addon.sessionCache.warmSession(session.token)).toBe(false);
      expect(await isCopied(session)).toBe(false);
    } finally {
      addon.configureSessionCache({ enabled: true });
    }
  });
});

describe('a server that is away', () => {
  beforeEach(() => addon.setLogHandler(() => {}));

  test('Redis from the start', async () => {
    await database.createSessions(10);
    await withEnvironment({ REDIS_URL: `redis://127.0.0.1:${await freePort()}` }, async () => {
      expect(await warm()).toMatchObject({ success: false, status: 'failed', warmed: 0 });
    });
  });

  test('Redis from amid it on: it says how far it came', async () => {
    const sessions = await database.createSessions(3000);
    const proxy = await startProxy(server.port);
    await withEnvironment({ REDIS_URL: proxy.url('redis') }, async () => {
      let cut;
      const result = await warm({ limit: 3000, onProgress: () => (cut ??= proxy.cut()) });
      await cut;
      expect(result).toMatchObject({ success: false, status: 'failed', total: 3000 });
      expect(result.warmed).toBeGreaterThanOrEqual(100);
      expect(result.warmed).toBeLessThan(3000);
      expect(await copies(sessions)).toBeGreaterThanOrEqual(result.warmed);
    });
  });

  test('Redis that stands still amid it: it does not hang', async () => {
    await database.createSessions(1000);
    const proxy = await startProxy(server.port);
    await withEnvironment({ REDIS_URL: proxy.url('redis') }, async () => {
      const result = await warm({ onProgress: () => proxy.freeze() });
      expect(result).toMatchObject({ success: false, status: 'failed' });
      proxy.thaw();
    });
  });

  test('Postgres', async () => {
    await withEnvironment({ DATABASE_URL: `postgres://postgres@127.0.0.1:${await freePort()}/x` }, async () => {
      expect(await warm()).toMatchObject({ success: false, status: 'failed', warmed: 0 });
    });
  });
});

describe('a session that ends while it is warmed', () => {
  test.each([
    ['revokeSessionWithCache', ({ id }) => ['revokeSessionWithCache', id]],
    ['revokeSessionByToken', ({ token }) => ['revokeSessionByToken', token]],
    ['revokeAllUserSessionsWithCache', ({ userId }) => ['revokeAllUserSessionsWithCache', userId]],
    ['rotateSession', ({ token }) => ['rotateSession', token, `${token}-new`, new Date(Date.now() + 3_600_000)]],
  ])('by %s never comes back', async (_, call) => {
    const sessions = await database.createSessions(1500);
    const ending = sessions.filter((__, index) => index % 10 === 0);
    const other = await ready(await spawnWorker(), database);
    for (const one of [here, other]) {
      let warming = true;
      const done = Promise.all([warm({ limit: 1500 }), other.call('warmSessionCache', { limit: 1500 })]).then(() => (warming = false));
      const batch = ending.splice(0, 75);
      let amid = 0;
      for (const session of batch) {
        amid += warming ? 1 : 0;
        expect(await one.call(...call(session))).toBeTruthy();
        expect(await validate(one, session)).toBe(null);
      }
      await done;
      expect(amid).toBeGreaterThan(0);
      for (const session of batch) {
        expect(await isCopied(session)).toBe(false);
        expect(await Promise.all([validate(here, session), validate(other, session)])).toEqual([null, null]);
      }
    }
  });
});
