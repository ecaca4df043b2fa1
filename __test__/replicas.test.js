'use strict';

// `readFrom: 'replica'`: replicas answer what reads keys, the primary answers the rest, and all while no replica can.

const addon = require('./fixtures/functional/addon.js');
const { startRedis, startSentinels, sleep, until } = require('./helpers/servers.js');
const { Database } = require('./helpers/database.js');
const { withEnvironment } = require('./fixtures/functional/environment.js');
const { openClient } = require('./fixtures/client/open.js');
const { rolesAt } = require('./fixtures/sentinel/turnover.js');
const { report } = require('./fixtures/faults/figures.js');

const CALLS = 6;
/** How long a fault lasts. */
const FAULT_MS = 1500;
/** So many keys that a replica that loads them with delays takes some time for it. */
const MANY_KEYS = 3000;

beforeAll(() => addon.setLogHandler(() => {}));

const follow = (replica, primary) => replica.cli('REPLICAOF', '127.0.0.1', primary.port);

const inStep = (replica) =>
  until(async () => (await replica.cli('INFO', 'replication').catch(() => '')).includes('master_link_status:up'), {
    what: `the replica on port ${replica.port}`,
  });

/** A primary and two replicas. */
async function plain(args = []) {
  const hurry = ['--repl-diskless-sync-delay', '0', '--repl-ping-replica-period', '1', ...args];
  const [primary, ...replicas] = await Promise.all([1, 2, 3].map(() => startRedis({ args: hurry })));
  for (const replica of replicas) await follow(replica, primary);
  await Promise.all(replicas.map(inStep));
  return { primary, replicas, url: primary.url };
}

/** The same with sentinels. */
async function watched() {
  const deployment = await startSentinels({ replicas: 2 });
  const [primary, ...replicas] = deployment.servers;
  return { primary, replicas, url: deployment.url, deployment };
}

/** How often a server has executed a command since its start. */
async function executed(server, command) {
  const stats = await server.cli('INFO', 'commandstats');
  return Number(new RegExp(`^cmdstat_${command}:calls=(\\d+)`, 'm').exec(stats)?.[1] ?? 0);
}

/** How often each server executes a command while `work` runs: `[primary, ...replicas]`. */
async function executedDuring({ primary, replicas }, command, work) {
  const count = () => Promise.all([primary, ...replicas].map((server) => executed(server, command)));
  const before = await count();
  await work();
  return (await count()).map((calls, index) => calls - before[index]);
}

/** Reads until one of the replicas has answered. */
const untilServed = (client, replicas, what = 'an answer of a replica') =>
  until(
    async () => {
      const count = async () =>
        (await Promise.all(replicas.map((one) => executed(one, 'get').catch(() => 0)))).reduce((a, b) => a + b);
      const before = await count();
      await client.get('served');
      return (await count()) > before;
    },
    { what, everyMs: 50, deadlineMs: 30_000 },
  );

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

const READS = [
  ['get', 'text'],
  ['exists', 'text', 'none'],
  ['mget', 'text', 'none'],
  ['ttl', 'text'],
  ['hget', 'hash', 'f'],
  ['hgetall', 'hash'],
  ['hexists', 'hash', 'f'],
  ['lrange', 'list', 0, -1],
  ['llen', 'list'],
  ['smembers', 'set'],
  ['sismember', 'set', 'm'],
  ['zrange', 'sorted', 0, -1],
  ['zscore', 'sorted', 'm'],
  ['zcard', 'sorted'],
  ['zrangebyscore', 'sorted', '-inf', '+inf'],
];

/** What is not for a replica, with the command that tells who has executed it. What it changes comes to them as other commands. */
const OTHERS = {
  getset: (client) => client.call('GETSET', 'text', 'v'),
  eval: (client) => client.call('EVAL', "return redis.call('TYPE', KEYS[1])", 1, 'text'),
  type: (client) => client.multi().call('TYPE', 'text').exec(),
  scan: (client) => client.scan(0),
  hscan: (client) => client.call('HSCAN', 'hash', 0),
  keys: (client) => client.keys('none*'),
  dbsize: (client) => client.dbsize(),
  echo: (client) => client.call('ECHO', 'x'),
};

