'use strict';

// The server goes away in every way that it can, or misbehaves, with hundreds of calls in flight. Each call settles within
// its deadline with the right code or with its own answer, and everything recovers by itself. The cases run side by side,
// each with a server of its own, because many wait for the 15 to 18 s that a breaker stays open.

const native = require('../index.js');
const { startRedis, startProxy, startFakeRedis, sleep, until } = require('./helpers/servers.js');
const { MISBEHAVIOURS } = require('./helpers/fake-redis.js');
const { Crowd, PAIRS } = require('./fixtures/client/crowd.js');
const { through } = require('./fixtures/faults/taps.js');
const { report } = require('./fixtures/faults/figures.js');

const DEADLINE_MS = 1000;
/** For a busy machine: a bound that a hang exceeds, not a measurement. */
const MARGIN_MS = 2000;
const FAULT_MS = process.env.SOAK ? 20_000 : 3000;
/** The breaker stays open for 15 to 18 s, and perhaps once more after a probe in the last moment of the fault. */
const RECOVERY_MS = 60_000;
/** So many right answers in a row are a recovery. */
const RECOVERED = 300;

const OUTAGE = ['ERR_TIMEOUT', 'ERR_CONNECTION', 'ERR_CIRCUIT_OPEN'];
const LOST = ['ERR_CONNECTION', 'ERR_CIRCUIT_OPEN'];

beforeAll(() => native.setLogHandler(() => {}));
afterAll(() => native.shutdown());

/** The states of the breaker of a server as they come. */
function watchBreaker(port) {
  const states = [];
  const end = native.onBreakerChange(
    ({ server, state }) => server === `Redis at 127.0.0.1:${port}` && states.push(state),
  );
  return { states, end };
}

/** A crowd before, under and after a fault, and what was seen of it. `opens`: the breaker is expected to. */
async function underFault(url, { fault, cure, opens, ...options }) {
  const client = native.createRedisClient('faults', { connectionString: url, tier: 'free' });
  const breaker = watchBreaker(new URL(url).port);
  const crowd = new Crowd(client, options);
  const answersAgain = () =>
    client.getBreakerState() === 'closed' && crowd.streak >= Math.min(RECOVERED, crowd.loops.length);
  await until(answersAgain, { what: 'answers before the fault' });
  crowd.phase('fault');
  const begun = Date.now();
  await fault();
  if (opens) await until(() => client.getBreakerState() === 'open', { what: 'the opening of the breaker' });
  await sleep(Math.max(0, begun + FAULT_MS - Date.now()));
  crowd.phase('cure');
  const cured = Date.now();
  await cure();
  await until(answersAgain, { what: 'answers after the fault', deadlineMs: RECOVERY_MS });
  const recoveredMs = Date.now() - cured;
  crowd.phase('after');
  await sleep(1000);
  const seen = await crowd.stop();
  breaker.end();
  await client.close();
  return { ...seen, states: breaker.states, recoveredMs };
}

/** What holds whatever happens. */
function judge(way, { asked, settled, wrong, codes, slowest, states, recoveredMs }, { opens, codes: allowed }) {
  const text = Object.entries(codes).map(([phase, counts]) => `${phase} ${JSON.stringify(counts)}`);
  report(way, { asked, codes: text.join(', ') || 'none', slowest: `${slowest} ms`, recovered: `${recoveredMs} ms` });
  expect(wrong).toEqual([]);
  expect(settled).toBe(asked);
  expect(slowest).toBeLessThan(DEADLINE_MS + MARGIN_MS);
  expect(Object.keys(codes)).not.toContain('before');
  expect(Object.keys(codes)).not.toContain('after');
  const names = new Set(Object.values(codes).flatMap(Object.keys));
  expect(allowed).toEqual(expect.arrayContaining([...names]));
  // Each state once, in order; a probe may fail before the fault is cured.
  if (opens) expect(states.join(' ')).toMatch(/^open( half-open open)* half-open closed$/);
  else expect(states.join(' ')).toMatch(/^(open( half-open open)* half-open closed)?$/);
}

/** Cuts connections in the middle of replies, again and again, until it is called off. */
function cutAgainAndAgain(proxy) {
  const timer = setInterval(() => proxy.cutAfter(1 + Math.floor(Math.random() * 200)), 150);
  return () => {
    clearInterval(timer);
    proxy.cutAfter(null);
  };
}

