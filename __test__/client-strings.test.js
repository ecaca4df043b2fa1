'use strict';

// Strings, keys and the server, with replies of the shapes that ioredis gives. Wrong arguments have a file of their own:
// client-arguments.test.js.

require('./fixtures/functional/addon.js');
const { startRedis } = require('./helpers/servers.js');
const { rejection } = require('./fixtures/functional/environment.js');
const { openRedis } = require('./fixtures/functional/redis.js');
const { openClient } = require('./fixtures/client/open.js');

let client;
let redis;

beforeAll(async () => {
  const server = await startRedis();
  client = openClient(server.url);
  redis = openRedis(server.url);
});

beforeEach(() => redis.flushall());

const TEXTS = [
  ['plain', 'value'],
  ['empty', ''],
  ['with spaces', ' two  words '],
  ['with line ends', 'a\r\nb\r\n$3\r\n'],
  ['with NUL', 'a\0b'],
  ['accented', 'éàü'],
  ['of pairs', '😀👩‍👩‍👧'],
  ['with a byte order mark', '\ufeffx'],
  ['__proto__', '__proto__'],
  ['of 1 MB', 'é'.repeat(2 ** 19)],
];

test.each(TEXTS)('text that is %s is kept as key and as value', async (_, text) => {
  expect(await client.set(text, text)).toBe('OK');
  expect(await client.get(text)).toBe(text);
  expect(await redis.get(text)).toBe(text);
  expect(await client.exists(text)).toBe(1);
  expect(await client.del(text)).toBe(1);
  expect(await client.get(text)).toBe(null);
});

test.each([
  ['0', 0, '0'],
  ['-0', -0, '0'],
  ['a fraction', 0.1, '0.1'],
  ['a large one', 1e21, '1e+21'],
  ['2 ** 53', 2 ** 53, '9007199254740992'],
  ['a small one', 5e-324, '5e-324'],
])('a number is written as JavaScript writes it: %s', async (_, number, text) => {
  await client.set(number, number);
  expect(await redis.get(text)).toBe(text);
});

test('bytes are kept, and are text for those who read text', async () => {
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
  const key = Buffer.from([0xff, 0x00, 0x80]);
  expect(await client.set(key, bytes)).toBe('OK');
  expect(await redis.getBuffer(key)).toEqual(bytes);
  expect(await client.callBuffer('GET', key)).toEqual(bytes);
  expect(await client.get(key)).toBe(bytes.toString('utf8'));
  const middle = new Uint8Array(new ArrayBuffer(8), 2, 3).fill(65);
  await client.set('view', middle);
  expect(await client.get('view')).toBe('AAA');
  await client.set('none', Buffer.alloc(0));
  expect(await client.get('none')).toBe('');
});

test('what is changed after the call was not sent', async () => {
  const bytes = Buffer.from('before');
  const sent = client.set('k', bytes);
  bytes.fill('x');
  await sent;
  expect(await client.get('k')).toBe('before');
});

test('a lone surrogate is replaced, as in every UTF-8 text', async () => {
  await client.set('k', 'a\ud800b');
  expect(await client.get('k')).toBe('a\ufffdb');
});

describe('set', () => {
  test.each([[[]], [[0]], [[-0]], [[undefined]]])('with expiration %p never expires', async (expiration) => {
    await client.set('k', 'before', 1000);
    expect(await client.set('k', 'v', ...expiration)).toBe('OK');
    expect(await client.ttl('k')).toBe(-1);
  });

  test('with an expiration expires', async () => {
    await client.set('k', 'v', 1000);
    const left = await redis.ttl('k');
    expect(left).toBeGreaterThan(900);
    expect(left).toBeLessThanOrEqual(1000);
    expect(await client.ttl('k')).toBeLessThanOrEqual(1000);
    expect(await client.ttl('nothing')).toBe(-2);
  });

  test('replaces what is of another type', async () => {
    await client.lpush('k', 'a');
    expect(await client.set('k', 'v')).toBe('OK');
  });
});

test('del and exists count', async () => {
  await client.mset({ a: 1, b: 2, c: 3 });
  expect(await client.exists('a', 'a', 'b', 'nothing')).toBe(3);
  expect(await client.exists('nothing')).toBe(0);
  expect(await client.del('a', 'a', 'b', 'nothing')).toBe(2);
  expect(await client.del('nothing')).toBe(0);
  expect(await client.exists('c')).toBe(1);
});

