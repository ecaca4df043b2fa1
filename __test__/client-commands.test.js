'use strict';

// Scripts, and commands that the client has no method for. What would change a connection that is shared is refused.

require('./fixtures/functional/addon.js');
const { startRedis, until } = require('./helpers/servers.js');
const { rejection } = require('./fixtures/functional/environment.js');
const { openRedis, connectionsOf } = require('./fixtures/functional/redis.js');
const { openClient, thrown } = require('./fixtures/client/open.js');

let client;
let redis;

beforeAll(async () => {
  const server = await startRedis();
  client = openClient(server.url);
  redis = openRedis(server.url);
});

beforeEach(() => redis.flushall());

/** Command, what it is told, and the method that the message names, where there is one. */
const REFUSED = [
  ['SELECT', ['1']],
  ['HELLO', ['2']],
  ['RESET', []],
  ['AUTH', ['x']],
  ['QUIT', [], /close\(/],
  ['MONITOR', []],
  ['SUBSCRIBE', ['c'], /\bsubscribe\(/],
  ['PSUBSCRIBE', ['c*'], /\bpsubscribe\(/],
  ['SSUBSCRIBE', ['c']],
  ['UNSUBSCRIBE', ['c'], /unsubscribe\(/],
  ['PUNSUBSCRIBE', ['c*'], /unsubscribe\(/],
  ['SUNSUBSCRIBE', ['c']],
  ['MULTI', [], /multi\(/],
  ['EXEC', [], /multi\(/],
  ['DISCARD', [], /multi\(/],
  ['WATCH', ['k']],
  ['UNWATCH', []],
  ['SYNC', []],
  ['PSYNC', ['?', '-1']],
  ['READONLY', []],
  ['READWRITE', []],
  ['ASKING', []],
  ['WAIT', ['0', '0']],
  ['CLIENT', ['TRACKING', 'ON']],
  ['CLIENT', ['REPLY', 'OFF']],
  ['CLIENT', ['SETNAME', 'x']],
  ['CLIENT', ['CACHING', 'YES']],
  ['CLIENT', ['NO-EVICT', 'ON']],
];

const mixed = (word) =>
  [...word].map((letter, index) => (index % 2 ? letter.toUpperCase() : letter.toLowerCase())).join('');

describe.each(REFUSED)('%s %p is refused', (name, args, named = /./) => {
  const [first, ...rest] = args;
  const WAYS = [
    ['in capitals', [name, ...args]],
    ['in lower case', [name.toLowerCase(), ...args.map((word) => word.toLowerCase())]],
    ['in mixed case', [mixed(name), ...args.map(mixed)]],
    ['with bytes', [name, ...(first === undefined ? [] : [Buffer.from(first), ...rest])]],
    ['as bytes', [Buffer.from(name), ...args]],
    ['as lower-case bytes', [Buffer.from(name.toLowerCase()), ...args.map((word) => Buffer.from(word.toLowerCase()))]],
  ];

  test.each(WAYS)('%s', async (way, command) => {
    const errors = [
      await rejection(() => client.call(...command)),
      await rejection(() => client.callBuffer(...command)),
      thrown(() => client.pipeline().call(...command)),
      thrown(() => client.multi().call(...command)),
    ];
    for (const error of errors) {
      expect(error).toMatchObject({ code: 'ERR_INVALID_ARG' });
      expect([TypeError, RangeError]).toContain(error.constructor);
      if (way.startsWith('as')) continue;
      expect(error.message).toContain(name);
      expect(error.message).toMatch(named);
    }
  });
});

test.each([
  ['a name with a space', ['CONFIG GET', 'maxmemory']],
  ['a refused name with a space', ['SELECT 1']],
  ['a name with a line end', ['PING\r\nSELECT 1']],
  ['a name of NUL', ['\0']],
])('%s is one word, which no command is called', async (_, command) => {
  const error = await rejection(() => client.call(...command));
  expect(['ERR_REPLY', 'ERR_INVALID_ARG']).toContain(error.code);
  expect(await client.call('ECHO', 'still in step')).toBe('still in step');
});

describe('call', () => {
  test('in any letter case, with words of their own', async () => {
    expect(await client.call('set', 'k', 'v')).toBe('OK');
    expect(await client.call('Get', 'k')).toBe('v');
    expect(await client.call('config', 'get', 'maxmemory')).toEqual(['maxmemory', '0']);
    expect(await client.call('OBJECT', 'ENCODING', 'k')).toBe('embstr');
    expect(await client.call('CLIENT', 'GETNAME')).toBe(`studio-redis-native:${process.pid}:commands`);
    expect(await client.call('CLIENT', 'INFO')).toContain(`name=studio-redis-native:${process.pid}:commands`);
  });

  test('with numbers and bytes', async () => {
    const bytes = Buffer.from([0, 255, 13, 10]);
    expect(await client.call('SETRANGE', 'k', 0, bytes)).toBe(4);
    expect(await client.call('GETRANGE', bytes, 0, -1)).toBe('');
    expect(await client.callBuffer('get', 'k')).toEqual(bytes);
    expect(await client.callBuffer('GET', new Uint8Array([107]))).toEqual(bytes);
  });

  test('callBuffer has bytes for every text, however deep, and nothing else', async () => {
    await client.rpush('l', 'a', 'b');
    expect(await client.callBuffer('LRANGE', 'l', 0, -1)).toEqual([Buffer.from('a'), Buffer.from('b')]);
    expect(await client.callBuffer('SET', 'k', 'v')).toEqual(Buffer.from('OK'));
    expect(await client.callBuffer('STRLEN', 'k')).toBe(1);
    expect(await client.callBuffer('GET', 'nothing')).toBe(null);
    await client.hset('h', { f: 'v' });
    expect(await client.callBuffer('hgetall', 'h')).toEqual({ f: Buffer.from('v') });
    await client.call('XADD', 'x', '1-1', 'f', 'v');
    expect(await client.callBuffer('XRANGE', 'x', '-', '+')).toEqual([
      [Buffer.from('1-1'), [Buffer.from('f'), Buffer.from('v')]],
    ]);
    expect(Buffer.isBuffer(await client.callBuffer('ECHO', ''))).toBe(true);
    expect(await rejection(() => client.callBuffer('INCR', 'l'))).toMatchObject({
      code: 'ERR_REPLY',
      reply: 'WRONGTYPE',
    });
  });

  test('bytes of an answer belong to the caller', async () => {
    await client.set('k', 'abc');
    const one = await client.callBuffer('GET', 'k');
    one.fill(0);
    expect(await client.callBuffer('GET', 'k')).toEqual(Buffer.from('abc'));
  });

  test('the shapes of ioredis, whatever the protocol has', async () => {
    await client.zadd('z', 1, 'a', 2.5, 'b');
    expect(await client.call('zrange', 'z', 0, -1, 'WITHSCORES')).toEqual(['a', '1', 'b', '2.5']);
    expect(await client.call('zrevrange', 'z', 0, -1, 'WITHSCORES')).toEqual(['b', '2.5', 'a', '1']);
    expect(await client.call('zpopmin', 'z', 1)).toEqual(['a', '1']);
    expect(await client.call('zmscore', 'z', 'b', 'nothing')).toEqual(['2.5', null]);
    expect(await client.call('zincrby', 'z', 0.25, 'b')).toBe('2.75');
    expect(await client.call('sismember', 's', 'a')).toBe(0);
    await client.call('XADD', 'x', '1-1', 'f', 'v');
    expect(await client.call('xread', 'STREAMS', 'x', '0')).toEqual([['x', [['1-1', ['f', 'v']]]]]);
    expect(await client.call('xread', 'STREAMS', 'x', '9')).toBe(null);
    expect(await client.call('lcs', 'a', 'b', 'IDX')).toEqual(['matches', [], 'len', 0]);
    await client.call('GEOADD', 'g', 13.361389, 38.115556, 'P');
    expect(await client.call('geopos', 'g', 'P', 'nothing')).toEqual([
      ['13.36138933897018433', '38.11555639549629859'],
      null,
    ]);
    await client.hset('h', { a: 1 });
    expect(await client.call('hrandfield', 'h', 2, 'WITHVALUES')).toEqual(['a', '1']);
    expect(await client.call('hgetall', 'h')).toEqual({ a: '1' });
  });

  test('20,000 arguments and an answer of 8 MB', async () => {
    const values = Array.from({ length: 20_000 }, (_, index) => index);
    expect(await client.call('RPUSH', 'l', ...values)).toBe(20_000);
    await client.call('SETRANGE', 'large', 2 ** 23 - 1, 'x');
    expect((await client.callBuffer('GET', 'large')).length).toBe(2 ** 23);
  });
});

describe('eval', () => {
  test.each([
    ['nil', 'return nil', null],
    ['false', 'return false', null],
    ['true', 'return true', 1],
    ['a number, cut off', 'return 3.99', 3],
    ['text', "return 'é'", 'é'],
    ['a status', "return redis.status_reply('FINE')", 'FINE'],
    ['nothing', 'return {}', []],
    ['an array up to its first nil', "return {1, 'a', {2, {}}, false, nil, 3}", [1, 'a', [2, []], null]],
    ['a map', "redis.setresp(3) return {map = {a = 'b'}}", ['a', 'b']],
    ['a double', 'redis.setresp(3) return {double = 1.5}', '1.5'],
    [
      'a large number',
      "redis.setresp(3) return {big_number = '123456789012345678901234567890'}",
      '123456789012345678901234567890',
    ],
    ['true of RESP3', 'redis.setresp(3) return {true, false}', [1, 0]],
  ])('answers with %s', async (_, script, answer) => {
    expect(await client.eval(script, [], [])).toEqual(answer);
    expect(await client.eval(script, [], [])).toEqual(answer);
  });

  test('gets keys and arguments, apart', async () => {
    const script = 'return {#KEYS, #ARGV, KEYS[1], ARGV[1], ARGV[2]}';
    expect(await client.eval(script, ['k'], ['a', 5])).toEqual([1, 2, 'k', 'a', '5']);
    expect(await client.eval('return {#KEYS, #ARGV, ARGV[1], ARGV[2]}', [], ['a', 5])).toEqual([0, 2, 'a', '5']);
    expect(await client.eval('return redis.call("SET", KEYS[1], ARGV[1])', ['k'], [Buffer.from([255])])).toBe('OK');
    expect(await client.callBuffer('GET', 'k')).toEqual(Buffer.from([255]));
    const many = Array.from({ length: 5000 }, (_, index) => `${index}`);
    expect(await client.eval('return ARGV', [], many)).toEqual(many);
    expect(await client.eval('return KEYS', Object.freeze(many), [])).toEqual(many);
  });

  test('travels as SHA-1, and whole where the server does not know it', async () => {
    const script = "return 'a script of its own'";
    const calls = async (name) =>
      Number(new RegExp(`cmdstat_${name}:calls=(\\d+)`).exec(await redis.info('commandstats'))?.[1] ?? 0);
    expect(await client.eval(script, [], [])).toBe('a script of its own');
    const [evals, shas] = [await calls('eval'), await calls('evalsha')];
    for (let time = 0; time < 5; time += 1) expect(await client.eval(script, [], [])).toBe('a script of its own');
    expect([(await calls('eval')) - evals, (await calls('evalsha')) - shas]).toEqual([0, 5]);
    await redis.script('FLUSH');
    expect(await client.eval(script, [], [])).toBe('a script of its own');
    await redis.script('FLUSH');
    expect(await Promise.all(Array.from({ length: 50 }, () => client.eval(script, [], [])))).toEqual(
      Array(50).fill('a script of its own'),
    );
  });

  test('of one tick with other commands has its place among them', async () => {
    const script = "return redis.call('APPEND', KEYS[1], 'b')";
    await client.eval(script, ['warm'], []);
    const calls = [
      client.call('APPEND', 'k', 'a'),
      client.eval(script, ['k'], []),
      client.call('APPEND', 'k', 'c'),
      client.get('k'),
    ];
    expect(await Promise.all(calls)).toEqual([1, 2, 3, 'abc']);
  });

  test('is executed once, though it may be sent twice', async () => {
    await redis.script('FLUSH');
    expect(await client.eval("return redis.call('INCR', KEYS[1])", ['n'], [])).toBe(1);
    expect(await redis.get('n')).toBe('1');
  });

  test.each([
    ['an error of its own', "return redis.error_reply('MY thing')", 'MY', 'answered: MY thing'],
    ['a failed command', "return redis.call('INCR', KEYS[1])", 'WRONGTYPE', 'WRONGTYPE Operation'],
    ['an exception', "error('on purpose')", 'ERR', 'on purpose'],
    ['a syntax error', 'syntax (', 'ERR', 'compiling'],
    ['NOSCRIPT that it made up', "return redis.error_reply('NOSCRIPT made up')", 'NOSCRIPT', 'NOSCRIPT made up'],
  ])('%s', async (_, script, reply, text) => {
    await client.rpush('list', 'a');
    const error = await rejection(() => client.eval(script, ['list'], []));
    expect(error).toMatchObject({ code: 'ERR_REPLY', reply, message: expect.stringContaining(text) });
  });

  test('errors within an answer are values', async () => {
    await client.rpush('list', 'a');
    const [before, error, after] = await client.eval("return {1, redis.pcall('INCR', KEYS[1]), 'after'}", ['list'], []);
    expect([before, after]).toEqual([1, 'after']);
    expect(error).toMatchObject({ code: 'ERR_REPLY', message: expect.stringContaining('wrong kind of value') });
  });

  test('large and nested answers', async () => {
    const flat = await client.eval('local t = {} for i = 1, 100000 do t[i] = i end return t', [], []);
    expect(flat.length).toBe(100_000);
    expect(flat[99_999]).toBe(100_000);
    const deep = await client.eval('local t = {} for i = 1, 30 do t = {t} end return t', [], []);
    expect(JSON.stringify(deep)).toBe(`${'['.repeat(31)}${']'.repeat(31)}`);
  });

  test('one that runs for longer than the deadline is not waited for', async () => {
    const error = await rejection(() => client.eval('local n = 0 while n < 4e8 do n = n + 1 end return n', [], []));
    expect(error.code).toBe('ERR_TIMEOUT');
    // The next answer comes once the server has time again; it belongs to its own question.
    const reply = await until(() => client.call('ECHO', 'mine').catch(() => null), {
      deadlineMs: 40_000,
      what: 'an answer',
    });
    expect(reply).toBe('mine');
  });
});

test('after all this there is still one kind of connection, and nothing in it is changed', async () => {
  expect(new Set(await connectionsOf(redis, process.pid))).toEqual(new Set(['commands']));
  expect(await client.call('CLIENT', 'GETNAME')).toBe(`studio-redis-native:${process.pid}:commands`);
});
