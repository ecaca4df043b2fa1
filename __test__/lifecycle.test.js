'use strict';

// Loading starts nothing, pending promises are kept, the end of a process or a thread harms nobody, and there is one pool.

const path = require('node:path');
const addon = require('./fixtures/functional/addon.js');
const { Database } = require('./helpers/database.js');
const { startPostgres, startProxy, startRedis, until } = require('./helpers/servers.js');
const { runScript } = require('./helpers/process.js');
const { openRedis, connectionsOf, untilCopied } = require('./fixtures/functional/redis.js');
const { rejection, withEnvironment } = require('./fixtures/functional/environment.js');

const onLinux = process.platform === 'linux' ? test : test.skip;
const FIXTURES = path.join(__dirname, 'fixtures', 'functional');

let database;
let postgres;
let redis;

beforeAll(async () => {
  postgres = await startPostgres();
  process.env.DATABASE_URL = postgres.url;
  process.env.REDIS_KEY_PREFIX = 'lifecycle:';
  database = new Database(postgres.url);
  redis = openRedis();
});

afterAll(() => database.end());

/** A session that has a copy in Redis. */
async function cached(outside = redis) {
  const session = await database.createSession();
  expect(await addon.validateSessionWithCache(session.token)).toMatchObject({ id: session.id });
  await untilCopied(outside, session, { again: () => addon.validateSessionWithCache(session.token) });
  return session;
}

/** The connections of a process: the least size of the pool of `REDIS_URL`, and the one for sessions. */
const ONE_POOL = ['commands', 'commands', 'sessions'];

const untilOnePool = () => {
  const roles = async () => (await connectionsOf(redis, process.pid)).sort().join();
  return until(async () => (await roles()) === ONE_POOL.join(), { deadlineMs: 5000, what: 'the connections of one pool' });
};

/**
 * Runs a script that knows the addon as `addon` and tells of answers by `got`. It ends with 9 if something keeps it for
 * a second after the last of them; the timer itself keeps nothing.
 */
const run = (source, options) =>
  runScript(
    `const addon = require('./index.js');
     const got = (...what) => { console.log('got', ...what); setTimeout(() => process.exit(9), 1000).unref(); };
     ${source}`,
    options,
  );