test('mget and mset', async () => {
  const record = { a: 'x', 'b c': 1, 'd\0': Buffer.from([0xff]), é: '', ['__proto__']: 'own' };
  expect(await client.mset(record)).toBe('OK');
  expect(await client.mget('a', 'b c', 'nothing', 'é', '__proto__')).toEqual(['x', '1', null, '', 'own']);
  expect(await redis.getBuffer('d\0')).toEqual(Buffer.from([0xff]));
  await client.lpush('list', 'x');
  expect(await client.mget('list')).toEqual([null]);
  const inherited = Object.create(
    { hidden: 'x' },
    { shown: { value: 'x', enumerable: true }, covered: { value: 'x' } },
  );
  expect(await client.mset(inherited)).toBe('OK');
  expect(await client.mget('hidden', 'shown', 'covered')).toEqual([null, 'x', null]);
  const keys = Array.from({ length: 10_000 }, (_, index) => `many:${index}`);
  await client.mset(Object.fromEntries(keys.map((key) => [key, key])));
  expect(await client.mget(...keys)).toEqual(keys);
});

test('counting', async () => {
  expect(await client.incr('n')).toBe(1);
  expect(await client.incrby('n', 41)).toBe(42);
  expect(await client.incrby('n', '-40')).toBe(2);
  expect(await client.incrby('n', -1)).toBe(1);
  expect(await client.decr('n')).toBe(0);
  expect(await client.decrby('n', 5)).toBe(-5);
  expect(await client.decrby('n', '-6')).toBe(1);
  expect(await client.incrby('n', Number.MAX_SAFE_INTEGER - 1)).toBe(Number.MAX_SAFE_INTEGER);
  expect(await client.incrby('m', '9223372036854775807')).toBe(2 ** 63);
  expect(await client.get('m')).toBe('9223372036854775807');
});

test.each([
  ['incr of text', () => client.incr('text'), 'ERR', 'not an integer'],
  ['incr beyond 2 ** 63', () => client.incr('max'), 'ERR', 'overflow'],
  ['incrby with text', () => client.incrby('n', 'x'), 'ERR', 'not an integer'],
  ['incr of a list', () => client.incr('list'), 'WRONGTYPE', 'wrong kind of value'],
  ['get of a list', () => client.get('list'), 'WRONGTYPE', 'wrong kind of value'],
  ['expire with text', () => client.expire('n', 'x'), 'ERR', 'not an integer'],
])('what Redis refuses is an error with its word: %s', async (_, call, reply, text) => {
  await client.mset({ text: 'x', max: '9223372036854775807' });
  await client.rpush('list', 'a');
  const error = await rejection(call);
  expect(error).toBeInstanceOf(Error);
  expect(error).toMatchObject({ code: 'ERR_REPLY', reply });
  expect(error.message).toMatch(new RegExp(`^Redis at 127\\.0\\.0\\.1:\\d+ answered: ${reply} .*${text}`));
});

test('expire', async () => {
  await client.set('k', 'v');
  expect(await client.expire('k', 1000)).toBe(1);
  expect(await client.ttl('k')).toBeGreaterThan(900);
  expect(await client.expire('k', '2000')).toBe(1);
  expect(await client.ttl('k')).toBeGreaterThan(1900);
  expect(await client.expire('nothing', 10)).toBe(0);
  expect(await client.expire('k', 0)).toBe(1);
  expect(await client.exists('k')).toBe(0);
});

