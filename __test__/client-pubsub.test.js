'use strict';

// Messages: in order, to every handler, through lost connections, without end of memory, until the subscription ends.

const { mkdtempSync, rmSync, writeFileSync } = require('node:fs');
const { tmpdir } = require('node:os');
const path = require('node:path');
const addon = require('./fixtures/functional/addon.js');
const { startRedis, until, freePort } = require('./helpers/servers.js');
const { runScript } = require('./helpers/process.js');
const { rejection } = require('./fixtures/functional/environment.js');
const { openRedis, connectionsOf } = require('./fixtures/functional/redis.js');
const { openClient } = require('./fixtures/client/open.js');

let client;
let redis;
let url;
let number = 0;
let channel;
let lines;

beforeAll(async () => {
  ({ url } = await startRedis());
  client = openClient(url);
  redis = openRedis(url);
});

beforeEach(() => {
  channel = `channel ${(number += 1)}`;
  lines = [];
  addon.setLogHandler((line) => lines.push(line));
});

afterEach(() => addon.setLogHandler(null));

const subscribers = async (name = channel) => (await redis.pubsub('NUMSUB', name))[1];
const untilHeard = (heard, count) => until(() => heard.length >= count, { what: `${count} messages` });

/** A turn of the server and some of the event loop, in which a message that should not come would have come. */
async function aWhile() {
  await client.publish('nobody', 'x');
  await new Promise((resolve) => setTimeout(resolve, 100));
}

test('a subscription is there once it is confirmed', async () => {
  const heard = [];
  const subscription = await client.subscribe(channel, (...args) => heard.push(args));
  expect(await subscribers()).toBe(1);
  expect(subscription.channel).toBe(channel);
  expect(subscription.dropped).toBe(0);
  expect(await client.publish(channel, 'hello')).toBe(1);
  await untilHeard(heard, 1);
  expect(heard).toEqual([['hello', channel]]);
  expect(await subscription.unsubscribe()).toBe(undefined);
  await until(async () => (await subscribers()) === 0, { what: 'the end of the subscription' });
});

test('the properties of a subscription cannot be set', async () => {
  const subscription = await client.subscribe(channel, () => {});
  expect(() => {
    'use strict';
    subscription.dropped = 5;
  }).toThrow(TypeError);
  expect(() => {
    'use strict';
    subscription.channel = 'other';
  }).toThrow(TypeError);
  expect([subscription.dropped, subscription.channel]).toEqual([0, channel]);
  await subscription.unsubscribe();
});

test.each([
  ['empty', ''],
  ['accented', 'é😀'],
  ['with line ends and NUL', 'a\r\nb\0c'],
  ['of 4 MB', 'x'.repeat(2 ** 22)],
])('a message that is %s', async (_, message) => {
  const heard = [];
  const subscription = await client.subscribe(`${channel} é`, (text) => heard.push(text));
  await client.publish(`${channel} é`, message);
  await untilHeard(heard, 1);
  expect(heard).toEqual([message]);
  await subscription.unsubscribe();
});

test('bytes are text for those who read text', async () => {
  const heard = [];
  const subscription = await client.subscribe(channel, (text) => heard.push(text));
  await client.publish(channel, Buffer.from([0x61, 0xff, 0x62]));
  await untilHeard(heard, 1);
  expect(heard).toEqual(['a\ufffdb']);
  await subscription.unsubscribe();
});

test('messages come in their order', async () => {
  const heard = [];
  const subscription = await client.subscribe(channel, (message) => heard.push(Number(message)));
  const sent = Array.from({ length: 5000 }, (_, index) => index);
  for (let from = 0; from < sent.length; from += 500) {
    const batch = redis.pipeline();
    for (const message of sent.slice(from, from + 500)) batch.publish(channel, message);
    await batch.exec();
    await untilHeard(heard, from + 500);
  }
  expect(heard).toEqual(sent);
  expect(subscription.dropped).toBe(0);
  await subscription.unsubscribe();
});

test('several handlers of a channel each get every message, until each ends', async () => {
  const heard = [[], [], []];
  const subscriptions = await Promise.all(
    heard.map((messages) => client.subscribe(channel, (message) => messages.push(message))),
  );
  expect(await subscribers()).toBe(1);
  await client.publish(channel, 'a');
  await Promise.all(heard.map((messages) => untilHeard(messages, 1)));
  await subscriptions[1].unsubscribe();
  expect(await subscribers()).toBe(1);
  await client.publish(channel, 'b');
  await Promise.all([0, 2].map((index) => untilHeard(heard[index], 2)));
  await Promise.all([subscriptions[0].unsubscribe(), subscriptions[2].unsubscribe()]);
  await until(async () => (await subscribers()) === 0, { what: 'the end of the last one' });
  expect(heard).toEqual([['a', 'b'], ['a'], ['a', 'b']]);
});

test('one handler that subscribes twice is called twice', async () => {
  const heard = [];
  const handler = (message) => heard.push(message);
  const [one, two] = [await client.subscribe(channel, handler), await client.subscribe(channel, handler)];
  await client.publish(channel, 'a');
  await untilHeard(heard, 2);
  await one.unsubscribe();
  await client.publish(channel, 'b');
  await untilHeard(heard, 3);
  await aWhile();
  expect(heard).toEqual(['a', 'a', 'b']);
  await two.unsubscribe();
});

