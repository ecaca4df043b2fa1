'use strict';

// Hashes, lists, sets and sorted sets, with replies of the shapes that ioredis gives.

require('./fixtures/functional/addon.js');
const { startRedis } = require('./helpers/servers.js');
const { rejection } = require('./fixtures/functional/environment.js');
const { openRedis } = require('./fixtures/functional/redis.js');
const { openClient } = require('./fixtures/client/open.js');

const BYTES = Buffer.from([0xff, 0x00, 0x41]);
let client;
let redis;

beforeAll(async () => {
  const server = await startRedis();
  client = openClient(server.url);
  redis = openRedis(server.url);
});

beforeEach(() => redis.flushall());

describe.each([
  ['hash', () => client.hget('text', 'f')],
  ['hgetall', () => client.hgetall('text')],
  ['hset', () => client.hset('text', { a: 1 })],
  ['list', () => client.lpush('text', 'x')],
  ['lrange', () => client.lrange('text', 0, -1)],
  ['set', () => client.smembers('text')],
  ['sorted set', () => client.zadd('text', 1, 'm')],
  ['zrange', () => client.zrange('text', 0, -1, true)],
])('%s', (_, call) => {
  test('of another type is refused', async () => {
    await client.set('text', 'x');
    expect(await rejection(call)).toMatchObject({ code: 'ERR_REPLY', reply: 'WRONGTYPE' });
  });
});

describe('hashes', () => {
  test('hset counts what is new, by field or by record', async () => {
    expect(await client.hset('h', 'a', 1)).toBe(1);
    expect(await client.hset('h', 'a', 2)).toBe(0);
    expect(await client.hset('h', { a: 3, b: 'x', 'c d': Buffer.from('y') })).toBe(2);
    expect(await client.hset('h', { b: '' })).toBe(0);
    expect(await client.hgetall('h')).toEqual({ a: '3', b: '', 'c d': 'y' });
    expect(await client.hset('h', '', '')).toBe(1);
    expect(await client.hget('h', '')).toBe('');
  });

  test('hget, hexists and hdel', async () => {
    await client.hset('h', { a: 1, b: 2, c: 3 });
    expect(await client.hget('h', 'a')).toBe('1');
    expect(await client.hget('h', 'nothing')).toBe(null);
    expect(await client.hget('nothing', 'a')).toBe(null);
    expect([await client.hexists('h', 'a'), await client.hexists('h', 'nothing')]).toEqual([1, 0]);
    expect(await client.hdel('h', 'a', 'a', 'nothing', 'b')).toBe(2);
    expect(await client.hdel('nothing', 'a')).toBe(0);
    expect(await client.hgetall('h')).toEqual({ c: '3' });
  });

  test('hgetall is an object of this realm, empty where nothing is', async () => {
    const none = await client.hgetall('nothing');
    expect(none).toEqual({});
    expect(Object.getPrototypeOf(none)).toBe(Object.prototype);
  });

  test('hgetall keeps names that mean something to JavaScript', async () => {
    const names = ['__proto__', 'constructor', 'hasOwnProperty', 'toString', '0', '-1', ''];
    for (const name of names) await client.hset('h', name, `of ${name}`);
    const all = await client.hgetall('h');
    expect(Object.keys(all).sort()).toEqual([...names].sort());
    for (const name of names)
      expect(Object.getOwnPropertyDescriptor(all, name)).toEqual({
        value: `of ${name}`,
        writable: true,
        enumerable: true,
        configurable: true,
      });
    expect(Object.getPrototypeOf(all)).toBe(Object.prototype);
    expect({}.of).toBe(undefined);
    expect(await client.hset('other', { ['__proto__']: 'own' })).toBe(1);
    expect(await client.hget('other', '__proto__')).toBe('own');
  });

  test('bytes as field and value', async () => {
    expect(await client.hset('h', BYTES, BYTES)).toBe(1);
    expect(await redis.hgetBuffer('h', BYTES)).toEqual(BYTES);
    expect(await client.hget('h', BYTES)).toBe(BYTES.toString());
    expect(await client.hexists('h', BYTES)).toBe(1);
    expect(await client.hgetall('h')).toEqual({ [BYTES.toString()]: BYTES.toString() });
  });

  test('20,000 fields', async () => {
    const record = Object.fromEntries(Array.from({ length: 20_000 }, (_, index) => [`field ${index}`, `${index}`]));
    expect(await client.hset('h', record)).toBe(20_000);
    expect(await client.hgetall('h')).toEqual(record);
  });
});

