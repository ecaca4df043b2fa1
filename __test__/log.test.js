'use strict';

// The log: what it says, to whom, and what it must never say.

const { randomUUID } = require('node:crypto');
const addon = require('./fixtures/functional/addon.js');
const { Database, hashOf } = require('./helpers/database.js');
const { startRedis, freePort, until } = require('./helpers/servers.js');
const { runScript } = require('./helpers/process.js');
const { openRedis } = require('./fixtures/functional/redis.js');
const { withEnvironment } = require('./fixtures/functional/environment.js');

const { validateSessionWithCache: validate } = addon;
const SECRET = 'hunter2-redis';
const DATABASE_SECRET = 'hunter3-postgres';

let database;
/** A Redis that is not there: reasons to log at `warn` and at `debug`. */
let nobody;

beforeAll(async () => {
  database = new Database();
  nobody = `redis://:${SECRET}@127.0.0.1:${await freePort()}`;
});

afterEach(() => addon.setLogHandler(null));

afterAll(() => database.end());

const run = (source, env) => runScript(`const addon = require('./index.js'); (async () => { ${source} })();`, { env });
const objects = (text) => text.split('\n').filter(Boolean).map((line) => JSON.parse(line));

test('a handler gets objects, in order, and stderr nothing', async () => {
  const source = `
    addon.setLogHandler((...args) => console.log(JSON.stringify(args)));
    await addon.validateSession('token');
    await addon.getRedisClient().ping().catch(() => {});
    await addon.validateSessionWithCache('token');
    await addon.shutdown();
    await new Promise((resolve) => setTimeout(resolve, 200));`;
  const { code, stdout, stderr } = await run(source, { REDIS_URL: nobody, STUDIO_REDIS_LOG: 'debug' });
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  const calls = objects(stdout);
  expect(calls.length).toBeGreaterThanOrEqual(2);
  for (const args of calls) {
    expect(args).toEqual([expect.objectContaining({
      timestamp: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z$/),
      level: expect.stringMatching(/^(ERROR|WARN|INFO|DEBUG|TRACE)$/),
      target: expect.stringMatching(/^studio_redis_native/),
      message: expect.any(String),
    })]);
  }
  const times = calls.map(([{ timestamp }]) => timestamp);
  expect([...times].sort()).toEqual(times);
});

test('the objects are of this realm', async () => {
  await withEnvironment({ REDIS_URL: nobody }, async () => {
    const lines = [];
    addon.setLogHandler((line) => lines.push(line));
    await validate('token');
    await until(() => lines.length > 0, { what: 'a line' });
    expect(lines[0]).toBeInstanceOf(Object);
    expect(lines[0]).toMatchObject({ level: 'WARN', message: expect.stringContaining('cannot connect') });
  });
});

describe('STUDIO_REDIS_LOG', () => {
  const levels = async (filter) => {
    const { code, stderr } = await run("await addon.validateSessionWithCache('token'); await addon.shutdown();", { REDIS_URL: nobody, STUDIO_REDIS_LOG: filter });
    expect(code).toBe(0);
    return new Set(objects(stderr).map(({ level }) => level));
  };

  test.each([
    ['off', []],
    ['error', []],
    ['warn', ['WARN']],
    [undefined, ['WARN']],
    ['', ['WARN']],
    ['studio_redis_native=warn', ['WARN']],
    ['studio_redis_native::stores=off', []],
  ])('%p', async (filter, expected) => {
    expect([...(await levels(filter))]).toEqual(expected);
  });

  test.each(['debug', 'trace', 'studio_redis_native=debug', 'off,studio_redis_native=debug'])('%p has more', async (filter) => {
    expect(await levels(filter)).toEqual(expect.objectContaining(new Set(['WARN', 'DEBUG'])));
    expect((await levels(filter)).has('DEBUG')).toBe(true);
  });

  test('trace shows events of this package only', async () => {
    const { stderr } = await run("await addon.validateSessionWithCache('token'); await addon.shutdown();", { REDIS_URL: nobody, STUDIO_REDIS_LOG: 'trace' });
    expect(objects(stderr).filter(({ target }) => !target.startsWith('studio_redis_native'))).toEqual([]);
  });
});

test('null sends the log to stderr again', async () => {
  const source = `
    let lines = 0;
    addon.setLogHandler(() => { lines += 1; });
    await addon.validateSessionWithCache('token');
    while (lines === 0) await new Promise((resolve) => setTimeout(resolve, 10));
    console.log('handed over');
    await addon.shutdown();
    addon.setLogHandler(null);
    lines = 0;
    await addon.validateSessionWithCache('token');
    await addon.shutdown();
    console.log(lines);`;
  const { code, stdout, stderr } = await run(source, { REDIS_URL: nobody });
  expect({ code, stdout }).toEqual({ code: 0, stdout: 'handed over\n0\n' });
  expect(objects(stderr)).toEqual(expect.arrayContaining([expect.objectContaining({ level: 'WARN' })]));
});

test('the last handler counts', async () => {
  await withEnvironment({ REDIS_URL: nobody }, async () => {
    const [first, second] = [jest.fn(), jest.fn()];
    addon.setLogHandler(first);
    addon.setLogHandler(second);
    await validate('token');
    await until(() => second.mock.calls.length > 0, { what: 'a line' });
    expect(first).not.toHaveBeenCalled();
  });
});