test('patterns, beside the channels that they match', async () => {
  const heard = [];
  const byPattern = await client.psubscribe(`${channel}.*`, (...args) => heard.push(args));
  const byChannel = await client.subscribe(`${channel}.a`, (...args) => heard.push(args));
  expect(byPattern.channel).toBe(`${channel}.*`);
  expect(await client.publish(`${channel}.a`, 'both')).toBe(2);
  await client.publish(`${channel}.b`, 'pattern');
  await client.publish(channel, 'nobody');
  await untilHeard(heard, 3);
  await aWhile();
  expect(heard.slice(0, 2).sort()).toEqual([
    ['both', `${channel}.a`],
    ['both', `${channel}.a`, `${channel}.*`],
  ]);
  expect(heard.slice(2)).toEqual([['pattern', `${channel}.b`, `${channel}.*`]]);
  await byPattern.unsubscribe();
  await until(async () => (await redis.pubsub('NUMPAT')) === 0, { what: 'the end of the pattern' });
  expect(await client.publish(`${channel}.a`, 'channel')).toBe(1);
  await untilHeard(heard, 4);
  await byChannel.unsubscribe();
});

describe('unsubscribe', () => {
  test('stops at once, amid messages that have come already', async () => {
    const heard = [];
    let ended;
    const subscription = await client.subscribe(channel, (message) => {
      heard.push(message);
      if (heard.length === 3) ended = subscription.unsubscribe();
    });
    const batch = redis.pipeline();
    for (let index = 0; index < 500; index += 1) batch.publish(channel, index);
    await batch.exec();
    await untilHeard(heard, 3);
    await ended;
    await aWhile();
    expect(heard).toEqual(['0', '1', '2']);
  });

  test('may be called more than once, also at once', async () => {
    const subscription = await client.subscribe(channel, () => {});
    expect(await Promise.all([subscription.unsubscribe(), subscription.unsubscribe()])).toEqual([undefined, undefined]);
    expect(await subscription.unsubscribe()).toBe(undefined);
  });

  test('and a new subscription in one tick leave the new one', async () => {
    const heard = [];
    const old = await client.subscribe(channel, () => heard.push('old'));
    const [, fresh] = await Promise.all([
      old.unsubscribe(),
      client.subscribe(channel, (message) => heard.push(message)),
    ]);
    await client.publish(channel, 'new');
    await untilHeard(heard, 1);
    expect(heard).toEqual(['new']);
    await fresh.unsubscribe();
  });
});

test('what a handler throws is logged, and harms neither the next message nor the next handler', async () => {
  const heard = [];
  const one = await client.subscribe(channel, (message) => {
    heard.push(`one ${message}`);
    throw new Error(`on purpose, at ${message}`);
  });
  const two = await client.subscribe(channel, (message) => heard.push(`two ${message}`));
  await client.publish(channel, 'a');
  await client.publish(channel, 'b');
  await untilHeard(heard, 4);
  expect([...heard].sort()).toEqual(['one a', 'one b', 'two a', 'two b']);
  await until(() => lines.some((line) => JSON.stringify(line).includes('on purpose, at a')), {
    what: 'a line of the log',
  });
  await Promise.all([one.unsubscribe(), two.unsubscribe()]);
});

test('subscriptions survive a lost connection', async () => {
  const heard = [];
  const subscriptions = [
    await client.subscribe(channel, (message) => heard.push(message)),
    await client.psubscribe(`${channel}?`, (message) => heard.push(message)),
  ];
  for (let round = 0; round < 3; round += 1) {
    heard.length = 0;
    expect(await redis.call('CLIENT', 'KILL', 'TYPE', 'pubsub')).toBe(1);
    await until(async () => (await redis.publish(channel, 'a')) + (await redis.publish(`${channel}!`, 'b')) === 2, {
      what: 'both to be back',
    });
    await until(() => heard.includes('a') && heard.includes('b'), { what: 'a message of each' });
  }
  expect((await connectionsOf(redis, process.pid)).filter((role) => role === 'subscriber')).toEqual(['subscriber']);
  await Promise.all(subscriptions.map((subscription) => subscription.unsubscribe()));
});

test('a server that is not there is an error, and leaves nothing behind', async () => {
  const lonely = openClient(`redis://127.0.0.1:${await freePort()}`);
  const error = await rejection(() => lonely.subscribe(channel, () => {}));
  expect(error.code).toMatch(/^ERR_(CONNECTION|TIMEOUT|CIRCUIT_OPEN)$/);
  await lonely.close();
});

