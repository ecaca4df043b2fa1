'use strict';

// What becomes of connections, queues and subscriptions while the server is frozen, gone without a word, or restarted.

const native = require('../index.js');
const { startRedis, startProxy, sleep, until } = require('./helpers/servers.js');
const { spawnWorker } = require('./helpers/process.js');
const { through } = require('./fixtures/faults/taps.js');
const { report } = require('./fixtures/faults/figures.js');

const DRIVER = require.resolve('./fixtures/client/driver.js');
const MOST_IN_FLIGHT = 10_000;
const FLOOD = 100_000;
const SILENCE_MS = 3000;
/** For a busy machine. */
const MARGIN_MS = 3000;
const MB = 1024 * 1024;

beforeAll(() => native.setLogHandler(() => {}));
afterAll(() => native.shutdown());

test('a hundred thousand calls behind a frozen server: ten thousand wait, the others are told at once, all recovers', async () => {
  const redis = await startRedis();
  const one = await spawnWorker(DRIVER, { STUDIO_REDIS_LOG: 'off' });
  await one.call('open', redis.url);
  expect(await one.call('ping')).toBe('PONG');
  redis.freeze();
  const rounds = [];
  for (let round = 0; round < 3; round += 1) rounds.push(await one.call('flood', FLOOD));
  for (const { outcome, settled, grownBy } of rounds) {
    const text = Object.entries(outcome).map(([code, { count, lastMs }]) => `${code} ${count} within ${lastMs} ms`);
    report('a flood', { outcome: text.join(', '), memory: `${(grownBy / MB).toFixed(1)} MB` });
    expect(settled).toBe(FLOOD);
    const { ERR_TIMEOUT, ERR_CONNECTION, ERR_OVERLOADED, ERR_CIRCUIT_OPEN, ...others } = outcome;
    expect(others).toEqual({});
    expect((ERR_TIMEOUT?.count ?? 0) + (ERR_CONNECTION?.count ?? 0)).toBeLessThanOrEqual(MOST_IN_FLIGHT);
    expect((ERR_OVERLOADED?.count ?? 0) + (ERR_CIRCUIT_OPEN?.count ?? 0)).toBeGreaterThanOrEqual(
      FLOOD - MOST_IN_FLIGHT,
    );
    // A promise with its handlers takes a kilobyte or two of JavaScript's own; the rest is ours.
    expect(grownBy).toBeLessThan(400 * MB);
  }
  // A probe of the connection may take a place, too.
  const { ERR_TIMEOUT: waited, ERR_OVERLOADED: refused } = rounds[0].outcome;
  expect(waited?.count).toBeGreaterThan(MOST_IN_FLIGHT - 10);
  // Told before those that wait have missed their deadline.
  expect(refused.lastMs).toBeLessThan(waited.lastMs);
  redis.thaw();
  await until(async () => (await one.call('ping').catch(() => null)) === 'PONG', {
    what: 'recovery',
    deadlineMs: 60_000,
  });
  const { outcome } = await one.call('flood', 5000);
  expect(outcome).toEqual({ null: { count: 5000, lastMs: expect.any(Number) } });
  await one.kill();
}, 120_000);

test('a process that is busy with JavaScript does not take its own delay for one of the server', async () => {
  const redis = await startRedis();
  const one = await spawnWorker(DRIVER, { STUDIO_REDIS_LOG: 'off' });
  await one.call('open', redis.url);
  expect(await one.call('ping')).toBe('PONG');
  // Longer than the deadline of a command.
  expect(await one.call('callAndBeBusy', 50, 1500)).toEqual(['answered']);
  expect(await one.call('state')).toBe('closed');
  await one.kill();
});

