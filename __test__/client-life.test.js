'use strict';

// How clients begin and end, and what they share.

const addon = require('./fixtures/functional/addon.js');
const { startRedis, until } = require('./helpers/servers.js');
const { runScript } = require('./helpers/process.js');
const { rejection } = require('./fixtures/functional/environment.js');
const { openRedis, connectionsOf } = require('./fixtures/functional/redis.js');
const { openClient } = require('./fixtures/client/open.js');

const NONE = { size: 0, available: 0, pending: 0 };
let redis;
let url;

beforeAll(async () => {
  ({ url } = await startRedis());
  redis = openRedis(url);
});

beforeEach(() => redis.flushall());

const roles = (outside = redis) => connectionsOf(outside, process.pid);
const untilAlone = (outside = redis) =>
  until(async () => (await roles(outside)).length === 0, { what: 'the last connection to end' });

describe('close()', () => {
  /** Every kind of call, with the client that it is for. */
  const CALLS = [
    ['get', (client) => client.get('k')],
    ['set', (client) => client.set('k', 'v')],
    ['del', (client) => client.del('k')],
    ['scan', (client) => client.scan(0)],
    [
      'scanIterator',
      async (client) => {
        for await (const key of client.scanIterator()) return key;
      },
    ],
    ['hset', (client) => client.hset('h', { a: 1 })],
    ['blpop', (client) => client.blpop('l', 0)],
    ['zadd', (client) => client.zadd('z', 1, 'm')],
    ['publish', (client) => client.publish('c', 'm')],
    ['subscribe', (client) => client.subscribe('c', () => {})],
    ['psubscribe', (client) => client.psubscribe('c*', () => {})],
    ['eval', (client) => client.eval('return 1', [], [])],
    ['pipeline', (client) => client.pipeline().ping().exec()],
    ['multi', (client) => client.multi().ping().exec()],
    ['call', (client) => client.call('ECHO', 'x')],
    ['call of what blocks', (client) => client.call('BLMOVE', 'l', 'm', 'LEFT', 'LEFT', 0)],
    ['callBuffer', (client) => client.callBuffer('ECHO', 'x')],
    ['ping', (client) => client.ping()],
    ['info', (client) => client.info()],
    ['config', (client) => client.config('GET', 'maxmemory')],
    ['flushdb', (client) => client.flushdb()],
  ];

  test.each(CALLS)('%s rejects afterwards', async (_, call) => {
    const client = openClient(url);
    await client.ping();
    await client.close();
    expect(await rejection(() => call(client))).toMatchObject({ code: 'ERR_CLOSED' });
    expect(await rejection(() => call(client))).toBeInstanceOf(Error);
  });

  test('twice, at once, and without having been used', async () => {
    const client = openClient(url);
    expect(await Promise.all([client.close(), client.close()])).toEqual([undefined, undefined]);
    expect(await client.close()).toBe(undefined);
    expect(await client.healthCheck()).toBe(false);
    expect(client.getPoolStats()).toEqual(NONE);
    expect(client.getBreakerState()).toBe('closed');
  });

  test('wrong arguments are wrong afterwards, too', async () => {
    const client = openClient(url);
    await client.close();
    expect(['ERR_INVALID_ARG', 'ERR_CLOSED']).toContain((await rejection(() => client.get({}))).code);
  });

  test('the last one of a pool ends its connections at once', async () => {
    const [one, two] = [openClient(url), openClient(url)];
    await Promise.all([one.ping(), two.ping()]);
    expect((await roles()).length).toBeGreaterThan(0);
    await one.close();
    expect(await one.healthCheck()).toBe(false);
    expect(one.getPoolStats()).toEqual(NONE);
    expect(await two.set('k', 'v')).toBe('OK');
    expect((await roles()).length).toBeGreaterThan(0);
    await two.close();
    await untilAlone();
    const three = openClient(url);
    expect(await three.get('k')).toBe('v');
    await three.close();
  });

  test('what is unanswered then ends with it', async () => {
    const slow = await startRedis();
    const client = openClient(slow.url);
    await client.ping();
    slow.freeze();
    const waiting = [rejection(() => client.get('k')), rejection(() => client.pipeline().get('k').exec())];
    await client.close();
    for (const error of await Promise.all(waiting)) expect(error.code).toMatch(/^ERR_(CLOSED|TIMEOUT)$/);
    slow.thaw();
  });

  test('survives no shutdown', async () => {
    const client = openClient(url);
    await client.close();
    await addon.shutdown();
    expect(await rejection(() => client.ping())).toMatchObject({ code: 'ERR_CLOSED' });
  });
});