test.each([
  ['throws', "() => { calls += 1; throw new Error('mine'); }"],
  ['throws what is no error', '() => { calls += 1; throw undefined; }'],
  ['calls the addon', '() => { calls += 1; addon.getSessionCacheMetrics(); addon.validateSession(String(calls)); }'],
  ['replaces itself', '() => { calls += 1; addon.setLogHandler(handler); }'],
])('a handler that %s harms nothing', async (_, handler) => {
  const source = `
    let calls = 0;
    const handler = ${handler};
    addon.setLogHandler(handler);
    process.on('uncaughtException', () => process.exit(8));
    const answers = [];
    for (let round = 0; calls < 3 && round < 1000; round += 1) answers.push(await addon.validateSessionWithCache('token ' + round));
    await addon.shutdown();
    console.log(calls >= 3, answers.every((answer) => answer === null));`;
  const { code, stdout, stderr } = await run(source, { REDIS_URL: nobody, STUDIO_REDIS_LOG: 'debug' });
  expect({ code, stdout }).toEqual({ code: 0, stdout: 'true true\n' });
  expect(stderr.split('\n').filter(Boolean).length).toBeLessThanOrEqual(1);
});

test('a handler of a thread that has ended is nobody\'s handler', async () => {
  const source = `
    const { Worker } = require('node:worker_threads');
    const worker = new Worker("require('./index.js').setLogHandler(() => {})", { eval: true });
    await new Promise((resolve) => worker.once('exit', resolve));
    await addon.validateSessionWithCache('token');
    await addon.shutdown();`;
  const { code, signal, stderr } = await run(source, { REDIS_URL: nobody });
  expect({ code, signal }).toEqual({ code: 0, signal: null });
  expect(objects(stderr)).toEqual(expect.arrayContaining([expect.objectContaining({ level: 'WARN' })]));
});

describe('at trace, after a workload with failures', () => {
  const lines = [];
  const secrets = new Set([SECRET, DATABASE_SECRET]);

  const known = async (options) => {
    const email = `${randomUUID()}@secret.example`;
    const user = await database.createUser({ email, firstName: `First${randomUUID()}`, lastName: `Last${randomUUID()}` });
    const session = await database.createSession({ user, userAgent: `Agent ${randomUUID()}`, ...options });
    for (const secret of [email, user.firstName, user.lastName, user.username, session.token, session.hash]) secrets.add(secret);
    return session;
  };

  const workload = async () => {
    const [session, other, rotated, unknown, next] = [await known(), await known(), await known(), randomUUID(), randomUUID()];
    for (const token of [unknown, next]) secrets.add(token).add(hashOf(token));
    const calls = [
      () => validate(session.token),
      () => validate(session.token),
      () => validate(unknown),
      () => addon.validateSession(session.token),
      () => addon.rotateSession(rotated.token, next, new Date(Date.now() + 60_000)),
      () => addon.rotateSession(session.token, other.token, new Date(Date.now() + 60_000)),
      () => addon.rotateSession(session.token, session.token, new Date(Date.now() + 60_000)),
      () => addon.invalidateSessionCache(other.token),
      () => addon.invalidateUserSessions(session.userId),
      () => addon.revokeSessionWithCache(session.id, session.token),
      () => addon.revokeSessionByToken(other.token),
      () => addon.revokeOtherSessions(session.userId, session.id),
      () => addon.revokeAllUserSessionsWithCache(session.userId),
      () => addon.validateSession({ token: session.token }),
      () => addon.getRedisClient()?.set(session.token, session.token, 1),
      () => addon.getRedisClient()?.get(session.token),
    ];
    const messages = [];
    for (const call of calls) {
      try {
        await call();
      } catch (error) {
        messages.push([error.message, error.cause?.message, JSON.stringify(error)].join(' '));
      }
    }
    return messages;
  };

  test('neither lines nor messages hold a token, a hash, a password, a name or an e-mail', async () => {
    const handler = (line) => lines.push(JSON.stringify(line));
    const server = await startRedis({ args: ['--requirepass', SECRET] });
    const outside = openRedis(server.url, { password: SECRET });
    const url = `redis://:${SECRET}@127.0.0.1:${server.port}`;
    const base = { STUDIO_REDIS_LOG: 'trace', REDIS_URL: url };
    const closed = await freePort();
    const wrong = (name) => `postgres://studio:${DATABASE_SECRET}@127.0.0.1:${name}/studio`;
    const messages = [];
    const phase = (variables) => withEnvironment({ ...base, ...variables }, async () => {
      addon.setLogHandler(handler);
      messages.push(...(await workload()));
    });
    await phase({});
    await phase({ REDIS_URL: `redis://:${SECRET}wrong@127.0.0.1:${server.port}` });
    await phase({ REDIS_URL: nobody });
    await phase({ DATABASE_URL: wrong(closed) });
    await phase({ DATABASE_URL: wrong(closed), REDIS_URL: nobody });
    await phase({ DATABASE_URL: wrong('port') });
    await withEnvironment(base, async () => {
      addon.setLogHandler(handler);
      const session = await known();
      // What the phase with the wrong password left undelivered is delivered first; until then nothing is copied.
      const copied = async () => (await validate(session.token)) && outside.hget(`session:${session.hash}`, 'session');
      await until(copied, { what: 'a copy of the session' });
      await outside.hset(`session:${session.hash}`, 'session', `{"token":"${session.token}"}`);
      expect(await validate(session.token)).toMatchObject({ id: session.id });
      await server.kill();
      await addon.revokeSessionByToken(session.token);
      expect(await validate(session.token)).toBe(null);
    });
    await until(() => lines.some((line) => line.includes('unreadable')), { what: 'the line on an unreadable entry' });
    expect(lines.length).toBeGreaterThan(10);
    expect(messages.length).toBeGreaterThan(20);
    const text = [...lines, ...messages].join('\n');
    expect([...secrets].filter((secret) => text.includes(secret))).toEqual([]);
  });
});