describe('lists', () => {
  test('both ends', async () => {
    expect(await client.rpush('l', 'b', 'c')).toBe(2);
    expect(await client.lpush('l', 'a', '')).toBe(4);
    expect(await client.lrange('l', 0, -1)).toEqual(['', 'a', 'b', 'c']);
    expect(await client.llen('l')).toBe(4);
    expect(await client.lpop('l')).toBe('');
    expect(await client.rpop('l')).toBe('c');
    expect(await client.lrange('l', '-1', '5')).toEqual(['b']);
    expect(await client.lrange('l', 5, 6)).toEqual([]);
    expect(await client.lrange('l', 1, 0)).toEqual([]);
    expect(await client.rpush('l', 1, BYTES)).toBe(4);
    expect(await redis.lrangeBuffer('l', 2, 3)).toEqual([Buffer.from('1'), BYTES]);
  });

  test('nothing there', async () => {
    expect(await client.lpop('nothing')).toBe(null);
    expect(await client.rpop('nothing')).toBe(null);
    expect(await client.llen('nothing')).toBe(0);
    expect(await client.lrange('nothing', 0, -1)).toEqual([]);
  });

  test('100,000 elements', async () => {
    const values = Array.from({ length: 100_000 }, (_, index) => `${index}`);
    for (let from = 0; from < values.length; from += 10_000)
      await client.rpush('l', ...values.slice(from, from + 10_000));
    expect(await client.lrange('l', 0, -1)).toEqual(values);
  });
});

test('sets', async () => {
  expect(await client.sadd('s', 'a', 'a', 'b', 3, BYTES)).toBe(4);
  expect(await client.sadd('s', 'a')).toBe(0);
  expect((await client.smembers('s')).sort()).toEqual(['3', 'a', 'b', BYTES.toString()].sort());
  expect(await client.sismember('s', 'a')).toBe(1);
  expect(await client.sismember('s', BYTES)).toBe(1);
  expect(await client.sismember('s', 'nothing')).toBe(0);
  expect(await client.sismember('nothing', 'a')).toBe(0);
  expect(await client.srem('s', 'a', 'nothing', 3)).toBe(2);
  expect(await client.smembers('nothing')).toEqual([]);
  expect(await client.srem('nothing', 'a')).toBe(0);
});

