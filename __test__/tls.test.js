'use strict';

// Redis under TLS: everything that works without it, by each way to ask for it.

const { mkdirSync, readFileSync } = require('node:fs');
const path = require('node:path');
const addon = require('./fixtures/functional/addon.js');
const { startPostgres, startProxy, until } = require('./helpers/servers.js');
const { runScript } = require('./helpers/process.js');
const { Database } = require('./helpers/database.js');
const { actor, cached, connected, listening, warmUp } = require('./fixtures/faults/cast.js');
const { openClient } = require('./fixtures/client/open.js');
const { withEnvironment } = require('./fixtures/functional/environment.js');
const { certificates, startTlsRedis, believing, showing } = require('./fixtures/tls/certificates.js');

const ADDON = JSON.stringify(path.join(__dirname, '..', 'index.js'));
const MB = 1024 * 1024;

let redis;
let client;

beforeAll(async () => {
  addon.setLogHandler(() => {});
  redis = await startTlsRedis();
  Object.assign(process.env, believing());
  client = openClient(redis.url);
});

/** The names of this process' connections, as the server sees them. */
const rolesAt = async (server) =>
  (await server.cli('CLIENT', 'LIST')).split('\n').flatMap((line) => / name=studio-redis-native:\d+:(\S*)/.exec(line)?.[1] ?? []);

describe('how it is asked for', () => {
  test.each([
    ['by the scheme of Redis', 'rediss://127.0.0.1', {}],
    ['by the scheme of Valkey', 'valkeys://127.0.0.1', {}],
    ['by name', 'rediss://localhost', {}],
    ['for every URL', 'redis://localhost', { REDIS_USE_TLS: 'true' }],
    ['with an authority among others', 'rediss://localhost', { REDIS_CA_CERT: undefined }],
    ['with PEM as it is', 'rediss://localhost', { REDIS_CA_CERT: () => certificates.ca.cert }],
  ])('%s', async (_, host, env) => {
    const bundle = Buffer.from(certificates.otherCa.cert + certificates.ca.cert).toString('base64');
    const { REDIS_CA_CERT: ca } = env;
    const authority = 'REDIS_CA_CERT' in env ? { REDIS_CA_CERT: ca ? ca() : bundle } : {};
    await withEnvironment({ ...env, ...authority }, async () => {
      expect(await openClient(`${host}:${redis.port}`).ping()).toBe('PONG');
    });
  });

  test('both spellings are one pool', async () => {
    await withEnvironment({ REDIS_USE_TLS: 'true' }, async () => {
      const config = { minPoolSize: 1, maxPoolSize: 1 };
      const clients = ['redis', 'rediss', 'valkeys'].map((scheme) =>
        openClient(`${scheme}://127.0.0.1:${redis.port}`, { config }),
      );
      await Promise.all(clients.map((one) => one.ping()));
      expect(await rolesAt(redis)).toEqual(['commands']);
    });
  });

  test.each(['TLSv1.2', 'TLSv1.3'])('a server that speaks %s alone is enough', async (protocols) => {
    const server = await startTlsRedis({ protocols });
    expect(await openClient(server.url).ping()).toBe('PONG');
  });

  test.each(['TLSv1.2', 'TLSv1.3'])('a server that wants a client certificate gets it, by %s', async (protocols) => {
    const server = await startTlsRedis({ protocols, authClients: 'yes' });
    await withEnvironment(showing(), async () => {
      const mutual = openClient(server.url);
      const heard = [];
      const subscription = await mutual.subscribe('channel', (message) => heard.push(message));
      await Promise.all([mutual.publish('channel', 'x'), mutual.blpop('nothing', 0.05)]);
      await until(() => heard.length > 0, { what: 'the message' });
      expect(new Set(await rolesAt(server))).toEqual(new Set(['commands', 'subscriber', 'blocking']));
      await subscription.unsubscribe();
    });
  });

  test('without REDIS_CA_CERT the authorities of the system are believed', async () => {
    const script = `
      const addon = require(${ADDON});
      const client = addon.createRedisClient('tests', { connectionString: ${JSON.stringify(redis.url)} });
      client.ping().then(console.log, (error) => console.log(error.message)).finally(() => addon.shutdown());`;
    const none = path.join(certificates.folder, 'none');
    mkdirSync(none);
    const run = async (file) => {
      const env = { REDIS_CA_CERT: undefined, SSL_CERT_FILE: file, SSL_CERT_DIR: none };
      return (await runScript(script, { env })).stdout.trim().split('\n').at(-1);
    };
    expect(await run(certificates.ca.certFile)).toBe('PONG');
    expect(await run(certificates.otherCa.certFile)).toContain('from an authority that this system does not know; set REDIS_CA_CERT');
    expect(await run(undefined)).toMatch(/this system has no certificate authorities.*; set REDIS_CA_CERT/);
  });
});

