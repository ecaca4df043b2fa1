'use strict';

// What holds for every function, whatever it does: errors and their realm, exits, threads, workers, reloads.

const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const native = require('../index.js');
const { runScript } = require('./helpers/process.js');

const ADDON = JSON.stringify(path.join(__dirname, '..', 'index.js'));
const NOWHERE = { REDIS_URL: undefined, DATABASE_URL: undefined };
const linux = process.platform === 'linux' ? test : test.skip;

afterAll(() => native.shutdown());

/** Runs a script that has the addon as `native`, without any server unless `env` names one. */
async function run(source, { env = {}, ...options } = {}) {
  const script = `const native = require(${ADDON});\n${source}`;
  const result = await runScript(script, { env: { ...NOWHERE, ...env }, ...options });
  return { ...result, lines: result.stdout.split('\n').filter(Boolean) };
}

/** A Postgres that accepts and never says a word. */
async function startSilence() {
  const sockets = new Set();
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `postgres://nobody@127.0.0.1:${server.address().port}/nothing`,
    end: () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}

describe('wrong arguments', () => {
  const named = ([name, args, type, message]) => ({ name, args, type, message });
  const later = () => new Date(Date.now() + 60_000);
  const asynchronous = [
    ['validateSessionWithCache', [], TypeError, 'token must be a string, got undefined.'],
    ['validateSessionWithCache', [null], TypeError, 'token must be a string, got null.'],
    ['validateSessionWithCache', [5], TypeError, 'token must be a string, got number.'],
    ['validateSessionWithCache', [5n], TypeError, 'token must be a string, got bigint.'],
    ['validateSessionWithCache', [Symbol('x')], TypeError, 'token must be a string, got symbol.'],
    ['validateSessionWithCache', [{ toString: () => 'x' }], TypeError, 'token must be a string, got object.'],
    ['validateSessionWithCache', [Buffer.from('x')], TypeError, 'token must be a string, got object.'],
    ['validateSession', [() => 'x'], TypeError, 'token must be a string, got function.'],
    ['revokeSessionWithCache', [1], TypeError, 'sessionId must be a string, got number.'],
    ['revokeSessionWithCache', ['x', 1], TypeError, 'token must be a string, got number.'],
    ['revokeSessionByToken', [], TypeError, 'token must be a string, got undefined.'],
    ['revokeAllUserSessionsWithCache', [true], TypeError, 'userId must be a string, got boolean.'],
    ['revokeOtherSessions', ['x'], TypeError, 'exceptSessionId must be a string, got undefined.'],
    ['rotateSession', ['x', '', later()], RangeError, 'newToken must have 1 to 4096 bytes.'],
    ['rotateSession', ['x', 'y'.repeat(4097), later()], RangeError, 'newToken must have 1 to 4096 bytes.'],
    ['rotateSession', ['x', 'y', Date.now()], TypeError, 'expiresAt must be a Date, got number.'],
    ['rotateSession', ['x', 'y', new Date(NaN)], RangeError, 'expiresAt must be a valid Date, got an invalid one.'],
    ['rotateSession', ['x', 'y', new Date(0)], RangeError, 'expiresAt must be in the future.'],
    ['invalidateSessionCache', [[]], TypeError, 'token must be a string, got an array.'],
    ['invalidateUserSessions', [], TypeError, 'userId must be a string, got undefined.'],
    ['shutdown', ['5'], TypeError, 'timeoutMs must be a number, got string.'],
    ['shutdown', [-1], RangeError, 'timeoutMs must be a whole number from 0 to 2147483647, got -1.'],
    ['shutdown', [1.5], RangeError, 'timeoutMs must be a whole number from 0 to 2147483647, got 1.5.'],
    ['shutdown', [NaN], RangeError, 'timeoutMs must be a whole number from 0 to 2147483647, got NaN.'],
    ['shutdown', [Infinity], RangeError, 'timeoutMs must be a whole number from 0 to 2147483647, got Infinity.'],
  ];

  test.each(asynchronous.map(named))('$name rejects: $message', async ({ name, args, type, message }) => {
    const error = await native[name](...args).catch((thrown) => thrown);
    expect(error).toBeInstanceOf(type);
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message });
  });

  const synchronous = [
    ['configureSessionCache', [], TypeError, 'options must be an object, got undefined.'],
    ['configureSessionCache', [null], TypeError, 'options must be an object, got null.'],
    ['configureSessionCache', [[]], TypeError, 'options must be an object, got an array.'],
    ['configureSessionCache', [{ enable: true }], TypeError, "options has no option 'enable'."],
    ['configureSessionCache', [{ enabled: 1 }], TypeError, 'options.enabled must be a boolean, got number.'],
    ['configureSessionCache', [{ ttlSeconds: '5' }], TypeError, 'options.ttlSeconds must be a number, got string.'],
    ['configureSessionCache', [{ localEnabled: null }], TypeError, 'options.localEnabled must be a boolean, got null.'],
    ['setLogHandler', [], TypeError, 'handler must be a function or null, got undefined.'],
    ['setLogHandler', [{}], TypeError, 'handler must be a function or null, got object.'],
  ];

  test.each(synchronous.map(named))('$name throws: $message', ({ name, args, type, message }) => {
    expect.assertions(2);
    try {
      native[name](...args);
    } catch (error) {
      expect(error).toBeInstanceOf(type);
      expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message });
    }
  });

  test.each([NaN, Infinity, -1, 0, 1.5, 301])('ttlSeconds: %p is out of range', (ttlSeconds) => {
    expect(() => native.configureSessionCache({ ttlSeconds })).toThrow(RangeError);
    expect(() => native.configureSessionCache({ ttlSeconds })).toThrow(/ttlSeconds/);
  });

  test('a getter that throws, and one that calls back, do no harm', () => {
    const options = {
      get enabled() {
        native.getSessionCacheMetrics();
        throw new Error('mine');
      },
    };
    expect(() => native.configureSessionCache(options)).toThrow('options.enabled could not be read.');
  });

  test('the client names the argument', async () => {
    const client = native.getRedisClient();
    if (!client) return;
    await expect(client.get()).rejects.toThrow('key must be a string, a number or a Buffer, got undefined.');
    await expect(client.del('a', {})).rejects.toThrow('keys must be a string, a number or a Buffer, got object.');
    await expect(client.set('a')).rejects.toThrow('value must be a string, a number or a Buffer, got undefined.');
    await expect(client.set('a', 'b', -1)).rejects.toBeInstanceOf(RangeError);
    await expect(client.set('a', 'b', '5')).rejects.toBeInstanceOf(TypeError);
  });
});

