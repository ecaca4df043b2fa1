'use strict';

// Which server a client is for, by which name and password, and how it tells that the server is away.

const { mkdtempSync, rmSync } = require('node:fs');
const { tmpdir } = require('node:os');
const path = require('node:path');
const addon = require('./fixtures/functional/addon.js');
const { startRedis, freePort, sleep, until } = require('./helpers/servers.js');
const { rejection, withEnvironment } = require('./fixtures/functional/environment.js');
const { openRedis, connectionsOf } = require('./fixtures/functional/redis.js');
const { openClient } = require('./fixtures/client/open.js');

let redis;
let url;

beforeAll(async () => {
  ({ url } = await startRedis());
  redis = openRedis(url);
});

beforeEach(() => redis.flushall());

const untilAlone = (outside = redis) =>
  until(async () => (await connectionsOf(outside, process.pid)).length === 0, { what: 'the last connection to end' });

describe('who one is, and where', () => {
  const PASSWORD = 'p@ss: w/ö%rd?#';

  test('a password', async () => {
    const guarded = await startRedis({ args: ['--requirepass', PASSWORD] });
    const client = openClient(guarded.url.replace('//', `//:${encodeURIComponent(PASSWORD)}@`));
    expect(await client.set('k', 'v')).toBe('OK');
    expect(await client.call('ACL', 'WHOAMI')).toBe('default');
    for (const wrong of [guarded.url, guarded.url.replace('//', '//:hunter2@')]) {
      const stranger = openClient(wrong);
      const error = await rejection(() => stranger.get('k'));
      expect(error.code).toMatch(/^ERR_(REPLY|CONNECTION)$/);
      expect(error.message).toMatch(/NOAUTH|WRONGPASS/);
      expect(error.message).not.toContain('hunter2');
      expect(await stranger.healthCheck()).toBe(false);
      await stranger.close();
    }
    expect(await client.get('k')).toBe('v');
  });

  test('a user, percent-encoded', async () => {
    const name = 'us@er/ü';
    await redis.call('ACL', 'SETUSER', name, 'on', `>${PASSWORD}`, '~mine:*', '&*', '+@all');
    const client = openClient(url.replace('//', `//${encodeURIComponent(name)}:${encodeURIComponent(PASSWORD)}@`));
    expect(await client.call('ACL', 'WHOAMI')).toBe(name);
    expect(await client.set('mine:k', 'v')).toBe('OK');
    const error = await rejection(() => client.set('other', 'v'));
    expect(error).toMatchObject({ code: 'ERR_REPLY', reply: 'NOPERM' });
    await client.close();
    await redis.call('ACL', 'DELUSER', name);
  });

  test('a database, which stays after a lost connection', async () => {
    const client = openClient(`${url}/5`);
    await client.set('k', 'five');
    expect(await client.call('CLIENT', 'INFO')).toContain(' db=5 ');
    await redis.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes');
    await until(() => client.get('k').catch(() => null), { what: 'an answer' });
    expect(await client.get('k')).toBe('five');
    expect(await redis.get('k')).toBe(null);
    await client.close();
    const beyond = openClient(`${url}/4000`);
    const error = await rejection(() => beyond.ping());
    expect(error.code).toMatch(/^ERR_(REPLY|CONNECTION)$/);
    expect(error.message).toMatch(/DB index/);
    await beyond.close();
  });

  const onUnix = process.platform === 'win32' ? test.skip : test;
  onUnix('a unix socket', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'client life-'));
    const socket = path.join(folder, 'redis.sock');
    const own = await startRedis({ args: ['--unixsocket', socket] });
    const outside = openRedis(own.url);
    const encoded = socket.split('/').map(encodeURIComponent).join('/');
    const clients = [`unix:${encoded}`, `unix://${encoded}?db=3`].map((one) => openClient(one));
    for (const [index, client] of clients.entries()) expect(await client.set('k', index)).toBe('OK');
    expect(await Promise.all(clients.map((client) => client.get('k')))).toEqual(['0', '1']);
    expect(await outside.get('k')).toBe('0');
    expect(await clients[0].call('CLIENT', 'INFO')).toContain(socket);
    await Promise.all(clients.map((client) => client.close()));
    await untilAlone(outside);
    rmSync(folder, { recursive: true });
  });

  test('another word for the same', async () => {
    const client = openClient(url.replace('redis:', 'valkey:'));
    expect(await client.ping()).toBe('PONG');
    await client.close();
  });
});

