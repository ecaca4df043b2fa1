'use strict';

// A command whose answer is lost may have been executed: it is not sent again, unless it only reads. The proxy lets commands
// through, takes their answers away and resets the connection.

const native = require('../index.js');
const { startRedis, startProxy, sleep, until } = require('./helpers/servers.js');
const { through } = require('./fixtures/faults/taps.js');
const { report } = require('./fixtures/faults/figures.js');

const ROUNDS = process.env.SOAK ? 500 : 10;
const STORM_MS = process.env.SOAK ? 60_000 : 4000;
const INCR = "return redis.call('INCR', KEYS[1])";

const DATABASES = 16;

let redis;
let proxy;
let next = 0;

beforeAll(async () => {
  native.setLogHandler(() => {});
  redis = await startRedis();
  proxy = await startProxy(redis.port);
});

afterAll(() => native.shutdown());

/**
 * One round: a pool that has not lost anything yet, a key that nobody else uses, and a look at the database that it is in.
 * After it there are some right answers: the breaker, which all pools share, shall not open.
 */
async function round(play) {
  const number = (next += 1);
  const database = number % DATABASES;
  const client = native.createRedisClient('retries', {
    connectionString: `${through(redis.url, proxy)}/${database}`,
    config: { minPoolSize: 2, maxPoolSize: 2 },
  });
  await client.eval(INCR, ['warm'], []);
  await until(() => client.getPoolStats().size === 2, { what: 'both connections' });
  await play(client, `key-${number}-`, (...command) => inDatabase(database, command));
  proxy.onData = null;
  let right = 0;
  const ping = () =>
    client.ping().then(
      () => (right += 1),
      () => right,
    );
  await until(async () => (await ping()) >= 5, { what: 'five answers' });
  expect(client.getBreakerState()).toBe('closed');
  await client.close();
}

/** One command in a database of the server, whatever is between it and the client under test. */
const inDatabase = (database, [command, key, ...args]) =>
  redis.cli(
    'EVAL',
    `redis.call('SELECT', ARGV[1]) return redis.call(ARGV[2], KEYS[1], unpack(ARGV, 3))`,
    1,
    key,
    database,
    command,
    ...args,
  );

/**
 * Takes away the next `times` answers that hold `answer` on a connection that has carried `key`, with their connections. By
 * then the server has executed the command. `sent` counts the commands that hold the key.
 */
function loseAnswers(key, answer, times = 1) {
  const seen = { sent: 0, lost: 0 };
  const carriers = new WeakSet();
  proxy.onData = (direction, chunk, connection) => {
    if (direction === 'toServer' && chunk.includes(key)) {
      seen.sent += 1;
      carriers.add(connection);
    }
    if (direction === 'toServer' || seen.lost === times || !carriers.has(connection)) return undefined;
    if (!chunk.includes(answer)) return undefined;
    seen.lost += 1;
    connection.destroy();
    return null;
  };
  return seen;
}

const WRITES = {
  incr: (client, key) => client.incr(key),
  "call('INCR')": (client, key) => client.call('INCR', key),
  "call('incr')": (client, key) => client.call('incr', key),
  callBuffer: (client, key) => client.callBuffer('INCR', key),
  eval: (client, key) => client.eval(INCR, [key], []),
  pipeline: (client, key) => client.pipeline().incr(key).exec(),
  'pipeline that also reads': (client, key) => client.pipeline().get(key).incr(key).get(key).exec(),
  multi: (client, key) => client.multi().incr(key).exec(),
  hincrby: (client, key) => client.call('HINCRBY', key, 'field', 1),
  lpush: (client, key) => client.lpush(key, 'element'),
};

/** How often a write was executed. */
async function executions(key, look) {
  const type = await look('TYPE', key);
  if (type === 'list') return Number(await look('LLEN', key));
  return Number(await (type === 'hash' ? look('HGET', key, 'field') : look('GET', key)));
}

test.each(Object.keys(WRITES))(
  '%s is executed once and rejects with ERR_CONNECTION when its answer is lost',
  async (kind) => {
    for (let count = 0; count < ROUNDS; count += 1) {
      await round(async (client, key, look) => {
        const seen = loseAnswers(key, ':1\r\n');
        await expect(WRITES[kind](client, key)).rejects.toMatchObject({ code: 'ERR_CONNECTION' });
        // Nor is it sent once there is a new connection.
        await until(() => client.getPoolStats().size === 2, { what: 'a new connection' });
        expect(seen).toEqual({ sent: 1, lost: 1 });
        expect(await executions(key, look)).toBe(1);
      });
    }
  },
  60_000 + ROUNDS * 1000,
);

const READS = {
  get: (client, key) => client.get(key),
  mget: async (client, key) => (await client.mget(key))[0],
  "call('GET')": (client, key) => client.call('GET', key),
  "call('get')": (client, key) => client.call('get', key),
  callBuffer: async (client, key) => `${await client.callBuffer('GET', key)}`,
  getrange: (client, key) => client.call('GETRANGE', key, 0, -1),
};

test.each(Object.keys(READS))(
  '%s is sent once more when its answer is lost, and not a third time',
  async (kind) => {
    for (let count = 0; count < ROUNDS; count += 1) {
      for (const times of [1, 2]) {
        await round(async (client, key, look) => {
          const value = `value of ${key}`;
          await look('SET', key, value);
          const seen = loseAnswers(key, value, times);
          const answer = await READS[kind](client, key).catch(({ code }) => code);
          expect({ answer, ...seen }).toEqual({ answer: times === 1 ? value : 'ERR_CONNECTION', sent: 2, lost: times });
        });
      }
    }
  },
  60_000 + ROUNDS * 2000,
);

test(
  'in a storm of lost connections each increment that resolved counts once, each that rejected at most once',
  async () => {
    // A breaker of its own.
    const redis = await startRedis();
    const proxy = await startProxy(redis.port);
    const client = native.createRedisClient('storm', { connectionString: through(redis.url, proxy), tier: 'free' });
    const key = 'counter';
    const values = [];
    const codes = {};
    let asked = 0;
    let ended = false;
    const storm = setInterval(() => proxy.cutAfter(1 + Math.floor(Math.random() * 100)), 500);
    const lane = async () => {
      while (!ended) {
        asked += 1;
        await client.incr(key).then(
          (value) => values.push(value),
          ({ code }) => (codes[code] = (codes[code] ?? 0) + 1),
        );
        await sleep(Math.random() * 20);
      }
    };
    const lanes = Array.from({ length: 50 }, lane);
    await sleep(STORM_MS);
    ended = true;
    await Promise.all(lanes);
    clearInterval(storm);
    proxy.cutAfter(null);
    const counter = Number(await redis.cli('GET', key));
    report('a storm', { asked, resolved: values.length, counter, rejected: JSON.stringify(codes) });
    expect(new Set(values).size).toBe(values.length);
    expect(Math.max(...values)).toBeLessThanOrEqual(counter);
    expect(values.length).toBeGreaterThan(50);
    expect(counter).toBeGreaterThanOrEqual(values.length);
    const ambiguous = (codes.ERR_CONNECTION ?? 0) + (codes.ERR_TIMEOUT ?? 0);
    expect(counter).toBeLessThanOrEqual(values.length + ambiguous);
    expect(
      Object.keys(codes).filter((code) => !['ERR_CONNECTION', 'ERR_TIMEOUT', 'ERR_CIRCUIT_OPEN'].includes(code)),
    ).toEqual([]);
    await until(() => client.ping().catch(() => false), { what: 'an answer after the storm', deadlineMs: 60_000 });
    await client.close();
  },
  60_000 + 2 * STORM_MS,
);
