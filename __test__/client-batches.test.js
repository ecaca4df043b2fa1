'use strict';

// Pipelines and transactions: results in order, each with its own error, and no other command within a transaction.

require('./fixtures/functional/addon.js');
const { startRedis } = require('./helpers/servers.js');
const { rejection } = require('./fixtures/functional/environment.js');
const { openRedis } = require('./fixtures/functional/redis.js');
const { openClient, thrown } = require('./fixtures/client/open.js');

const LIMIT = 10_000;
let client;
let redis;
let url;

beforeAll(async () => {
  ({ url } = await startRedis());
  client = openClient(url);
  redis = openRedis(url);
});

beforeEach(() => redis.flushall());

describe.each(['pipeline', 'multi'])('%s', (kind) => {
  test('has every command of the client, in order', async () => {
    const batch = client[kind]();
    expect(batch.length).toBe(0);
    const chained = batch
      .set('k', 'v')
      .get('k')
      .exists('k', 'nothing')
      .mset({ a: 1, b: 2 })
      .mget('a', 'nothing')
      .incr('n')
      .incrby('n', 5)
      .decr('n')
      .decrby('n', 2)
      .expire('n', 1000)
      .ttl('nothing')
      .scan(0, 'nothing', 10)
      .keys('k')
      .del('a')
      .hset('h', 'f', 'v')
      .hset('h', { g: 1 })
      .hget('h', 'f')
      .hgetall('h')
      .hexists('h', 'f')
      .hdel('h', 'f')
      .lpush('l', 'b', 'a')
      .rpush('l', 'c')
      .lrange('l', 0, -1)
      .llen('l')
      .lpop('l')
      .rpop('l')
      .sadd('s', 'a')
      .sismember('s', 'a')
      .smembers('s')
      .srem('s', 'a')
      .zadd('z', 1, 'a', 2.5, 'b')
      .zrange('z', 0, -1, true)
      .zrangebyscore('z', '-inf', 2, 'WITHSCORES')
      .zscore('z', 'b')
      .zcard('z')
      .zrem('z', 'a')
      .zremrangebyscore('z', 0, 9)
      .publish('c', 'm')
      .eval('return {KEYS[1], ARGV[1]}', ['k'], ['x'])
      .call('strlen', 'k')
      .call('hgetall', 'h')
      .ping()
      .dbsize()
      .config('GET', 'maxmemory')
      .info('nothing')
      .set('k', 'v', 0)
      .flushdb()
      .flushall();
    expect(chained).toBe(batch);
    expect(batch.length).toBe(48);
    const results = await batch.exec();
    expect(results.filter(([error]) => error !== null)).toEqual([]);
    expect(results.map(([, reply]) => reply)).toEqual([
      'OK',
      'v',
      1,
      'OK',
      ['1', null],
      1,
      6,
      5,
      3,
      1,
      -2,
      ['0', []],
      ['k'],
      1,
      1,
      1,
      'v',
      { f: 'v', g: '1' },
      1,
      1,
      2,
      3,
      ['a', 'b', 'c'],
      3,
      'a',
      'c',
      1,
      1,
      ['a'],
      1,
      2,
      ['a', '1', 'b', '2.5'],
      ['a', '1'],
      '2.5',
      2,
      1,
      1,
      0,
      ['k', 'x'],
      1,
      { g: '1' },
      'PONG',
      5,
      ['maxmemory', '0'],
      '',
      'OK',
      'OK',
      'OK',
    ]);
  });

  test('a command that fails has its error, the others their replies', async () => {
    await client.set('text', 'x');
    const results = await client[kind]().incr('n').incr('text').call('LPUSH', 'text', 'y').incr('n').exec();
    expect(results.map(([error, reply]) => error?.reply ?? reply)).toEqual([1, 'ERR', 'WRONGTYPE', 2]);
    const [, [error]] = results;
    expect(error).toBeInstanceOf(Error);
    expect(error).toMatchObject({
      code: 'ERR_REPLY',
      message: expect.stringMatching(/^Redis at 127\.0\.0\.1:\d+ answered: ERR value is not an integer/),
    });
  });

  test('of nothing is nothing', async () => {
    expect(await client[kind]().exec()).toEqual([]);
  });

  test('is sent once', async () => {
    const batch = client[kind]().incr('n');
    const [first, second] = await Promise.allSettled([batch.exec(), batch.exec()]);
    expect(first).toEqual({ status: 'fulfilled', value: [[null, 1]] });
    expect(second.reason).toMatchObject({ code: 'ERR_INVALID_ARG' });
    expect(await rejection(() => batch.exec())).toMatchObject({ code: 'ERR_INVALID_ARG' });
    expect(thrown(() => batch.incr('n'))).toMatchObject({ code: 'ERR_INVALID_ARG' });
    expect(await client.get('n')).toBe('1');
  });

  test('that is not sent does nothing', async () => {
    client[kind]().incr('n');
    await client.ping();
    expect(await client.exists('n')).toBe(0);
  });

  test('holds what it was given, not what becomes of it', async () => {
    const bytes = Buffer.from('before');
    const record = { a: 'before' };
    const keys = ['a'];
    const batch = client[kind]().set('k', bytes).mset(record).eval('return KEYS', keys, []);
    bytes.fill('x');
    record.a = 'after';
    keys[0] = 'other';
    const results = await batch.get('k').get('a').exec();
    expect(results.map(([, reply]) => reply)).toEqual(['OK', 'OK', ['a'], 'before', 'before']);
  });

  test(`takes ${LIMIT} commands, and not one more`, async () => {
    const batch = client[kind]();
    for (let index = 0; index < LIMIT; index += 1) batch.incr('n');
    const error = thrown(() => batch.incr('n'));
    expect(error).toBeInstanceOf(RangeError);
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringMatching(/10[,.]?000/) });
    expect(batch.length).toBe(LIMIT);
    const results = await batch.exec();
    expect(results.map(([, reply]) => reply)).toEqual(Array.from({ length: LIMIT }, (_, index) => index + 1));
  });

  test('runs scripts that the server does not know, in their place', async () => {
    await redis.script('FLUSH');
    const script = `return redis.call('APPEND', KEYS[1], ARGV[1]) -- ${kind}`;
    const results = await client[kind]()
      .eval(script, ['k'], ['a'])
      .call('APPEND', 'k', 'b')
      .eval(script, ['k'], ['c'])
      .get('k')
      .exec();
    expect(results).toEqual([
      [null, 1],
      [null, 2],
      [null, 3],
      [null, 'abc'],
    ]);
    expect(await client.get('k')).toBe('abc');
  });

  test('answers of many sizes', async () => {
    const values = [0, 1, 100, 65_536, 1_000_000].map((length) => 'x'.repeat(length));
    const batch = client[kind]();
    for (const [index, value] of values.entries()) batch.set(index, value).get(index);
    const results = await batch.exec();
    expect(results.filter((_, index) => index % 2).map(([, reply]) => reply)).toEqual(values);
  });

  test('after close() rejects', async () => {
    const short = openClient(url);
    const batch = short[kind]().ping();
    await short.close();
    expect(await rejection(() => batch.exec())).toMatchObject({ code: 'ERR_CLOSED' });
    expect(await rejection(() => short[kind]().ping().exec())).toMatchObject({ code: 'ERR_CLOSED' });
  });
});