describe('an engine that cannot open', () => {
  test('rejects from promises, throws elsewhere, and says which variable it is', async () => {
    const { lines, stderr } = await run(
      `(async () => {
        await native.validateSessionWithCache('x').catch((error) => console.log(error.code, error.message.includes('REDIS_URL')));
        try { native.getSessionCacheMetrics(); } catch (error) { console.log(error.code); }
        await native.shutdown();
        process.env.REDIS_URL = '';
        delete process.env.REDIS_URL;
        console.log(native.getRedisClient());
      })()`,
      { env: { REDIS_URL: 'gopher://nowhere' } },
    );
    expect({ lines, stderr }).toMatchObject({ lines: ['ERR_INVALID_CONFIG true', 'ERR_INVALID_CONFIG', 'null'] });
  });

  test('binding.js alone says what to require instead', async () => {
    const { lines } = await runScript(
      `try { require('./binding.js').getBreakerState(); } catch (error) { console.log(error.message); }`,
      { env: NOWHERE },
    ).then(({ stdout }) => ({ lines: stdout }));
    expect(lines).toMatch('require @studio/redis-native instead');
  });
});

describe('exits and threads', () => {
  linux('loading, and a shutdown of nothing, start no thread', async () => {
    const count = `require('node:fs').readdirSync('/proc/self/task').length`;
    const { stdout } = await runScript(
      `const before = ${count};
       const native = require(${ADDON});
       native.shutdown().then(() => console.log(${count} - before));`,
      { env: NOWHERE },
    );
    expect(stdout.trim()).toBe('0');
  });

  test('a pending promise keeps the process alive until it settles, and nothing does afterwards', async () => {
    const silence = await startSilence();
    try {
      const { lines, code, durationMs } = await run(
        `native.validateSession('x').catch((error) => console.log(error.code));`,
        { env: { DATABASE_URL: silence.url } },
      );
      expect({ lines, code }).toEqual({ lines: ['ERR_SESSION_STORE'], code: 0 });
      expect(durationMs).toBeLessThan(15_000);
    } finally {
      silence.end();
    }
  });

  test('a log handler keeps nothing alive', async () => {
    const { code, signal } = await run(`native.setLogHandler(() => {}); native.getBreakerState();`);
    expect({ code, signal }).toEqual({ code: 0, signal: null });
  });

  test('the process may end in the middle of calls', async () => {
    const silence = await startSilence();
    try {
      const { code } = await run(
        `for (let i = 0; i < 500; i++) native.validateSession('x' + i).catch(() => {});
         setTimeout(() => process.exit(7), 100);`,
        { env: { DATABASE_URL: silence.url } },
      );
      expect(code).toBe(7);
    } finally {
      silence.end();
    }
  });
});