describe('a subscription ends', () => {
  test('by close() of its client, and no other', async () => {
    const short = openClient(url);
    const heard = [];
    const mine = await short.subscribe(channel, () => heard.push('mine'));
    const other = await client.subscribe(channel, () => heard.push('other'));
    await short.close();
    await client.publish(channel, 'x');
    await untilHeard(heard, 1);
    await aWhile();
    expect(heard).toEqual(['other']);
    expect(await mine.unsubscribe()).toBe(undefined);
    expect(await rejection(() => short.subscribe(channel, () => {}))).toMatchObject({ code: 'ERR_CLOSED' });
    expect(await rejection(() => short.psubscribe(channel, () => {}))).toMatchObject({ code: 'ERR_CLOSED' });
    await other.unsubscribe();
  });

  test('by close() of its client, amid messages that have come already', async () => {
    const short = openClient(url);
    const heard = [];
    await short.subscribe(channel, (message) => {
      heard.push(message);
      short.close();
    });
    const batch = client.pipeline();
    for (let count = 0; count < 200; count += 1) batch.publish(channel, String(count));
    await batch.exec();
    await untilHeard(heard, 1);
    await aWhile();
    expect(heard).toEqual(['0']);
  });

  test('by shutdown(), after which one can subscribe anew', async () => {
    const heard = [];
    const old = await client.subscribe(channel, () => heard.push('old'));
    await addon.shutdown();
    await until(async () => (await subscribers()) === 0, { what: 'its end' });
    expect(await old.unsubscribe()).toBe(undefined);
    const fresh = await client.subscribe(channel, () => heard.push('new'));
    await client.publish(channel, 'x');
    await untilHeard(heard, 1);
    expect(heard).toEqual(['new']);
    await fresh.unsubscribe();
  });
});

/** A script with a client of the server; it ends with 9 where something keeps it alive for 5 s after `done()`. */
const run = (source, options) =>
  runScript(
    `const addon = require('./index.js');
     const client = addon.createRedisClient('script', { connectionString: '${url}' });
     const done = () => setTimeout(() => process.exit(9), 5000).unref();
     (async () => { ${source} })();`,
    options,
  );

describe('a process', () => {
  test('stays while it is subscribed, and ends with unsubscribe()', async () => {
    const ended = run(`const subscription = await client.subscribe('${channel}', async (message) => {
      console.log(message); await subscription.unsubscribe(); done(); });`);
    await until(async () => (await subscribers()) === 1, { what: 'the subscription' });
    await new Promise((resolve) => setTimeout(resolve, 1000));
    expect(await client.publish(channel, 'heard')).toBe(1);
    expect(await ended).toMatchObject({ code: 0, signal: null, stdout: 'heard\n', stderr: '' });
  });

  test.each([
    ['close()', 'await client.close(); done();'],
    ['shutdown()', 'await addon.shutdown(); done();'],
    ['unsubscribe() that nobody awaits', 'done(); subscription.unsubscribe();'],
  ])('ends with %s', async (_, end) => {
    const ended = run(`const subscription = await client.psubscribe('${channel}*', () => {}); ${end}`);
    expect(await ended).toMatchObject({ code: 0, signal: null, stderr: '' });
  });

  test('that does not listen for a while loses messages, not its memory, and hears the later ones', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'client-pubsub-'));
    const flag = path.join(folder, 'go on');
    const ended = run(`
      const heard = [];
      const subscription = await client.subscribe('${channel}', (message) => heard.push(message.slice(0, 10).trim()));
      await client.set('listening', '${channel}');
      const before = process.memoryUsage.rss();
      const turn = new Int32Array(new SharedArrayBuffer(4));
      while (!require('fs').existsSync(${JSON.stringify(flag)})) Atomics.wait(turn, 0, 0, 20);
      const grown = process.memoryUsage.rss() - before;
      while (!heard.includes('last')) await new Promise((resolve) => setTimeout(resolve, 10));
      const numbers = heard.filter((message) => message !== 'last').map(Number);
      const inOrder = numbers.every((number, index) => index === 0 || number > numbers[index - 1]);
      console.log(JSON.stringify({ heard: numbers.length, dropped: subscription.dropped, grown, inOrder }));
      await subscription.unsubscribe();`);
    await until(async () => (await redis.get('listening')) === channel, { what: 'the subscription' });
    const filling = ' '.repeat(2000);
    for (let from = 0; from < 50_000; from += 1000) {
      const batch = redis.pipeline();
      for (let index = from; index < from + 1000; index += 1) batch.publish(channel, `${index}${filling}`);
      await batch.exec();
      // What the server still holds for it, it reads, whether or not JavaScript listens.
      await until(async () => !/ omem=[1-9]\d* .*cmd=subscribe/.test(await redis.client('LIST')), {
        what: 'all to be read',
      });
    }
    writeFileSync(flag, '');
    const last = setInterval(() => redis.publish(channel, 'last'), 100);
    const result = await ended;
    clearInterval(last);
    rmSync(folder, { recursive: true });
    expect(result).toMatchObject({ code: 0, signal: null });
    const { heard, dropped, grown, inOrder } = JSON.parse(result.stdout);
    expect({ all: heard + dropped, inOrder }).toEqual({ all: 50_000, inOrder: true });
    expect(heard).toBeGreaterThanOrEqual(1000);
    expect(heard).toBeLessThan(10_000);
    // 100 MB were sent, of which about 2 may wait.
    expect(grown).toBeLessThan(50 * 2 ** 20);
    expect(result.stderr).toContain(channel);
  });
});