describe('a process ends', () => {
  const QUIET = { code: 0, signal: null, stderr: '' };

  onLinux('require, and calls that need no server, start no thread and open no socket', async () => {
    const source = `
      const { readdirSync, readlinkSync } = require('node:fs');
      const threads = () => readdirSync('/proc/self/task').length;
      const sockets = () => readdirSync('/proc/self/fd').filter((fd) => {
        try { return readlinkSync('/proc/self/fd/' + fd).startsWith('socket:'); } catch { return false; }
      }).length;
      const counts = [[threads(), sockets()]];
      const addon = require('./index.js');
      counts.push([threads(), sockets()]);
      addon.getSessionCacheMetrics(); addon.resetSessionCacheMetrics(); addon.configureSessionCache({ enabled: true });
      addon.getRedisClient(); addon.getBreakerState(); addon.setLogHandler(() => {}); addon.setLogHandler(null);
      counts.push([threads(), sockets()]);
      addon.shutdown().then(() => addon.validateSession('token')).then(() => {
        counts.push([threads(), sockets()]);
        console.log(JSON.stringify(counts));
      });`;
    const result = await runScript(source);
    expect(result).toMatchObject(QUIET);
    const [before, loaded, asked, connected] = JSON.parse(result.stdout);
    expect(loaded).toEqual(before);
    expect(asked).toEqual(before);
    // The proof that these counts can tell.
    expect(connected[0]).toBeGreaterThan(before[0]);
    expect(connected[1]).toBeGreaterThan(before[1]);
  });

  test.each([
    ['nothing', 'got();'],
    ['a log handler', 'got(addon.setLogHandler(() => {}));'],
    ['a client', 'got(addon.getRedisClient().getPoolStats());'],
    ['metrics', 'got(addon.getSessionCacheMetrics());'],
  ])('after %s at once', async (_, source) => {
    expect(await run(source)).toMatchObject(QUIET);
  });

  test.each([
    ['an answer', "addon.validateSessionWithCache('token').then((session) => got(session))", 'got null\n'],
    ['a Redis reply', "addon.getRedisClient().ping().then((reply) => got(reply))", 'got PONG\n'],
    ['a rejection', "addon.validateSessionWithCache(1).catch((error) => got(error.code))", 'got ERR_INVALID_ARG\n'],
    ['a chain', "(async () => { for (let i = 0; i < 20; i += 1) await addon.validateSession('t' + i); got('all'); })()", 'got all\n'],
    ['a shutdown', "addon.validateSession('t').then(() => addon.shutdown()).then(() => got('down'))", 'got down\n'],
    ['a call after a shutdown', "addon.shutdown().then(() => addon.validateSession('t')).then(() => got('up'))", 'got up\n'],
  ])('with %s pending only after it came', async (_, source, stdout) => {
    expect(await run(source)).toMatchObject({ ...QUIET, stdout });
  });

  test('with an answer pending for long only after it came', async () => {
    const proxy = await startProxy(postgres.port);
    const url = new URL(postgres.url);
    url.port = proxy.port;
    const { token, id } = await database.createSession();
    proxy.holdReplies();
    const ended = run(`addon.validateSession('${token}').then((session) => got(session.id))`, { env: { DATABASE_URL: url.href } });
    await until(() => proxy.bytes.toServer > 0, { what: 'the first bytes' });
    await new Promise((resolve) => setTimeout(resolve, 1000));
    proxy.release();
    expect(await ended).toMatchObject({ ...QUIET, stdout: `got ${id}\n` });
  });

  test('by process.exit() in the middle of calls', async () => {
    const result = await run("for (let i = 0; i < 500; i += 1) addon.validateSessionWithCache('t' + i).then(() => process.exit(7))");
    expect(result).toMatchObject({ code: 7, signal: null, stderr: '' });
  });

  test('by an error of its own in a callback, as any Node process does', async () => {
    const result = await run("addon.validateSession('t').then(() => { throw new Error('mine'); })");
    expect(result).toMatchObject({ code: 1, signal: null, stderr: expect.stringContaining('Error: mine') });
  });

  test('with a rejection that nobody handles, as any Node process does; handled ones are handled', async () => {
    const handled = "process.on('unhandledRejection', () => process.exit(8)); for (const call of [addon.validateSession(1), addon.shutdown(-1), addon.rotateSession('a', 'a', new Date(8e15))]) call.catch(() => {});";
    expect(await run(handled)).toMatchObject(QUIET);
    expect(await run('addon.validateSession(1);')).toMatchObject({ code: 1, signal: null, stderr: expect.stringContaining('ERR_INVALID_ARG') });
  });
});