test('a peer that vanished without a word is noticed within 3 s, and a new connection takes its place', async () => {
  const redis = await startRedis();
  const proxy = await startProxy(redis.port);
  const client = native.createRedisClient('links', { connectionString: through(redis.url, proxy), tier: 'free' });
  await redis.cli('SET', 'k', 'v');
  expect(await client.get('k')).toBe('v');
  const { accepted } = proxy;
  proxy.strand();
  const begun = Date.now();
  const outcomes = [];
  // Fewer than the ten calls that the breaker needs to open: a call takes its whole second.
  await until(
    async () => {
      const outcome = await client.get('k').catch(({ code }) => code);
      outcomes.push(outcome);
      return outcome === 'v';
    },
    { what: 'an answer over a new connection', deadlineMs: SILENCE_MS + MARGIN_MS, everyMs: 0 },
  ).catch((error) => {
    throw new Error(`${error.message} There was ${outcomes.join(' ')}.`);
  });
  report('a peer that vanished', { 'answered again after': `${Date.now() - begun} ms`, outcomes: outcomes.join(' ') });
  expect(outcomes[0]).not.toBe('v');
  expect(['ERR_TIMEOUT', 'ERR_CONNECTION', 'v']).toEqual(expect.arrayContaining(outcomes));
  expect(proxy.accepted).toBeGreaterThan(accepted);
  expect(client.getBreakerState()).toBe('closed');
  await client.close();
});

test('a peer that vanished from a quiet client is noticed, too', async () => {
  const redis = await startRedis();
  const proxy = await startProxy(redis.port);
  const client = native.createRedisClient('links', { connectionString: through(redis.url, proxy), tier: 'free' });
  expect(await client.ping()).toBe('PONG');
  await sleep(300);
  proxy.strand();
  await sleep(SILENCE_MS + MARGIN_MS);
  expect(await client.ping()).toBe('PONG');
  await client.close();
});

/** Ways in which a server, or the way to it, is lost and found again. */
const LOSSES = {
  'is killed and started again': async ({ redis }) => {
    await redis.kill();
    await sleep(500);
    await redis.restart();
  },
  'is restarted': ({ redis }) => redis.restart(),
  'is frozen for 5 s': async ({ redis }) => {
    redis.freeze();
    await sleep(5000);
    redis.thaw();
  },
  'is cut off by the network': async ({ proxy }) => {
    await proxy.cut();
    await sleep(500);
    await proxy.restore();
  },
  'vanishes without a word': ({ proxy }) => proxy.strand(),
  'ends all its connections': ({ redis }) => redis.cli('CLIENT', 'KILL', 'TYPE', 'pubsub'),
};

test.concurrent.each(Object.keys(LOSSES))(
  'subscriptions go on after the server %s: in order, and no message comes twice',
  async (loss) => {
    const redis = await startRedis();
    const proxy = await startProxy(redis.port);
    const client = native.createRedisClient('links', { connectionString: through(redis.url, proxy) });
    const seen = { one: [], two: [], pattern: [] };
    const channels = { one: 'news.one', two: 'other', pattern: 'news.one' };
    const subscriptions = [
      await client.subscribe('news.one', (message) => seen.one.push(message)),
      await client.subscribe('other', (message) => seen.two.push(message)),
      await client.psubscribe('news.*', (message) => seen.pattern.push(message)),
    ];
    let number = 0;
    const publish = async () => {
      number += 1;
      for (const channel of new Set(Object.values(channels))) await redis.cli('PUBLISH', channel, `${number}`);
    };
    await publish();
    await until(() => Object.values(seen).every(({ length }) => length === 1), { what: 'the first messages' });
    await LOSSES[loss]({ redis, proxy });
    const begun = Date.now();
    const last = () => Object.values(seen).every((messages) => Number(messages.at(-1)) >= 3);
    while (number < 3) await publish();
    await until(async () => last() || (await publish(), false), {
      what: 'messages after it',
      deadlineMs: 30_000,
      everyMs: 100,
    });
    report(`a server that ${loss}`, { 'messages again after': `${Date.now() - begun} ms` });
    for (const messages of Object.values(seen)) {
      expect(messages).toEqual([...new Set(messages)].sort((a, b) => a - b));
    }
    await Promise.all(subscriptions.map((subscription) => subscription.unsubscribe()));
    const before = JSON.stringify(seen);
    await publish();
    await sleep(200);
    expect(JSON.stringify(seen)).toBe(before);
    await client.close();
  },
  90_000,
);