describe('workers', () => {
  test('a hundred of them are ended in the middle of calls, and the process goes on', async () => {
    const silence = await startSilence();
    const worker = `
      const { parentPort } = require('node:worker_threads');
      const native = require(${ADDON});
      native.setLogHandler(() => {});
      const ask = () => {
        for (let i = 0; i < 20; i++) native.validateSession('x' + i).catch(() => {});
        native.validateSession('').finally(() => setImmediate(ask));
      };
      ask();
      parentPort.postMessage('up');`;
    try {
      const { lines, code, stderr } = await run(
        `const { Worker } = require('node:worker_threads');
         const one = async (wait) => {
           const worker = new Worker(${JSON.stringify(worker)}, { eval: true });
           await new Promise((resolve) => worker.once('message', resolve));
           await new Promise((resolve) => setTimeout(resolve, wait));
           await worker.terminate();
         };
         (async () => {
           for (let round = 0; round < 25; round++) await Promise.all([0, 1, 2, 3].map((i) => one((round + i) % 10)));
           console.log(await native.validateSession(''), native.getBreakerState().redis);
           process.exit(0);
         })();`,
        { env: { DATABASE_URL: silence.url, STUDIO_REDIS_LOG: 'off' }, timeoutMs: 60_000 },
      );
      expect({ lines, code, stderr }).toMatchObject({ lines: ['null closed'], code: 0 });
    } finally {
      silence.end();
    }
  }, 70_000);

  test('a worker has its own process.env, and lives until its promise is settled', async () => {
    const { lines, code } = await run(
      `const { Worker } = require('node:worker_threads');
       new Worker(\`const native = require(${ADDON.replaceAll('\\', '\\\\')});
         native.validateSession('x').catch((error) => console.log(error.code));\`,
         { eval: true, env: { DATABASE_URL: 'postgres://nobody@127.0.0.1:1/nothing' } });`,
    );
    expect({ lines, code }).toEqual({ lines: ['ERR_SESSION_STORE'], code: 0 });
  });
});