describe('sorted sets', () => {
  const fill = () => client.zadd('z', 1, 'one', '2.5', 'two', 'inf', 'last', '-inf', 'first', 0.1, '');

  test('zadd, with options', async () => {
    expect(await fill()).toBe(5);
    expect(await client.zadd('z', 3, 'one', 4, 'new')).toBe(1);
    expect(await client.zadd('z', 'NX', 9, 'one', 9, 'newer')).toBe(1);
    expect(await client.zadd('z', 'XX', 'CH', 9, 'one', 9, 'not there')).toBe(1);
    expect(await client.zadd('z', 'INCR', 0.2, '')).toBe('0.30000000000000004');
    expect(await client.zadd('z', 'NX', 'INCR', 1, 'one')).toBe(null);
    expect(await rejection(() => client.zadd('z', 'nan', 'x'))).toMatchObject({ code: 'ERR_REPLY', reply: 'ERR' });
    expect(await rejection(() => client.zadd('z', 1))).toMatchObject({
      code: expect.stringMatching(/^ERR_(REPLY|INVALID_ARG)$/),
    });
  });

  test('zscore is text, as Redis writes it', async () => {
    await fill();
    await client.zadd('z', 1e17, 'large', 3.3e-9, 'small', '9007199254740993', 'odd', -0, 'zero');
    const scores = {};
    for (const member of ['one', 'two', 'last', 'first', '', 'large', 'small', 'odd'])
      scores[member] = await client.zscore('z', member);
    expect(scores).toEqual(
      Object.fromEntries(
        await Promise.all(Object.keys(scores).map(async (member) => [member, await redis.zscore('z', member)])),
      ),
    );
    expect(scores).toMatchObject({
      one: '1',
      two: '2.5',
      last: 'inf',
      first: '-inf',
      large: '1e+17',
      odd: '9007199254740992',
    });
    expect(await client.zscore('z', 'nothing')).toBe(null);
    expect(await client.zscore('nothing', 'one')).toBe(null);
  });

  test.each([[[]], [[false]], [[undefined]]])('zrange with scores %p gives members', async (scores) => {
    await fill();
    expect(await client.zrange('z', 0, -1, ...scores)).toEqual(['first', '', 'one', 'two', 'last']);
    expect(await client.zrangebyscore('z', '-inf', 'inf', ...scores)).toEqual(['first', '', 'one', 'two', 'last']);
  });

  test.each([[true], ['WITHSCORES']])('zrange with scores %p gives members and scores by turns', async (scores) => {
    await fill();
    const all = ['first', '-inf', '', '0.10000000000000001', 'one', '1', 'two', '2.5', 'last', 'inf'];
    expect(await client.zrange('z', 0, -1, scores)).toEqual(all);
    expect(await client.zrangebyscore('z', -Infinity, Infinity, scores)).toEqual(all);
    expect(await client.zrange('nothing', 0, -1, scores)).toEqual([]);
  });

  test.each([
    ['text', '1', '2.5', ['one', 'two']],
    ['numbers', 1, 2.5, ['one', 'two']],
    ['without the ends', '(1', '(2.6', ['two']],
    ['endless numbers', -Infinity, 0, ['first']],
    ['endless text', '(0.1', '+inf', ['one', 'two', 'last']],
    ['the end', Infinity, Infinity, ['last']],
    ['nothing', 5, 4, []],
  ])('zrangebyscore by %s', async (_, min, max, members) => {
    await fill();
    expect(await client.zrangebyscore('z', min, max)).toEqual(members);
    expect(await client.zremrangebyscore('z', min, max)).toBe(members.length);
    expect(await client.zcard('z')).toBe(5 - members.length);
  });

  test('by rank', async () => {
    await fill();
    expect(await client.zrange('z', 1, 2)).toEqual(['', 'one']);
    expect(await client.zrange('z', '-2', '-1')).toEqual(['two', 'last']);
    expect(await rejection(() => client.zrange('z', 0.5, 1))).toMatchObject({
      code: expect.stringMatching(/^ERR_(REPLY|INVALID_ARG)$/),
    });
    expect(await rejection(() => client.zrangebyscore('z', 'x', 1))).toMatchObject({ code: 'ERR_REPLY', reply: 'ERR' });
  });

  test('zcard and zrem', async () => {
    await fill();
    expect(await client.zcard('z')).toBe(5);
    expect(await client.zrem('z', 'one', 'nothing', '')).toBe(2);
    expect(await client.zrem('nothing', 'one')).toBe(0);
    expect(await client.zcard('nothing')).toBe(0);
    expect(await client.zadd('z', 7, BYTES)).toBe(1);
    expect(await redis.zrangeBuffer('z', 2, 2)).toEqual([BYTES]);
    expect(await client.zscore('z', BYTES)).toBe('7');
  });
});

describe('publish', () => {
  test('counts who got it', async () => {
    expect(await client.publish('nobody', 'x')).toBe(0);
    const listener = openRedis(`redis://127.0.0.1:${redis.options.port}`);
    const heard = new Promise((resolve) => listener.once('messageBuffer', (...args) => resolve(args)));
    await listener.subscribe('news');
    expect(await client.publish('news', BYTES)).toBe(1);
    expect(await heard).toEqual([Buffer.from('news'), BYTES]);
  });
});