describe('keys', () => {
  test('scan is one step', async () => {
    expect(await client.scan(0)).toEqual(['0', []]);
    const keys = Array.from({ length: 1000 }, (_, index) => `k:${index}`);
    await client.mset(Object.fromEntries(keys.map((key) => [key, ''])));
    const found = new Set();
    let cursor = 0;
    let steps = 0;
    do {
      const [next, some] = await client.scan(cursor, 'k:*', 100);
      expect(typeof next).toBe('string');
      for (const key of some) found.add(key);
      cursor = next;
      steps += 1;
    } while (cursor !== '0');
    expect([...found].sort()).toEqual(keys.sort());
    expect(steps).toBeGreaterThan(3);
    const [, few] = await client.scan('0', 'k:99?', 1_000_000);
    expect(few.sort()).toEqual(Array.from({ length: 10 }, (_, index) => `k:99${index}`));
    expect((await client.scan('0', undefined, 1_000_000))[1].length).toBe(1000);
  });

  test('keys', async () => {
    await client.mset({ 'a b': 1, ab: 2, c: 3 });
    expect((await client.keys('a*')).sort()).toEqual(['a b', 'ab']);
    expect(await client.keys('nothing*')).toEqual([]);
  });

  test('scanIterator goes through thousands, and stops when it is left', async () => {
    const keys = Array.from({ length: 5000 }, (_, index) => `k:${index}`);
    await client.mset(Object.fromEntries(keys.map((key) => [key, ''])));
    await client.set('other', '');
    const collect = async (...args) => {
      const found = new Set();
      for await (const key of client.scanIterator(...args)) found.add(key);
      return [...found].sort();
    };
    expect(await collect('k:*')).toEqual([...keys].sort());
    expect(await collect('k:*', 3000)).toEqual([...keys].sort());
    expect((await collect()).length).toBe(5001);
    expect(await collect('nothing')).toEqual([]);

    const asked = async () => Number(/cmdstat_scan:calls=(\d+)/.exec(await redis.info('commandstats'))?.[1] ?? 0);
    const before = await asked();
    const iterator = client.scanIterator('k:*', 10);
    for await (const key of iterator) {
      expect(key).toMatch(/^k:/);
      break;
    }
    expect(await iterator.next()).toEqual({ value: undefined, done: true });
    // 5,000 keys by 10 would be about 500 steps; how far it reads ahead is its own affair.
    expect((await asked()) - before).toBeLessThan(50);
  });

  test('scanIterator rejects where a step fails', async () => {
    const short = openClient(redis.options.path ?? `redis://127.0.0.1:${redis.options.port}`);
    await client.mset(Object.fromEntries(Array.from({ length: 1000 }, (_, index) => [`k:${index}`, ''])));
    const error = await rejection(async () => {
      for await (const key of short.scanIterator('*', 10)) if (key) await short.close();
    });
    expect(error.code).toBe('ERR_CLOSED');
  });
});

describe('the server', () => {
  test('ping, dbsize, info', async () => {
    expect(await client.ping()).toBe('PONG');
    await client.mset({ a: 1, b: 2 });
    expect(await client.dbsize()).toBe(2);
    expect(await client.info()).toMatch(/# Server[^]*# Keyspace/);
    expect(await client.info('memory')).toMatch(/^# Memory\r\nused_memory:\d+/);
    expect(await client.info('nothing')).toBe('');
  });

  test('config', async () => {
    expect(await client.config('SET', 'hash-max-listpack-entries', 99)).toBe('OK');
    expect(await client.config('GET', 'hash-max-listpack-entries')).toEqual(['hash-max-listpack-entries', '99']);
    expect(await client.config('GET', 'nothing')).toEqual([]);
    const both = await client.config('GET', 'maxmemory*');
    expect(both.length % 2).toBe(0);
    expect(both).toContain('maxmemory-policy');
    expect(await rejection(() => client.config('SET', 'nothing', 1))).toMatchObject({
      code: 'ERR_REPLY',
      reply: 'ERR',
    });
  });

  test('flushdb removes the keys of the database, flushall those of all', async () => {
    const other = openClient(`redis://127.0.0.1:${redis.options.port}/3`);
    await Promise.all([client.set('a', 1), other.set('b', 2)]);
    expect(await client.flushdb()).toBe('OK');
    expect([await client.dbsize(), await other.dbsize()]).toEqual([0, 1]);
    await client.set('a', 1);
    expect(await other.flushall()).toBe('OK');
    expect([await client.dbsize(), await other.dbsize()]).toEqual([0, 0]);
  });
});

test('commands of one tick are executed in their order, whatever they carry', async () => {
  const replies = [];
  for (let round = 0; round < 200; round += 1) {
    replies.push(
      client.incr('n'),
      client.set('k', 'x'.repeat(round * 50)),
      client.incrby('n', 2),
      client.rpush('order', round),
    );
  }
  const values = await Promise.all(replies);
  expect(values.filter((_, index) => index % 4 === 0)).toEqual(
    Array.from({ length: 200 }, (_, round) => 3 * round + 1),
  );
  expect(values.filter((_, index) => index % 4 === 3)).toEqual(Array.from({ length: 200 }, (_, round) => round + 1));
});