describe('what goes through it', () => {
  test('commands, transactions, pipelines, scripts, and many at once', async () => {
    await client.mset({ a: '1', b: '2' });
    expect(await client.mget('a', 'b', 'c')).toEqual(['1', '2', null]);
    await client.hset('h', { x: '1', y: '2' });
    expect(await client.hgetall('h')).toEqual({ x: '1', y: '2' });
    expect(await client.eval('return {KEYS[1], ARGV[1]}', ['k'], ['v'])).toEqual(['k', 'v']);
    expect(await client.multi().set('m', '1').incr('m').exec()).toEqual([[null, 'OK'], [null, 2]]);
    const pipeline = client.pipeline();
    for (let index = 0; index < 1000; index += 1) pipeline.set(`p${index}`, `${index}`).get(`p${index}`);
    const replies = await pipeline.exec();
    expect(replies.filter(([error]) => error)).toEqual([]);
    expect(replies.at(-1)).toEqual([null, '999']);
    const numbers = await Promise.all(Array.from({ length: 5000 }, () => client.incr('counter')));
    expect(new Set(numbers).size).toBe(5000);
  });

  test('values of 10 MB, several at once, both ways, and byte for byte', async () => {
    const values = Array.from({ length: 3 }, (_, number) => Buffer.alloc(10 * MB, `a value ${number} \0\r\n\xff`, 'latin1'));
    await Promise.all(values.map((value, number) => client.call('SET', `large ${number}`, value)));
    const [small, ...back] = await Promise.all([client.ping(), ...values.map((_, number) => client.callBuffer('GET', `large ${number}`))]);
    expect(small).toBe('PONG');
    expect(back.map((value, number) => value.equals(values[number]))).toEqual([true, true, true]);
  });

  test('messages, in their order, and commands that wait', async () => {
    const heard = [];
    const subscription = await client.subscribe('news', (message) => heard.push(Number(message)));
    const waiting = client.brpop('list', 5);
    await Promise.all(Array.from({ length: 500 }, (_, number) => client.publish('news', `${number}`)));
    await client.lpush('list', 'x');
    expect(await waiting).toEqual(['list', 'x']);
    await until(() => heard.length === 500, { what: 'all messages' });
    expect(heard).toEqual(Array.from({ length: 500 }, (_, number) => number));
    await subscription.unsubscribe();
  });

  test('limits', async () => {
    await withEnvironment({ REDIS_URL: redis.url }, async () => {
      const checks = await Promise.all(Array.from({ length: 12 }, () => addon.checkLimit('tls', 5, 60)));
      expect(checks.filter(({ allowed }) => allowed)).toHaveLength(5);
      expect(await redis.cli('KEYS', 'ratelimit:*')).toContain('tls');
      expect(await addon.checkRedisHealth()).toBe(true);
    });
  });

  test('sessions, and what other processes forget', async () => {
    const postgres = await startPostgres();
    const database = new Database(postgres.url);
    try {
      const processes = await Promise.all([0, 1].map(() => actor({ redis, postgres })));
      const [one, other] = processes;
      await warmUp(database, ...processes);
      await Promise.all(processes.map((process) => connected(redis, process)));
      await listening(database, 2);
      const session = await database.createSession();
      await cached(redis, one, session);
      const fromLocal = async (process) => {
        expect(await process.call('validateSessionWithCache', session.token)).toMatchObject({ id: session.id });
        return (await process.call('getSessionCacheMetrics')).localHits > 0;
      };
      for (const process of processes) await until(() => fromLocal(process), { what: 'a session in the process' });
      // By Redis alone: the row stays, so only a push empties the tier of the first.
      await one.call('resetSessionCacheMetrics');
      await redis.cli('DEL', `session:${session.hash}`);
      const misses = async () => {
        await one.call('validateSessionWithCache', session.token);
        return (await one.call('getSessionCacheMetrics')).misses > 0;
      };
      await until(misses, { deadlineMs: 2000, what: 'the pushed invalidation' });
      await other.call('revokeSessionWithCache', session.id);
      await until(async () => (await one.call('validateSessionWithCache', session.token)) === null, { what: 'the revocation' });
      await Promise.all(processes.map((process) => process.release()));
    } finally {
      await database.end();
    }
  });
});