describe('loading it again', () => {
  test('in the same thread: each copy works, and all share one engine', async () => {
    const { lines, code } = await run(
      `const copies = [native];
       for (let i = 0; i < 20; i++) {
         for (const file of Object.keys(require.cache)) if (!file.includes('node_modules')) delete require.cache[file];
         copies.push(require(${ADDON}));
       }
       (async () => {
         const settled = await Promise.allSettled(copies.map((copy) => copy.validateSessionWithCache(5)));
         console.log(new Set(copies).size, settled.every(({ reason }) => reason instanceof TypeError));
         copies[3].configureSessionCache({ enabled: false });
         console.log(copies.every((copy) => copy.getSessionCacheMetrics().enabled === false));
         await Promise.all(copies.map((copy) => copy.shutdown()));
         console.log(copies.every((copy) => copy.getSessionCacheMetrics().enabled));
       })();`,
    );
    expect({ lines, code }).toEqual({ lines: ['21 true', 'true', 'true'], code: 0 });
  });

  test('in another module registry of Jest: its own error classes', async () => {
    let again;
    jest.isolateModules(() => {
      again = require('../index.js');
    });
    expect(again).not.toBe(native);
    await expect(again.validateSession(5)).rejects.toBeInstanceOf(TypeError);
    await expect(native.validateSession(5)).rejects.toBeInstanceOf(TypeError);
  });
});

describe('the log', () => {
  /** A call whose server refuses the connection. */
  const provoke = `native.validateSession('x').catch(() => {})`;

  test('goes to the handler as objects, one a call, and to standard error without one', async () => {
    const env = { DATABASE_URL: 'postgres://nobody:secret@127.0.0.1:1/nothing', STUDIO_REDIS_LOG: 'trace' };
    const { lines, stderr } = await run(
      `const seen = [];
       native.setLogHandler((line) => seen.push(line));
       (async () => {
         for (let i = 0; i < 30; i++) await ${provoke};
         await new Promise((resolve) => setTimeout(resolve, 100));
         native.setLogHandler(null);
         console.log(JSON.stringify(seen));
       })();`,
      { env, timeoutMs: 60_000 },
    );
    const seen = JSON.parse(lines[0]);
    expect(seen).not.toHaveLength(0);
    for (const line of seen) expect(line).toMatchObject({ timestamp: expect.any(String), level: expect.any(String) });
    expect(lines[0] + stderr).not.toMatch('secret');
  });

  test('a handler that throws, or that calls back, harms nothing', async () => {
    const env = { DATABASE_URL: 'postgres://nobody@127.0.0.1:1/nothing', STUDIO_REDIS_LOG: 'trace' };
    const { lines, code, stderr } = await run(
      `native.setLogHandler(() => { native.getSessionCacheMetrics(); throw new Error('mine'); });
       (async () => {
         for (let i = 0; i < 30; i++) await ${provoke};
         await new Promise((resolve) => setTimeout(resolve, 100));
         console.log('done');
       })();`,
      { env, timeoutMs: 60_000 },
    );
    expect({ lines, code }).toEqual({ lines: ['done'], code: 0 });
    expect(stderr.split('The function given to setLogHandler() threw').length).toBeLessThanOrEqual(2);
  });
});

test('a hundred thousand promises leave no memory behind', async () => {
  // The young generation of the heap grows whenever V8 sees fit, which is no leak: here it cannot.
  const nodeArgs = ['--expose-gc', '--max-semi-space-size=8'];
  const { lines } = await run(
    `const batch = async () => {
       for (let i = 0; i < 100; i++) {
         await Promise.all(Array.from({ length: 1000 }, (_, k) => native.validateSession(k % 2 ? '' : 5).catch(() => {})));
       }
       gc();
       return process.memoryUsage().rss;
     };
     (async () => {
       await batch();
       const before = await batch();
       console.log((await batch()) - before);
     })();`,
    { env: { DATABASE_URL: 'postgres://nobody@127.0.0.1:1/nothing' }, nodeArgs, timeoutMs: 60_000 },
  );
  expect(Number(lines[0])).toBeLessThan(16 * 1024 * 1024);
});

test('every type in index.d.ts that is a value is exported, and nothing else is', () => {
  const types = fs.readFileSync(path.join(__dirname, '..', 'index.d.ts'), 'utf8');
  const declared = [...types.matchAll(/^export (?:declare )?(?:function|const|class) (\w+)/gm)].map((match) => match[1]);
  expect(Object.keys(native).sort()).toEqual(declared.sort());
});
