'use strict';

// Limits in all threads and realms of a process, at its end, and in its memory.

const { pathToFileURL } = require('node:url');
const path = require('node:path');
const { startRedis } = require('./helpers/servers.js');
const { runScript } = require('./helpers/process.js');
const { addon, ALGORITHMS, HOUR, fresh, inTurn, admitted } = require('./fixtures/limits/steps.js');

const onLinux = process.platform === 'linux' ? test : test.skip;
const QUIET = { code: 0, signal: null, stderr: '' };

let server;

beforeAll(async () => {
  server = await startRedis();
  process.env.REDIS_URL = server.url;
  process.env.REDIS_KEY_PREFIX = 'limits-realms:';
});

/** Runs a script that has the addon and `{ Worker }`, with Redis or without; gives what it printed, line by line. */
async function run(source, { alone = false, ...options } = {}) {
  const script = `const addon = require('./index.js'); const { Worker } = require('node:worker_threads');
    const say = (what) => console.log(JSON.stringify(what));
    ${source}`;
  const env = { STUDIO_REDIS_LOG: 'off', ...(alone && { REDIS_URL: undefined }) };
  const result = await runScript(script, { env, timeoutMs: 50_000, ...options });
  expect(result).toMatchObject(QUIET);
  return result.stdout
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line));
}

describe.each([
  ['with Redis', false],
  ['in the process', true],
])('%s', (_, alone) => {
  test.each(ALGORITHMS)('threads and the process share a count of %s, exactly', async (algorithm) => {
    const check = `addon.checkLimit('${fresh()}', 150, 3600, { algorithm: '${algorithm}' })`;
    const count = `Promise.all(Array.from({ length: 50 }, () => ${check})).then((answers) => answers.filter(({ allowed }) => allowed).length)`;
    const source = `
      const work = "const addon = require('./index.js'); const { parentPort } = require('node:worker_threads');" +
        ${JSON.stringify(`${count}.then((number) => parentPort.postMessage(number));`)};
      const threads = [1, 2, 3].map(() => new Promise((resolve, reject) => new Worker(work, { eval: true }).once('message', resolve).once('error', reject)));
      Promise.all([...threads, ${count}]).then((numbers) => say(numbers.reduce((sum, number) => sum + number)));`;
    expect(await run(source, { alone })).toEqual([150]);
  });

  test('threads that end amid their calls harm nobody', async () => {
    const source = `
      const work = "const addon = require('./index.js'); const { parentPort } = require('node:worker_threads'); addon.setLogHandler(() => {});" +
        "const limiter = addon.createRateLimiter({ requests: 5, window: 60 }); let round = 0;" +
        "const ask = () => { for (let call = 0; call < 50; call += 1) { addon.checkLimit('k' + call % 5, 1000, 60); addon.checkLimit('d', 1, 60); }" +
        "limiter({ headers: {} }, { setHeader() {} }, () => {}).catch(() => {}); if (round++ === 2) parentPort.postMessage('up'); setImmediate(ask); }; ask();";
      const one = async (wait) => {
        const worker = new Worker(work, { eval: true });
        await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
        await new Promise((resolve) => setTimeout(resolve, wait));
        await worker.terminate();
      };
      (async () => {
        for (let round = 0; round < 8; round += 1) await Promise.all([0, 1, 2].map((index) => one((round + index) % 7)));
        const answers = [];
        for (let call = 0; call < 4; call += 1) answers.push((await addon.checkLimit('after', 3, 60)).allowed);
        say(answers);
        await addon.shutdown();
      })();`;
    expect(await run(source, { alone })).toEqual([[true, true, true, false]]);
  });

  test.each([
    ['a check', "addon.checkLimit('k', 1, 60).then(({ allowed }) => say(typeof allowed));", 'boolean'],
    ['a peek', "addon.getRateLimitStore().peek('k', 1, 60).then(({ allowed }) => say(typeof allowed));", 'boolean'],
    ['a clear', "addon.clearRateLimits().then(() => say('done'));", 'done'],
    ['an attempt', "addon.checkRateLimit('k').then((over) => say(typeof over));", 'boolean'],
    ['a request', "addon.strictRateLimiter({ headers: {} }, { setHeader() {} }, () => say('next'));", 'next'],
  ])('the process lives until %s has its answer, and no longer', async (title, source, expected) => {
    // Nine is what it ends with if something else keeps it; the timer itself keeps nothing.
    expect(await run(`${source} setTimeout(() => process.exit(9), 10_000).unref();`, { alone })).toEqual([expected]);
  });

  test('many calls leave no memory behind', async () => {
    const source = `
      const batch = async () => {
        for (let round = 0; round < 60; round += 1) {
          await Promise.all(Array.from({ length: 500 }, (_, call) => addon.checkLimit('m' + (call % 50), 100, 60, { cost: 1 + (call % 3) })));
          await addon.checkLimit(5).catch(() => {});
          await addon.strictRateLimiter({ headers: {} }, { setHeader() {} }, () => {}).catch(() => {});
        }
        gc();
        return process.memoryUsage().rss;
      };
      (async () => {
        await batch();
        await batch();
        const before = await batch();
        for (let more = 0; more < 3; more += 1) await batch();
        say((await batch()) - before);
        await addon.shutdown();
      })();`;
    const [grown] = await run(source, { alone, nodeArgs: ['--expose-gc'] });
    expect(grown).toBeLessThan(24 * 1024 * 1024);
  });
});