const WAYS = {
  'frozen (SIGSTOP)': {
    opens: true,
    codes: OUTAGE,
    fault: ({ redis }) => redis.freeze(),
    cure: ({ redis }) => redis.thaw(),
  },
  'killed and started again': {
    opens: true,
    codes: LOST,
    forgetful: true,
    fault: ({ redis }) => redis.kill(),
    cure: ({ redis }) => redis.restart(),
  },
  'restarted at once': {
    codes: LOST,
    forgetful: true,
    fault: ({ redis }) => redis.restart(),
    cure: () => {},
  },
  'cut off by the network': {
    network: true,
    opens: true,
    codes: LOST,
    fault: ({ proxy }) => proxy.cut(),
    cure: ({ proxy }) => proxy.restore(),
  },
  'cut in the middle of replies': {
    network: true,
    codes: LOST,
    fault: (servers) => void (servers.callOff = cutAgainAndAgain(servers.proxy)),
    cure: ({ callOff }) => callOff(),
  },
  'silent behind the network': {
    network: true,
    opens: true,
    codes: OUTAGE,
    fault: ({ proxy }) => proxy.freeze(),
    cure: ({ proxy }) => proxy.thaw(),
  },
  'slowed to a byte a write': {
    network: true,
    opens: true,
    codes: OUTAGE,
    fault: ({ proxy }) => proxy.slow({ bytesPerWrite: 1, delayMs: 1 }),
    cure: ({ proxy }) => proxy.slow(),
  },
};

test.concurrent.each(Object.keys(WAYS))(
  'a server that is %s: each call settles in time, with the right code or its own answer, and all recovers',
  async (way) => {
    const { fault, cure, network, opens, codes, forgetful } = WAYS[way];
    const redis = await startRedis();
    await redis.cli('MSET', ...PAIRS);
    const servers = { redis, proxy: network && (await startProxy(redis.port)) };
    const url = network ? through(redis.url, servers.proxy) : redis.url;
    const options = { fault: () => fault(servers), cure: () => cure(servers), opens, forgetful };
    judge(way, await underFault(url, options), { opens, codes });
  },
  180_000,
);

/** With one call at a time where nothing in the protocol tells whose a reply is: `lanes: 1`. */
const GARBAGE = {
  'random bytes': { opens: true, codes: LOST },
  'a wrong length': { opens: true, codes: LOST },
  'a length without end': { opens: true, codes: LOST },
  HTTP: { opens: true, codes: LOST },
  'deep nesting': { opens: true, codes: LOST },
  'half a reply, then silence': { opens: true, codes: OUTAGE },
  'the end after n bytes': { codes: LOST },
  'a push in between': { codes: [] },
  LOADING: { opens: true, codes: ['ERR_REPLY LOADING', 'ERR_CIRCUIT_OPEN'] },
  READONLY: { opens: true, codes: ['ERR_REPLY READONLY', 'ERR_CIRCUIT_OPEN'] },
  MASTERDOWN: { opens: true, codes: ['ERR_REPLY MASTERDOWN', 'ERR_CIRCUIT_OPEN'] },
  'an extra reply': { codes: LOST, lanes: 1, pauseMs: 30 },
};

test.concurrent.each(Object.keys(GARBAGE))(
  'a server that answers with %s: each call settles in time, with the right code or its own answer, and all recovers',
  async (way) => {
    const { opens, codes, ...options } = GARBAGE[way];
    const server = await startFakeRedis();
    const fault = () => void (server.misbehave = MISBEHAVIOURS[way]());
    const cure = () => void (server.misbehave = null);
    const seen = await underFault(server.url, { fault, cure, opens, ...options });
    judge(way, seen, { opens, codes });
    // A connection that was given up is closed.
    expect(server.connections).toBeLessThanOrEqual(5);
  },
  180_000,
);

test.concurrent('a server that greets with HTTP is no Redis, and believed once it is one', async () => {
  const server = await startFakeRedis();
  Object.assign(server, { rude: true, misbehave: MISBEHAVIOURS.HTTP() });
  const client = native.createRedisClient('faults', { connectionString: server.url });
  await expect(client.get('k')).rejects.toMatchObject({ code: 'ERR_CONNECTION' });
  expect(await client.healthCheck()).toBe(false);
  server.misbehave = null;
  await until(() => client.get('k').catch(() => null), { what: 'an answer', everyMs: 500 });
  await client.close();
});

test.concurrent('a server that leaves out a reply does not shift the answers of later calls for good', async () => {
  const server = await startFakeRedis();
  const options = { connectionString: server.url, config: { minPoolSize: 1, maxPoolSize: 1 } };
  const client = native.createRedisClient('faults', options);
  expect(await client.get('first')).toBe('value of first');
  server.misbehave = (right, [, key]) => (key === 'unanswered' ? null : right);
  // Nothing in the protocol tells whose a reply is: this one may even get the answer to a probe. But the probe then finds
  // something else than its own answer, or none, and the connection is known to be out of step.
  await client.get('unanswered').catch(() => null);
  await sleep(6000);
  for (let number = 0; number < 5; number += 1) {
    expect(await client.get(`later ${number}`).catch(({ code }) => code)).toBe(`value of later ${number}`);
  }
  await client.close();
});
