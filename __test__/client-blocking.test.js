'use strict';

// Commands that wait have a connection of their own: nobody waits behind them, and close() and shutdown() end them.

const addon = require('./fixtures/functional/addon.js');
const { startRedis, until } = require('./helpers/servers.js');
const { rejection } = require('./fixtures/functional/environment.js');
const { openRedis, connectionsOf } = require('./fixtures/functional/redis.js');
const { openClient } = require('./fixtures/client/open.js');

let client;
let redis;
let url;

beforeAll(async () => {
  ({ url } = await startRedis());
  client = openClient(url);
  redis = openRedis(url);
});

beforeEach(() => redis.flushall());

const blocked = async () => Number(/blocked_clients:(\d+)/.exec(await redis.info('clients'))[1]);
const untilBlocked = (count) =>
  until(async () => (await blocked()) === count, { what: `${count} blocked connections` });

/** What ends a wait; a value, or the reason of a rejection. */
const outcome = (promise) =>
  promise.then(
    (value) => value,
    (error) => error,
  );

test.each([
  ['blpop', 'a'],
  ['brpop', 'c'],
])('%s takes what is there at once', async (name, value) => {
  await client.rpush('l', 'a', 'b', 'c');
  expect(await client[name]('l', 10)).toEqual(['l', value]);
  expect(await client[name]('l', 0)).toEqual(['l', 'b']);
  expect(await client.llen('l')).toBe(1);
});

test.each(['blpop', 'brpop'])('%s takes what comes later', async (name) => {
  const waiting = client[name]('l é', 0);
  await untilBlocked(1);
  expect(await client.lpush('l é', 'late')).toBe(1);
  expect(await waiting).toEqual(['l é', 'late']);
  expect(await client.exists('l é')).toBe(0);
});

test.each([
  ['blpop', 0.1],
  ['brpop', 0.1],
  ['blpop', 0.001],
])('%s ends with null after %p s', async (name, seconds) => {
  const before = Date.now();
  expect(await client[name]('nothing', seconds)).toBe(null);
  expect(Date.now() - before).toBeGreaterThanOrEqual(1000 * seconds - 2);
});

test('may wait for longer than the deadline of other commands', async () => {
  const waiting = client.blpop('l', 10);
  await untilBlocked(1);
  await new Promise((resolve) => setTimeout(resolve, 1500));
  await client.rpush('l', 'late');
  expect(await waiting).toEqual(['l', 'late']);
  expect(client.getBreakerState()).toBe('closed');
});

test('what Redis refuses is an error', async () => {
  await client.set('k', 'text');
  expect(await rejection(() => client.blpop('k', 1))).toMatchObject({ code: 'ERR_REPLY', reply: 'WRONGTYPE' });
  expect(await rejection(() => client.call('BLMOVE', 'k', 'l', 'LEFT', 'LEFT', 'x'))).toMatchObject({
    code: 'ERR_REPLY',
    reply: 'ERR',
  });
});

test('other commands that block, by call', async () => {
  await client.rpush('l', 'a');
  expect(await client.call('BLMOVE', 'l', 'm', 'LEFT', 'RIGHT', 1)).toBe('a');
  expect(await client.callBuffer('blmove', 'm', 'l', 'LEFT', 'RIGHT', '1')).toEqual(Buffer.from('a'));
  expect(await client.call('BLMPOP', 0.05, 1, 'nothing', 'LEFT')).toBe(null);
  expect(await client.call('BRPOPLPUSH', 'l', 'm', 1)).toBe('a');
  await client.zadd('z', 1.5, 'm');
  expect(await client.call('BZPOPMIN', 'z', 1)).toEqual(['z', 'm', '1.5']);
  expect(await client.call('BZPOPMAX', 'z', 0.05)).toBe(null);

  const waiting = [
    client.call('XREAD', 'BLOCK', 0, 'STREAMS', 'x', '$'),
    client.call('xread', 'count', 1, 'block', '20000', 'streams', 'x', Buffer.from('$')),
    client.callBuffer('BLPOP', 'later', 0),
    client.call('BZMPOP', 0, 1, 'y', 'MIN'),
  ];
  await untilBlocked(4);
  await client.call('XADD', 'x', '1-1', 'f', 'v');
  await client.rpush('later', 'v');
  await client.zadd('y', 1, 'm');
  const stream = [['x', [['1-1', ['f', 'v']]]]];
  expect(await Promise.all(waiting)).toEqual([
    stream,
    stream,
    [Buffer.from('later'), Buffer.from('v')],
    ['y', [['m', '1']]],
  ]);
  expect(await client.call('XREAD', 'BLOCK', 50, 'STREAMS', 'x', '$')).toBe(null);
});