describe('shutdown', () => {
  const connections = () => connectionsOf(redis, process.pid);
  const noConnection = () => until(async () => (await connections()).length === 0, { deadlineMs: 5000, what: 'the last connection to end' });
  const backends = async () => Number((await database.query('SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()'))[0].count);

  test('before the first use, twice, and at once', async () => {
    expect(await addon.shutdown()).toBe(undefined);
    expect(await Promise.all([addon.shutdown(), addon.shutdown(0), addon.shutdown(100)])).toEqual([undefined, undefined, undefined]);
  });

  test('closes every connection, and the next call opens new ones', async () => {
    const session = await database.createSession();
    const idle = await backends();
    for (let round = 0; round < 3; round += 1) {
      expect(await addon.validateSessionWithCache(session.token)).toMatchObject({ id: session.id });
      expect(await addon.validateSession(session.token)).toMatchObject({ id: session.id });
      expect(await addon.getRedisClient().ping()).toBe('PONG');
      await untilOnePool();
      expect(await backends()).toBeGreaterThan(idle);
      await Promise.all([addon.shutdown(), addon.shutdown()]);
      await noConnection();
      await until(async () => (await backends()) === idle, { deadlineMs: 5000, what: 'the last session of Postgres to end' });
    }
  });

  test('a client from before works after it', async () => {
    const client = addon.getRedisClient();
    expect(await client.ping()).toBe('PONG');
    await addon.shutdown();
    expect(await client.ping()).toBe('PONG');
  });

  test('lets calls that are under way finish', async () => {
    const sessions = await database.createSessions(200);
    const calls = sessions.map(({ token }) => addon.validateSessionWithCache(token));
    await addon.shutdown();
    expect((await Promise.all(calls)).map(({ id }) => id)).toEqual(sessions.map(({ id }) => id));
  });

  test('amid calls and other shutdowns, every call is answered', async () => {
    const { token, id } = await database.createSession();
    for (let round = 0; round < 20; round += 1) {
      const calls = [addon.validateSessionWithCache(token), addon.shutdown(), addon.validateSessionWithCache(token), addon.shutdown()];
      const [before, , after] = await Promise.allSettled(calls);
      // What a shutdown overtakes may fail, but not with "nobody".
      for (const { status, value, reason } of [before, after]) {
        expect(status === 'fulfilled' ? value.id : reason.code).toMatch(new RegExp(`^(${id}|ERR_SESSION_STORE)$`));
      }
    }
    expect(await addon.validateSessionWithCache(token)).toMatchObject({ id });
    await addon.shutdown();
    await noConnection();
  });

  test('a revocation that is under way is finished by it, and holds after it', async () => {
    for (let round = 0; round < 50; round += 1) {
      const session = await cached();
      const revoked = addon.revokeSessionWithCache(session.id).catch((error) => error.code);
      for (let turn = 0; turn < round % 10; turn += 1) await new Promise(setImmediate);
      await addon.shutdown();
      // Under way before the shutdown, with all servers there: five seconds are enough for it.
      expect(await revoked).toBe(true);
      expect(await redis.exists(`lifecycle:session:${session.hash}`)).toBe(0);
      expect(await addon.validateSessionWithCache(session.token)).toBe(null);
    }
  });

  test('a revocation that could not be delivered to Redis before it holds after it', async () => {
    const server = await startRedis();
    const proxy = await startProxy(server.port);
    await withEnvironment({ REDIS_URL: proxy.url('redis') }, async () => {
      const session = await cached(openRedis(server.url));
      await proxy.cut();
      expect(await addon.revokeSessionWithCache(session.id)).toBe(true);
      await addon.shutdown(200);
      await proxy.restore();
      expect(await addon.validateSessionWithCache(session.token)).toBe(null);
    });
  });
});

describe('one pool', () => {
  test('in one process, however often the file is loaded', async () => {
    const { token, id } = await database.createSession();
    const loads = [addon];
    for (let load = 0; load < 5; load += 1) {
      jest.resetModules();
      loads.push(require('../index.js'));
    }
    expect(new Set(loads).size).toBe(6);
    await Promise.all(loads.map((load) => load.getRedisClient().ping()));
    for (const load of loads) expect(await load.validateSessionWithCache(token)).toMatchObject({ id });
    await untilOnePool();
    expect(addon.getSessionCacheMetrics()).toEqual(loads[5].getSessionCacheMetrics());
    for (const load of loads) {
      const error = await rejection(() => load.validateSession(1));
      expect(error).toBeInstanceOf(TypeError);
    }
  });

  test('over threads and fresh require caches', async () => {
    const { token, id } = await database.createSession();
    const { code, stdout, stderr } = await runScript(`require('./__test__/fixtures/functional/pool.js')('${token}')`);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    const { answers, connections } = JSON.parse(stdout);
    expect(answers).toEqual(Array(12).fill(id));
    expect(connections.sort()).toEqual(ONE_POOL);
  });
});

test('100 threads that end in the middle of calls harm nobody', async () => {
  const sessions = await database.createSessions(20);
  const result = await runScript(`require(${JSON.stringify(path.join(FIXTURES, 'terminations.js'))})(${JSON.stringify(sessions)})`, { timeoutMs: 50_000 });
  expect(result).toMatchObject({ code: 0, signal: null, stderr: '' });
  expect(JSON.parse(result.stdout)).toEqual({ ended: 100, wrong: [], after: sessions.length, connections: 3 });
});
