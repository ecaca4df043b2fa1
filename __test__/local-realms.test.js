'use strict';

// One tier for all threads and realms of a process; and a Redis that does not allow it.

const { Database } = require('./helpers/database.js');
const { addon, here, from, ready, validate, local, untilLocal, logOf, metrics } = require('./fixtures/sessions/steps.js');
const { startRedis, until } = require('./helpers/servers.js');
const { runScript, spawnWorker } = require('./helpers/process.js');
const { openRedis, untilCopied } = require('./fixtures/functional/redis.js');

let database;

beforeAll(() => {
  process.env.REDIS_KEY_PREFIX = 'local-realms:';
  database = new Database();
});

afterAll(() => database.end());

/** Runs a script that has the addon, `token`, and `hit()`, which validates until the process itself answers. */
async function run(source, token, options) {
  const script = `
    const addon = require('./index.js');
    const token = ${JSON.stringify(token)};
    const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
    const hit = async (use = addon) => {
      for (;;) {
        const before = use.getSessionCacheMetrics().localHits;
        const session = await use.validateSessionWithCache(token);
        if (use.getSessionCacheMetrics().localHits > before) return session;
        await sleep(2);
      }
    };
    (async () => { ${source} })();`;
  const result = await runScript(script, options);
  expect({ ...result, stdout: undefined, durationMs: undefined }).toEqual({ code: 0, signal: null, stderr: '' });
  return result.stdout.split('\n').filter(Boolean).map((line) => JSON.parse(line));
}

test('the answer of a hit is there when the call returns', async () => {
  const { id, token } = await database.createSession();
  const source = `
    await hit();
    const call = addon.validateSessionWithCache(token);
    const first = await Promise.race([call, Promise.resolve('too late')]);
    console.log(JSON.stringify({ isPromise: call instanceof Promise, id: first.id ?? first }));
    await addon.shutdown();`;
  expect(await run(source, token)).toEqual([{ isPromise: true, id }]);
});

test('threads share what one of them has read', async () => {
  const { id, token } = await database.createSession();
  const source = `
    const { Worker } = require('node:worker_threads');
    await hit();
    addon.resetSessionCacheMetrics();
    const work = "const { parentPort, workerData } = require('node:worker_threads');" +
      "const addon = require('./index.js');" +
      "(async () => { const sessions = []; for (let i = 0; i < 100; i += 1) sessions.push(await addon.validateSessionWithCache(workerData));" +
      "parentPort.postMessage(sessions.map(({ id }) => id)); parentPort.postMessage(Object.isFrozen(sessions[0])); })();";
    const answers = await Promise.all([1, 2, 3].map(() => new Promise((resolve, reject) => {
      const seen = [];
      const worker = new Worker(work, { eval: true, workerData: token });
      worker.on('message', (message) => seen.push(message));
      worker.once('error', reject).once('exit', () => resolve(seen));
    })));
    console.log(JSON.stringify({ ids: [...new Set(answers.flatMap(([ids]) => ids))], frozen: answers.map(([, frozen]) => frozen) }));
    console.log(JSON.stringify(addon.getSessionCacheMetrics()));
    await addon.shutdown();`;
  const [answers, counts] = await run(source, token);
  expect(answers).toEqual({ ids: [id], frozen: [true, true, true] });
  expect(counts).toMatchObject({ total: 300, localHits: 300, redisHits: 0, databaseReads: 0 });
});

test('a revocation in one thread is one in all', async () => {
  const { token } = await database.createSession();
  const source = `
    const { Worker } = require('node:worker_threads');
    const work = "const { parentPort, workerData } = require('node:worker_threads');" +
      "const addon = require('./index.js');" +
      "parentPort.on('message', async (word) => { if (word === 'end') return parentPort.close();" +
      "parentPort.postMessage((await addon.validateSessionWithCache(workerData))?.id ?? null); });";
    const worker = new Worker(work, { eval: true, workerData: token });
    const ask = () => new Promise((resolve) => { worker.once('message', resolve); worker.postMessage('ask'); });
    await hit();
    const answers = [await ask(), await ask()];
    await addon.revokeSessionByToken(token);
    answers.push(await ask(), await ask());
    console.log(JSON.stringify(answers.map((id) => id !== null)));
    worker.postMessage('end');
    await addon.shutdown();`;
  expect(await run(source, token)).toEqual([[true, true, false, false]]);
});