test('a blocked command delays no other', async () => {
  const waiting = Array.from({ length: 5 }, (_, index) => client.blpop(`l${index}`, 0));
  await untilBlocked(5);
  for (let round = 0; round < 200; round += 1) expect(await client.incr('n')).toBe(round + 1);
  expect(await client.multi().incr('n').exec()).toEqual([[null, 201]]);
  expect((await connectionsOf(redis, process.pid)).filter((role) => role === 'blocking').length).toBe(5);
  for (let index = 0; index < 5; index += 1) await client.rpush(`l${index}`, index);
  expect(await Promise.all(waiting)).toEqual(Array.from({ length: 5 }, (_, index) => [`l${index}`, `${index}`]));
});

test('one after the other they share connections', async () => {
  for (let round = 0; round < 50; round += 1) {
    await client.rpush('l', round);
    expect(await client.blpop('l', 5)).toEqual(['l', `${round}`]);
  }
  expect((await connectionsOf(redis, process.pid)).filter((role) => role === 'blocking').length).toBeLessThanOrEqual(6);
});

test('in a batch they do not block, as in every transaction of Redis', async () => {
  await client.rpush('l', 'a');
  const results = await client.multi().call('BLPOP', 'l', 0).call('BLPOP', 'l', 0).exec();
  expect(results).toEqual([
    [null, ['l', 'a']],
    [null, null],
  ]);
});

test('in a pipeline they are refused, or delay no other', async () => {
  const batch = client.pipeline();
  let error;
  try {
    batch.call('BLPOP', 'l', 0);
  } catch (caught) {
    error = caught;
  }
  if (error) {
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringMatching(/BLPOP/i) });
    return;
  }
  const results = batch.exec();
  await untilBlocked(1);
  for (let round = 0; round < 20; round += 1) expect(await client.incr('n')).toBe(round + 1);
  await redis.rpush('l', 'x');
  expect(await results).toEqual([[null, ['l', 'x']]]);
});

test('close() ends them at once, those of this client alone', async () => {
  const short = openClient(url);
  const mine = [outcome(short.blpop('l', 0)), outcome(short.call('XREAD', 'BLOCK', 0, 'STREAMS', 'x', '$'))];
  const others = client.blpop('l', 0);
  await untilBlocked(3);
  const before = Date.now();
  await short.close();
  for (const error of await Promise.all(mine)) expect(error).toMatchObject({ code: 'ERR_CLOSED' });
  expect(Date.now() - before).toBeLessThan(5000);
  await untilBlocked(1);
  await client.rpush('l', 'for those who stay');
  expect(await others).toEqual(['l', 'for those who stay']);
});

test('shutdown() ends them at once, and the next one waits anew', async () => {
  const waiting = [outcome(client.blpop('l', 0)), outcome(client.brpop('l', 100))];
  await untilBlocked(2);
  const before = Date.now();
  await addon.shutdown();
  for (const error of await Promise.all(waiting)) expect(error).toMatchObject({ code: 'ERR_CLOSED' });
  expect(Date.now() - before).toBeLessThan(4000);
  await untilBlocked(0);
  const next = client.blpop('l', 0);
  await untilBlocked(1);
  await redis.rpush('l', 'x');
  expect(await next).toEqual(['l', 'x']);
});

test('a lost connection ends one, and it is not sent again', async () => {
  const waiting = outcome(client.blpop('l', 0));
  await untilBlocked(1);
  const [line] = (await redis.client('LIST'))
    .split('\n')
    .filter((entry) => entry.includes(':blocking') && entry.includes('cmd=blpop'));
  await redis.client('KILL', 'ID', /id=(\d+)/.exec(line)[1]);
  expect(await waiting).toMatchObject({ code: 'ERR_CONNECTION' });
  expect(await blocked()).toBe(0);
});