describe.each([
  ['a primary and replicas', plain],
  ['what sentinels watch', watched],
])('%s', (_, start) => {
  let servers;
  let client;
  let ordinary;

  beforeAll(async () => {
    servers = await start();
    client = openClient(servers.url, { readFrom: 'replica' });
    ordinary = openClient(servers.url);
    await client.set('text', 'v');
    await client.hset('hash', 'f', 'v');
    await client.rpush('list', 'a', 'b');
    await client.sadd('set', 'm');
    await client.zadd('sorted', 1, 'm');
    await untilServed(client, servers.replicas);
    await until(
      async () =>
        (await Promise.all(servers.replicas.map((one) => one.cli('ZCARD', 'sorted')))).every((n) => n === '1'),
      {
        what: 'replicas that have it all',
      },
    );
  });

  test.each(READS)('%s is for replicas', async (method, ...args) => {
    const right = await ordinary[method](...args);
    // A replica that was busy for a moment is not asked for a second.
    await until(
      async () => {
        const [byPrimary, ...byReplicas] = await executedDuring(servers, method, async () => {
          for (let call = 0; call < CALLS; call += 1) expect(await client[method](...args)).toEqual(right);
        });
        return byPrimary === 0 && sum(byReplicas) === CALLS && byReplicas.every((calls) => calls > 0);
      },
      { what: `${method} by the replicas alone` },
    );
  });

  test.each(Object.keys(OTHERS))('%s is for the primary', async (command) => {
    const [byPrimary, ...byReplicas] = await executedDuring(servers, command, async () => {
      for (let call = 0; call < CALLS; call += 1) await OTHERS[command](client);
    });
    expect({ byPrimary, byReplicas }).toEqual({ byPrimary: CALLS, byReplicas: [0, 0] });
  });

  test('a client of the same pool that does not ask for it reads from the primary', async () => {
    const counts = await executedDuring(servers, 'get', async () => {
      for (let call = 0; call < CALLS; call += 1) await ordinary.get('text');
    });
    expect(counts).toEqual([CALLS, 0, 0]);
  });

  test('sessions and limits are never for replicas', async () => {
    const database = new Database();
    const session = await database.createSession();
    await withEnvironment({ REDIS_URL: servers.url }, async () => {
      const reads = openClient(servers.url, { readFrom: 'replica' });
      await untilServed(reads, servers.replicas);
      const during = async () => {
        for (let call = 0; call < CALLS; call += 1) {
          await addon.invalidateSessionCache(session.token);
          expect(await addon.validateSessionWithCache(session.token)).toMatchObject({ id: session.id });
          expect((await addon.checkLimit(`key ${call}`, 5, 60)).allowed).toBe(true);
        }
        expect((await addon.getSessionCacheMetrics()).errors).toBe(0);
      };
      const [byPrimary, ...byReplicas] = await executedDuring(servers, 'evalsha', during);
      expect(byPrimary).toBeGreaterThanOrEqual(2 * CALLS);
      expect(byReplicas).toEqual([0, 0]);
      expect(await rolesAt(servers.primary, process)).toContain('sessions');
      for (const replica of servers.replicas) expect(await rolesAt(replica, process)).not.toContain('sessions');
      await reads.close();
    });
    await database.end();
  });
});

/** Each way: what makes the replicas useless, and what mends them. */
const WAYS = {
  away: {
    fault: ({ replicas }) => Promise.all(replicas.map((one) => one.kill())),
    async cure({ primary, replicas }) {
      for (const replica of replicas) {
        await replica.restart();
        await follow(replica, primary);
      }
    },
  },
  frozen: {
    fault: ({ replicas }) => replicas.forEach((one) => one.freeze()),
    cure: ({ replicas }) => replicas.forEach((one) => one.thaw()),
  },
  'out of step': {
    args: ['--replica-serve-stale-data', 'no'],
    async fault({ replicas }) {
      // Nobody is there.
      for (const replica of replicas) await replica.cli('REPLICAOF', '127.0.0.1', 1);
      for (const replica of replicas) await expect(replica.cli('GET', 'served')).rejects.toThrow('MASTERDOWN');
    },
    cure: ({ primary, replicas }) => Promise.all(replicas.map((one) => follow(one, primary))),
  },
  loading: {
    // Only a server that gets other writes than its primary has to load all anew.
    args: ['--replica-read-only', 'no', '--loading-process-events-interval-bytes', '1024'],
    async fault({ primary, replicas }) {
      for (const replica of replicas) {
        await replica.cli('CONFIG', 'SET', 'key-load-delay', 1000);
        await replica.cli('REPLICAOF', 'NO', 'ONE');
        await replica.cli('SET', 'own', 'x');
        await follow(replica, primary);
      }
      const loads = (one) =>
        one.cli('GET', 'served').then(
          () => false,
          ({ reply }) => reply?.startsWith('LOADING'),
        );
      await until(() => loads(replicas[1]), { what: 'a replica that loads' });
    },
    cure: () => {},
  },
};

test.concurrent.each(Object.keys(WAYS))(
  'replicas that are %s: the primary answers, and they are used again later',
  async (way) => {
    const { args, fault, cure } = WAYS[way];
    const servers = await plain(args);
    const client = addon.createRedisClient(way, { connectionString: servers.url, readFrom: 'replica' });
    await client.set('served', 'v');
    await client.call('EVAL', `for n = 1, ${MANY_KEYS} do redis.call('SET', 'k' .. n, string.rep('x', 100)) end`, 0);
    await untilServed(client, servers.replicas);
    await fault(servers);
    const answers = [];
    for (const end = Date.now() + FAULT_MS; Date.now() < end;) {
      answers.push(client.get('served').catch(({ code, message }) => `${code} ${message}`));
      await sleep(10);
    }
    const wrong = (await Promise.all(answers)).filter((answer) => answer !== 'v');
    expect({ asked: answers.length > 20, wrong: wrong.slice(0, 3) }).toEqual({ asked: true, wrong: [] });
    expect(await executed(servers.primary, 'get')).toBeGreaterThan(0);
    const cured = Date.now();
    await cure(servers);
    await untilServed(client, servers.replicas, 'a replica that is used again');
    report(`replicas ${way}`, { 'used again after': `${Date.now() - cured} ms` });
    await client.close();
  },
  60_000,
);

test('a replica that is the primary now gets the writes, and others get the reads', async () => {
  const { deployment, url } = await watched();
  const client = openClient(url, { readFrom: 'replica' });
  await client.set('served', 'v');
  await untilServed(client, await deployment.replicas());
  const [former, next] = [await deployment.primary(), await deployment.failover()];
  await until(
    () =>
      client.set('served', 'w').then(
        () => true,
        () => false,
      ),
    { what: 'a write' },
  );
  expect(await next.cli('GET', 'served')).toBe('w');
  const others = deployment.servers.filter((one) => one !== former && one !== next);
  await untilServed(client, others, 'the other replica');
  await until(async () => (await client.get('served')) === 'w', { what: 'the last value' });
});