describe('the client of REDIS_URL', () => {
  test('is the same at each call, and a new one after closeRedisClient()', async () => {
    await withEnvironment({ REDIS_URL: url }, async () => {
      const client = addon.getRedisClient();
      expect(client).toBeInstanceOf(addon.RedisClientWrapper);
      expect(addon.getRedisClient()).toBe(client);
      expect(await client.set('k', 'v')).toBe('OK');
      expect(await addon.checkRedisHealth()).toBe(true);
      expect(await addon.closeRedisClient()).toBe(undefined);
      expect(await rejection(() => client.get('k'))).toMatchObject({ code: 'ERR_CLOSED' });
      const next = addon.getRedisClient();
      expect(next).not.toBe(client);
      expect(await next.get('k')).toBe('v');
      expect(await addon.checkRedisHealth()).toBe(true);
      expect(await Promise.all([addon.closeRedisClient(), addon.closeRedisClient()])).toEqual([undefined, undefined]);
    });
    await untilAlone();
  });

  test('is a new one after its own close()', async () => {
    await withEnvironment({ REDIS_URL: url }, async () => {
      await addon.getRedisClient().close();
      expect(await addon.getRedisClient().ping()).toBe('PONG');
      await addon.closeRedisClient();
    });
  });

  test('is null where REDIS_URL is not set', async () => {
    await withEnvironment({ REDIS_URL: undefined }, async () => {
      expect(addon.getRedisClient()).toBe(null);
      expect(await addon.checkRedisHealth()).toBe(false);
      expect(await addon.closeRedisClient()).toBe(undefined);
      expect(addon.getBreakerState()).toMatchObject({ redis: 'closed' });
      const other = openClient(url);
      expect(await other.ping()).toBe('PONG');
      await other.close();
    });
  });

  test('is not needed by other clients, whose servers are their own', async () => {
    await withEnvironment({ REDIS_URL: `redis://127.0.0.1:${await freePort()}`, DATABASE_URL: undefined }, async () => {
      const client = openClient(url);
      expect(await client.ping()).toBe('PONG');
      expect(await client.healthCheck()).toBe(true);
      expect(await addon.checkRedisHealth()).toBe(false);
      await client.close();
    });
  });
});

describe('a server that is away', () => {
  test('is told by the deadline, the health check and the breaker, which closes again', async () => {
    const own = await startRedis();
    const name = `Redis at 127.0.0.1:${own.port}`;
    const [client, other] = [openClient(own.url), openClient(`${own.url}/1`)];
    const changes = [];
    const former = [];
    addon.onBreakerChange((change) => former.push(change))();
    const stopThrowing = addon.onBreakerChange(() => {
      throw new Error('on purpose');
    });
    const stop = addon.onBreakerChange((change) => changes.push(change));
    await client.ping();
    own.freeze();
    const before = Date.now();
    const error = await rejection(() => client.ping());
    expect(error).toMatchObject({ code: 'ERR_TIMEOUT', message: expect.stringContaining(name) });
    expect(Date.now() - before).toBeGreaterThanOrEqual(950);
    expect(Date.now() - before).toBeLessThan(4000);
    await own.kill();
    await until(
      async () => {
        await client.get('k').catch(() => {});
        return client.getBreakerState() === 'open';
      },
      { what: 'the breaker to open' },
    );
    expect(other.getBreakerState()).toBe('open');
    expect(await client.healthCheck()).toBe(false);
    const refused = await rejection(() => other.ping());
    expect(refused.code).toBe('ERR_CIRCUIT_OPEN');
    expect(refused.retryAfterMs).toBeGreaterThan(0);
    expect(refused.retryAfterMs).toBeLessThanOrEqual(18_000);
    expect(await rejection(() => client.pipeline().ping().exec())).toMatchObject({ code: 'ERR_CIRCUIT_OPEN' });
    await own.restart();
    await until(
      async () => {
        await other.get('k').catch(() => sleep(100));
        return other.getBreakerState() === 'closed';
      },
      { deadlineMs: 40_000, everyMs: 100, what: 'the breaker to close' },
    );
    await until(() => changes.length >= 3, { what: 'three changes' });
    const states = changes.filter((change) => change.server === name).map(({ state }) => state);
    expect(states[0]).toBe('open');
    expect(states.slice(-2)).toEqual(['half-open', 'closed']);
    expect(former).toEqual([]);
    expect([stop(), stopThrowing(), stop()]).toEqual([undefined, undefined, undefined]);
  });

  test('is not one that closes a connection and is there', async () => {
    const own = await startRedis();
    const client = openClient(own.url);
    await client.ping();
    await openRedis(own.url).call('CLIENT', 'KILL', 'TYPE', 'normal');
    await sleep(5);
    for (let call = 0; call < 100; call += 1) await client.incr('n').catch(() => {});
    expect(client.getBreakerState()).toBe('closed');
    await until(() => client.ping().catch(() => null), { deadlineMs: 5000, what: 'an answer' });
    await client.close();
  });

  test('takes 10,000 commands and no more', async () => {
    const own = await startRedis();
    const client = openClient(own.url);
    await client.ping();
    own.freeze();
    const outcomes = Array.from({ length: 10_001 }, () =>
      client.get('k').then(
        () => 'answered',
        (error) => error.code,
      ),
    );
    expect(await outcomes[10_000]).toBe('ERR_OVERLOADED');
    expect(new Set(await Promise.all(outcomes.slice(0, 10_000)))).toEqual(new Set(['ERR_TIMEOUT']));
    await client.close();
    own.thaw();
  });
});