describe('a bad road', () => {
  /** A client of the server behind a proxy, with one connection. */
  async function behind() {
    const proxy = await startProxy(redis.port);
    const near = openClient(proxy.url('rediss'), { config: { minPoolSize: 1, maxPoolSize: 1 } });
    expect(await near.ping()).toBe('PONG');
    return { proxy, near };
  }

  test('in small pieces, everything arrives', async () => {
    const { proxy, near } = await behind();
    proxy.slow({ bytesPerWrite: 7 });
    const value = 'x'.repeat(2000);
    expect(await near.set('slow', value)).toBe('OK');
    expect(await near.get('slow')).toBe(value);
    proxy.slow();
  });

  test.each(['toServer', 'toClient'])('cut within a record %s: what is not known rejects, and the next connection works', async (direction) => {
    const { proxy, near } = await behind();
    proxy.cutAfter(20, direction);
    const error = await near.incr('cut').then(() => null, (reason) => reason);
    expect(error).toMatchObject({ code: 'ERR_CONNECTION' });
    await until(() => near.ping().catch(() => false), { what: 'the next connection' });
    // What only reads is sent again.
    proxy.cutAfter(20, direction);
    expect(Number(await near.get('cut'))).toBeGreaterThanOrEqual(0);
  });

  test('nothing of it can be read on the way', async () => {
    const { proxy, near } = await behind();
    const seen = [];
    proxy.onData = (_, chunk) => void seen.push(chunk);
    await near.set('key on the way', 'value on the way');
    expect(await near.get('key on the way')).toBe('value on the way');
    const bytes = Buffer.concat(seen);
    expect(bytes.length).toBeGreaterThan(100);
    expect(bytes.includes('on the way')).toBe(false);
  });

  test('commands of one tick are one record', async () => {
    const { proxy, near } = await behind();
    const records = [];
    proxy.onData = (direction, chunk) => {
      for (let at = 0; direction === 'toServer' && at + 5 <= chunk.length; at += 5 + chunk.readUInt16BE(at + 3)) records.push(chunk[at]);
    };
    await Promise.all(Array.from({ length: 100 }, (_, number) => near.set(`tick ${number}`, 'x')));
    // One record of data, and at most a few for probes that came in between.
    expect(records.length).toBeLessThanOrEqual(4);
    expect(new Set(records)).toEqual(new Set([23]));
  });
});

test('the files that the tests use are what the variables hold', () => {
  expect(Buffer.from(certificates.ca.certBase64, 'base64').toString()).toBe(readFileSync(certificates.ca.certFile, 'utf8'));
});