describe('a transaction', () => {
  test('with a command that cannot be queued is not executed', async () => {
    const error = await rejection(() => client.multi().incr('n').call('SET', 'k').incr('n').exec());
    expect(error).toMatchObject({ code: 'ERR_REPLY', reply: 'EXECABORT' });
    expect(error.message).toMatch(/ answered: EXECABORT Transaction discarded/);
    expect(await client.exists('n')).toBe(0);
    expect(await client.multi().incr('n').exec()).toEqual([[null, 1]]);
  });

  test('with an unknown command is not executed, and leaves no connection in a transaction', async () => {
    for (let round = 0; round < 20; round += 1) {
      const transaction = rejection(() => client.multi().call('NOSUCHCOMMAND').exec());
      const beside = client.incr('beside');
      expect((await transaction).reply).toBe('EXECABORT');
      expect(await beside).toBe(round + 1);
    }
    const list = await client.call('CLIENT', 'LIST');
    expect(list).not.toMatch(/name=studio-redis-native:\S+ .*multi=[0-9]/);
  });

  test('is not interleaved with other commands of the client', async () => {
    const transactions = [];
    const others = [];
    for (let round = 0; round < 100; round += 1) {
      transactions.push(client.multi().incr('n').get('n').incr('n').get('n').exec());
      others.push(client.incr('n'), client.pipeline().incr('n').incr('n').exec());
      if (round % 10 === 0) await new Promise(setImmediate);
    }
    for (const results of await Promise.all(transactions)) {
      const [first, seen, second, seenLast] = results.map(([, reply]) => Number(reply));
      expect([seen, second, seenLast]).toEqual([first, first + 1, first + 1]);
    }
    await Promise.all(others);
    expect(await client.get('n')).toBe('500');
  });

  test('is not interleaved with other clients either', async () => {
    const other = openClient(`${url}/0`, { config: { minPoolSize: 3, maxPoolSize: 5 } });
    let open = true;
    const noise = (async () => {
      while (open) await Promise.all(Array.from({ length: 20 }, () => other.incr('n')));
    })();
    for (let round = 0; round < 100; round += 1) {
      const [[, first], , [, second]] = await client.multi().incr('n').get('n').incr('n').exec();
      expect(second).toBe(first + 1);
    }
    open = false;
    await noise;
  });

  test('gets the commands of one tick in their order', async () => {
    const calls = [
      client.set('k', 'a'),
      client.multi().get('k').set('k', 'b').exec(),
      client.get('k'),
      client.pipeline().set('k', 'c').exec(),
      client.get('k'),
    ];
    expect(await Promise.all(calls)).toEqual([
      'OK',
      [
        [null, 'a'],
        [null, 'OK'],
      ],
      'b',
      [[null, 'OK']],
      'c',
    ]);
  });
});