describe('a pool', () => {
  test('is shared by clients that agree, whatever they are called', async () => {
    const one = addon.createRedisClient('one', { connectionString: url, tier: addon.Tier.PRO });
    await one.ping();
    const alone = (await roles()).length;
    const others = ['two', 'three', ''].map(
      (name) => new addon.RedisClientWrapper(name || 'x', { connectionString: `${url}/0`, tier: 'pro' }),
    );
    await Promise.all(others.map((client) => client.ping()));
    expect((await roles()).length).toBe(alone);
    expect(one.getPoolStats().size).toBe(others[0].getPoolStats().size);
    await Promise.all([one, ...others].map((client) => client.close()));
    await untilAlone();
  });

  test('is not shared by different databases and users', async () => {
    await redis.call('ACL', 'SETUSER', 'other', 'on', '>secret', '~*', '&*', '+@all');
    const urls = [url, `${url}/1`, url.replace('//', '//other:secret@')];
    const clients = urls.map((one) => openClient(one));
    for (const [index, client] of clients.entries()) await client.set('who', index);
    expect(await Promise.all(clients.map((client) => client.get('who')))).toEqual(['2', '1', '2']);
    const list = (await redis.client('LIST'))
      .split('\n')
      .filter((line) => line.includes(`studio-redis-native:${process.pid}:commands`));
    const kinds = new Set(list.map((line) => `${/ db=(\d+)/.exec(line)[1]} ${/ user=(\S+)/.exec(line)[1]}`));
    expect([...kinds].sort()).toEqual(['0 default', '0 other', '1 default']);
    await Promise.all(clients.map((client) => client.close()));
    await redis.call('ACL', 'DELUSER', 'other');
    await untilAlone();
  });

  test('has no more connections than its size, under load', async () => {
    const client = openClient(url, { config: { minPoolSize: 1, maxPoolSize: 3 } });
    await Promise.all(Array.from({ length: 5000 }, (_, index) => client.set(index, 'x'.repeat(1000))));
    const stats = client.getPoolStats();
    expect(stats.pending).toBe(0);
    expect(stats.size).toBeGreaterThanOrEqual(1);
    expect(stats.size).toBeLessThanOrEqual(3);
    expect(stats.available).toBe(stats.size);
    expect(await roles()).toEqual(Array(stats.size).fill('commands'));
    await client.close();
    await untilAlone();
  });

  test('counts what waits', async () => {
    const slow = await startRedis();
    const client = openClient(slow.url);
    await client.ping();
    slow.freeze();
    const waiting = Array.from({ length: 7 }, () => rejection(() => client.get('k')));
    await until(() => client.getPoolStats().pending === 7, {
      deadlineMs: 900,
      everyMs: 5,
      what: '7 commands that wait',
    });
    expect(client.getPoolStats().available).toBeLessThan(client.getPoolStats().size);
    for (const error of await Promise.all(waiting)) expect(error).toMatchObject({ code: 'ERR_TIMEOUT' });
    slow.thaw();
    await until(() => client.healthCheck(), { what: 'an answer' });
    // A probe of our own may be among them for a moment.
    await until(() => client.getPoolStats().pending === 0, { what: 'nothing to wait' });
    await client.close();
  });
});

test('shutdown() closes, and the next call opens again', async () => {
  const client = openClient(url);
  for (let round = 0; round < 3; round += 1) {
    expect(await client.incr('n')).toBe(round + 1);
    expect(await client.multi().get('n').exec()).toEqual([[null, `${round + 1}`]]);
    await addon.shutdown();
    await untilAlone();
    expect(client.getPoolStats()).toEqual(NONE);
  }
  expect(await client.healthCheck()).toBe(true);
  await client.close();
});

test.each([
  ['a client', "addon.createRedisClient('p', options);", ''],
  ['one that was used', "const c = addon.createRedisClient('p', options); c.ping().then(console.log);", 'PONG\n'],
  [
    'a batch',
    "const c = addon.createRedisClient('p', options); c.pipeline().ping().exec().then(([[, reply]]) => console.log(reply));",
    'PONG\n',
  ],
  ['onBreakerChange', 'addon.onBreakerChange(() => {});', ''],
  [
    'one that is closed',
    "const c = addon.createRedisClient('p', options); c.ping().then(() => c.close()).then(() => console.log('end'));",
    'end\n',
  ],
])('a process is not kept by %s', async (_, source, stdout) => {
  const script = `const addon = require('./index.js'); const options = { connectionString: '${url}' };
    setTimeout(() => process.exit(9), 5000).unref(); ${source}`;
  expect(await runScript(script)).toMatchObject({ code: 0, signal: null, stdout, stderr: '' });
});