onLinux('loading it, and making limiters and stores, starts no thread and opens no socket', async () => {
  const source = `
    const { readdirSync, readlinkSync } = require('node:fs');
    const threads = () => readdirSync('/proc/self/task').length;
    const sockets = () => readdirSync('/proc/self/fd').filter((fd) => {
      try { return readlinkSync('/proc/self/fd/' + fd).startsWith('socket:'); } catch { return false; }
    }).length;
    const counts = [[threads(), sockets()]];
    const addon = require('./index.js');
    addon.createRateLimiter({ requests: 1, window: 1 }); addon.getRateLimitStore(); addon.getRateLimitMetrics();
    new addon.RedisRateLimitStore(); new addon.RedisTokenBucketStore(); new addon.InMemoryRateLimitStore();
    counts.push([threads(), sockets()]);
    addon.checkLimit('k', 1, 1).then(() => {
      counts.push([threads(), sockets()]);
      console.log(JSON.stringify(counts));
    });`;
  const result = await runScript(source);
  expect(result).toMatchObject(QUIET);
  const [before, loaded, asked] = JSON.parse(result.stdout);
  expect(loaded).toEqual(before);
  // The proof that these counts can tell.
  expect(asked[0]).toBeGreaterThan(before[0]);
  expect(asked[1]).toBeGreaterThan(before[1]);
});

test('the process may end amid calls', async () => {
  const { code, signal, stderr } = await runScript(
    `const addon = require('./index.js');
     for (let call = 0; call < 500; call += 1) addon.checkLimit('k' + call % 7, 1000, 60).then(() => call === 300 && process.exit(7));`,
  );
  expect({ code, signal, stderr }).toEqual({ code: 7, signal: null, stderr: '' });
});

test('another load of Jest shares the counts, and has classes of its own', async () => {
  let again;
  jest.isolateModules(() => {
    again = require('../index.js');
  });
  expect(again).not.toBe(addon);
  const key = fresh();
  expect(admitted(await inTurn(3, () => addon.checkLimit(key, 5, HOUR)))).toBe(3);
  expect(await again.checkLimit(key, 5, HOUR)).toMatchObject({ allowed: true, info: { remaining: 1 } });
  expect(await new again.RedisRateLimitStore().get(key)).toMatchObject({ remaining: 1 });
  expect(again.getRateLimitStore()).toBeInstanceOf(again.RedisRateLimitStore);
  expect(again.getRateLimitMetrics()).toEqual(addon.getRateLimitMetrics());
  await expect(again.checkLimit(1)).rejects.toBeInstanceOf(TypeError);
  await again.getRateLimitStore().clear(key);
  expect(await addon.checkLimit(key, 5, HOUR)).toMatchObject({ info: { remaining: 4 } });
});

test('ES modules can import all of it by name', async () => {
  const names = [
    'checkLimit',
    'RedisRateLimitStore',
    'RedisTokenBucketStore',
    'InMemoryRateLimitStore',
    'getRateLimitStore',
    'clearRateLimits',
    'RATE_LIMITS',
    'rateLimitMiddleware',
    'createRateLimiter',
    'strictRateLimiter',
    'generousRateLimiter',
    'checkRateLimit',
    'clearRateLimit',
    'getRateLimitMetrics',
  ];
  const file = pathToFileURL(path.join(__dirname, '..', 'index.js')).href;
  const source = `import { ${names.join(', ')} } from '${file}'; console.log([${names.join(', ')}].map((one) => typeof one).join());`;
  const { stdout, code } = await runScript(source, { nodeArgs: ['--input-type=module'] });
  expect({ stdout, code }).toEqual({
    stdout: `${names.map((name) => (name === 'RATE_LIMITS' ? 'object' : 'function')).join()}\n`,
    code: 0,
  });
});