test('threads end amid hits, and harm nobody', async () => {
  const { id, token } = await database.createSession();
  const source = `
    const { Worker } = require('node:worker_threads');
    await hit();
    const work = "const addon = require('./index.js'); const { workerData, parentPort } = require('node:worker_threads');" +
      "(async () => { for (let i = 0; ; i += 1) { await addon.validateSessionWithCache(workerData); if (i === 100) parentPort.postMessage('warm'); if (i % 1000 === 0) await new Promise(setImmediate); } })();";
    for (let round = 0; round < 12; round += 1) {
      const workers = [1, 2].map(() => new Worker(work, { eval: true, workerData: token }));
      await Promise.all(workers.map((worker) => new Promise((resolve) => worker.once('message', resolve))));
      await addon.invalidateSessionCache(token);
      await Promise.all(workers.map((worker) => worker.terminate()));
    }
    console.log(JSON.stringify((await hit()).id));
    await addon.shutdown();`;
  expect(await run(source, token, { timeoutMs: 50_000 })).toEqual([id]);
});

test('a second load in another realm gets objects that it can use', async () => {
  const { id, token } = await database.createSession();
  const source = `
    const vm = require('node:vm');
    const fs = require('node:fs');
    const load = (file) => {
      const context = vm.createContext({ process, setTimeout });
      const wrapper = vm.runInContext('(function (exports, require, module) {' + fs.readFileSync(file, 'utf8') + '})', context);
      const module = { exports: {} };
      wrapper(module.exports, require, module);
      return { use: module.exports, context };
    };
    await hit();
    for (const realm of [load('./index.js'), load('./index.js'), { use: addon }]) {
      const session = await hit(realm.use);
      console.log(JSON.stringify({ session, frozen: Object.isFrozen(session), keys: Object.keys(session).length }));
    }
    const { use, context } = load('./index.js');
    const wrong = await use.validateSessionWithCache(1).catch((error) => error);
    console.log(wrong instanceof vm.runInContext('TypeError', context));
    await addon.shutdown();`;
  const answers = await run(source, token);
  expect(answers).toEqual([answers[0], answers[0], answers[0], true]);
  expect(answers[0]).toMatchObject({ session: { id, email: expect.any(String) }, frozen: true });
});

test('Jest loads it anew, and both loads answer', async () => {
  const session = await local(here, database);
  let again;
  jest.isolateModules(() => {
    again = require('../index.js');
  });
  expect(again).not.toBe(addon);
  const answer = await again.validateSessionWithCache(session.token);
  expect(answer).toStrictEqual(await validate(here, session));
  expect(answer).toBeInstanceOf(Object);
  expect(Object.isFrozen(answer)).toBe(true);
  await again.revokeSessionByToken(session.token);
  expect(await validate(here, session)).toBe(null);
});

describe('a Redis user who may not use CLIENT TRACKING', () => {
  const SECRET = 'hunter2-limited';

  test('works without the tier in the process, which is said once, with the cure', async () => {
    const server = await startRedis();
    await server.cli('ACL', 'SETUSER', 'limited', 'on', `>${SECRET}`, '~*', '&*', '+@all', '-client|tracking');
    const worker = await spawnWorker(undefined, { REDIS_URL: `redis://limited:${SECRET}@127.0.0.1:${server.port}` });
    const redis = openRedis(server.url);
    await ready(worker, database);
    const sessions = await database.createSessions(3);
    for (const session of sessions) {
      await validate(worker, session);
      await untilCopied(redis, session);
    }
    expect(await worker.call('sessionCacheHealthCheck')).toBe(true);
    for (let round = 0; round < 3; round += 1) {
      for (const session of sessions) expect(await from(worker, session)).toBe('redis');
    }
    expect(await metrics(worker)).toMatchObject({ localHits: 0, localEntries: 0, errors: 0 });
    expect(await worker.call('revokeSessionByToken', sessions[0].token)).toBe(true);
    expect(await validate(worker, sessions[0])).toBe(null);

    // Said once, also when the connection is made a second time.
    await redis.client('KILL', 'USER', 'limited');
    await until(async () => (await from(worker, sessions[1])) === 'redis', { what: 'Redis again' });
    await worker.call('shutdown');
    expect(await worker.release()).toEqual({ code: 0, signal: null });
    expect(worker.stderr).not.toContain(SECRET);
    const said = logOf(worker).filter(({ message }) => /tracking/i.test(message));
    expect(said).toMatchObject([{ level: 'WARN', message: expect.stringMatching(/client\|tracking/i) }]);
  });

  test('that is allowed later is used from the next connection on', async () => {
    const server = await startRedis();
    await server.cli('ACL', 'SETUSER', 'limited', 'on', `>${SECRET}`, '~*', '&*', '+@all', '-client|tracking');
    const worker = await spawnWorker(undefined, { REDIS_URL: `redis://limited:${SECRET}@127.0.0.1:${server.port}` });
    const session = await database.createSession();
    await validate(worker, session);
    await server.cli('ACL', 'SETUSER', 'limited', '+client|tracking');
    await server.cli('CLIENT', 'KILL', 'USER', 'limited');
    await untilLocal(worker, session);
  });
});
