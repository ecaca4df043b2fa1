'use strict';

// A Redis that answers, and refuses or says nonsense; one that has just gone; and what a process does without it by its
// settings. Nothing is rejected but what is wrong in itself. The cases run side by side, each with servers of its own.

const { startRedis, startFakeRedis, sleep, until } = require('./helpers/servers.js');
const { MISBEHAVIOURS } = require('./helpers/fake-redis.js');
const { limiter, limiters, allowedOf, redisAndProcess, undisturbed } = require('./fixtures/limits/cast.js');
const { POLICIES, LONGEST_MS } = require('./fixtures/limits/outage.js');
const { ALGORITHMS } = require('./fixtures/limits/verdict.js');
const { summary, report } = require('./fixtures/faults/figures.js');

test.concurrent('in an outage calls are decided, allowed or denied as `onOutage` says, and counted', async () => {
  const { redis, one } = await redisAndProcess();
  await redis.kill();
  for (const algorithm of ALGORITHMS) {
    const policy = (onOutage) => ({
      key: `key ${algorithm}`,
      limit: 10,
      options: { algorithm, name: onOutage, onOutage },
    });
    expect(await allowedOf(one, 30, policy('local'))).toBe(10);
    expect(await allowedOf(one, 30, policy('allow'))).toBe(30);
    expect(await allowedOf(one, 30, policy('deny'))).toBe(0);
  }
  const metrics = await one.call('getRateLimitMetrics');
  expect(metrics.local).toMatchObject({ allowed: 30, denied: 60, answeredInOutage: 90 });
  expect(metrics.allow).toMatchObject({ allowed: 90, denied: 0, answeredInOutage: 90 });
  expect(metrics.deny).toMatchObject({ allowed: 0, denied: 90, answeredInOutage: 90 });
  // What was allowed beyond the limit is counted all the same.
  const counted = { key: 'key sliding-window', limit: 10, options: { name: 'allow' } };
  expect(await allowedOf(one, 5, counted)).toBe(0);
  // Shadow mode allows whatever would be done.
  const shadow = { key: 'shadow', limit: 10, options: { name: 'shadow', onOutage: 'deny', shadow: true } };
  const { admitted } = await one.call('burst', { windowSeconds: 600, calls: 5, ...shadow });
  expect(admitted).toBe(5);
  expect((await one.call('getRateLimitMetrics')).shadow).toMatchObject({ shadowDenied: 5, answeredInOutage: 5 });
  await one.kill();
});

test.concurrent('in an outage a process allows its share of each limit', async () => {
  const { redis, one } = await redisAndProcess({ RATE_LIMIT_INSTANCE_SHARE: '0.25' });
  // Redis answers: the whole limit.
  let round = 0;
  const { admitted } = await undisturbed([one], async () => {
    const key = `round ${(round += 1)}`;
    return {
      admitted: await Promise.all(
        ALGORITHMS.map((algorithm) => allowedOf(one, 50, { key, limit: 40, options: { algorithm } })),
      ),
    };
  });
  expect(admitted).toEqual([40, 40, 40]);
  await redis.kill();
  for (const algorithm of ALGORITHMS) {
    expect(await allowedOf(one, 50, { key: `after ${algorithm}`, limit: 40, options: { algorithm } })).toBe(10);
    // Nobody is shut out altogether.
    expect(await allowedOf(one, 5, { key: `least ${algorithm}`, limit: 1, options: { algorithm } })).toBe(1);
  }
  await one.kill();
});

test.concurrent(
  'a process that was stopped amid its checks answers them when it goes on, and blames nobody',
  async () => {
    const { one, redis } = await redisAndProcess();
    await one.call('startTraffic', POLICIES);
    await sleep(1000);
    one.freeze();
    await sleep(3000);
    one.thaw();
    await sleep(2000);
    const { asked, failures, breaker, begun, allowed, policies } = await one.call('stopTraffic');
    expect({ failures, breaker }).toEqual({ failures: [], breaker: [] });
    expect(begun.length).toBe(asked);
    const victim = POLICIES.findIndex(({ options }) => options.name === 'victim');
    expect(policies.filter((policy, index) => policy === victim && allowed[index]).length).toBe(POLICIES[victim].limit);
    await one.kill();
    await redis.stop();
  },
);

test.concurrent(
  'a process that is busy with JavaScript does not take its own delay for one of the server',
  async () => {
    const { one } = await redisAndProcess();
    let round = 0;
    const busy = () => one.call('crowd', 50, { name: `round ${(round += 1)}`, busyMs: 300 });
    // Longer than Redis' share, before and after the checks leave.
    expect(await undisturbed([one], busy)).toMatchObject({ allowed: 50, denied: 0, failures: [] });
    await one.kill();
  },
);

test.concurrent('a crowd of checks before a frozen Redis: each is answered, in its time', async () => {
  const { redis, one } = await redisAndProcess();
  redis.freeze();
  for (let round = 0; round < 3; round += 1) {
    const { ms, ...outcome } = await one.call('crowd', 20_000, { name: `round ${round}` });
    report('20000 checks at once', { ms: Math.round(ms) });
    expect(outcome).toEqual({ allowed: 20_000, denied: 0, failures: [] });
    expect(ms).toBeLessThan(LONGEST_MS);
  }
  redis.thaw();
  await one.kill();
});

test.concurrent('a Redis that was started again empty while nobody asked it gives nobody a second quota', async () => {
  const { redis, one } = await redisAndProcess();
  const policies = ALGORITHMS.map((algorithm) => ({ key: `idle ${algorithm}`, limit: 10, options: { algorithm } }));
  // None is denied yet, so that nothing is remembered of that.
  for (const policy of policies) expect(await allowedOf(one, 10, policy)).toBe(10);
  await redis.restart();
  await until(async () => (await redis.cli('CLIENT', 'LIST')).includes(`studio-redis-native:${one.pid}:commands`), {
    what: 'a new connection',
  });
  for (const policy of policies) expect(await allowedOf(one, 20, policy)).toBe(0);
  await one.kill();
});

/** What three processes allow that come one after the other: before, while Redis is away, and when it is back. */
const UNEVEN = {
  // Its counts go on.
  frozen: { fault: (redis) => redis.freeze(), cure: (redis) => redis.thaw(), most: 2 },
  // It gives its limit once more to those who did not decide alone.
  'killed and started again empty': { fault: (redis) => redis.kill(), cure: (redis) => redis.restart(), most: 3 },
};

test.concurrent.each(Object.keys(UNEVEN))(
  'Redis %s: of three processes with a third each, no more than the limit, their shares, and what Redis forgot',
  async (way) => {
    const { fault, cure, most } = UNEVEN[way];
    const redis = await startRedis();
    const processes = await limiters(redis, 3, { RATE_LIMIT_INSTANCE_SHARE: '0.3334' });
    const inTurn = async (algorithm) => {
      const allowed = [];
      for (const one of processes)
        allowed.push(await allowedOf(one, 100, { key: 'key', limit: 60, options: { algorithm } }));
      return allowed;
    };
    const seen = {};
    for (const algorithm of ALGORITHMS)
      seen[algorithm] = await allowedOf(processes[0], 100, { key: 'key', limit: 60, options: { algorithm } });
    await fault(redis);
    for (const algorithm of ALGORITHMS) seen[algorithm] = [seen[algorithm], ...(await inTurn(algorithm))];
    await cure(redis);
    await Promise.all(processes.map((one) => one.call('connected')));
    for (const algorithm of ALGORITHMS) seen[algorithm].push(...(await inTurn(algorithm)));
    report(
      `uneven, Redis ${way}`,
      Object.fromEntries(ALGORITHMS.map((algorithm) => [algorithm, seen[algorithm].join(' ')])),
    );
    for (const algorithm of ALGORITHMS) {
      const total = seen[algorithm].reduce((sum, allowed) => sum + allowed, 0);
      expect({ algorithm, tooMany: Math.max(0, total - most * 60) }).toEqual({ algorithm, tooMany: 0 });
    }
    await Promise.all(processes.map((one) => one.kill()));
  },
);

test.concurrent('a shutdown in an outage gives nobody a second quota', async () => {
  const { redis, one } = await redisAndProcess();
  await redis.kill();
  for (const algorithm of ALGORITHMS) {
    expect(await allowedOf(one, 20, { key: `shut ${algorithm}`, limit: 10, options: { algorithm } })).toBe(10);
  }
  await one.call('shutdown');
  await redis.restart();
  await one.call('connected');
  for (const algorithm of ALGORITHMS) {
    expect(await allowedOf(one, 20, { key: `shut ${algorithm}`, limit: 10, options: { algorithm } })).toBe(0);
  }
  await one.kill();
});

test.concurrent('while Redis is away, every way to forget, to ask and to give back resolves', async () => {
  const { redis, one } = await redisAndProcess();
  const tried = (...call) => one.call('tried', ...call);
  redis.freeze();
  const store = (method) => ['RedisRateLimitStore', { name: 'store' }, method];
  const bucket = (method) => ['RedisTokenBucketStore', { name: 'store' }, method];
  const waits = [];
  const expectResolved = async (...call) => {
    const { code, message, value, ms } = await tried(...call);
    expect({ call, code, message }).toEqual({ call, code: undefined, message: undefined });
    waits.push(ms);
    return value;
  };
  for (const of of [store, bucket]) {
    const use = () => expectResolved(of('checkLimit'), 'key', 2, 600);
    expect((await use()).allowed).toBe(true);
    expect((await use()).allowed).toBe(true);
    expect((await use()).allowed).toBe(false);
    expect(await expectResolved(of('get'), 'key')).toMatchObject({ limit: 2, remaining: 0 });
    expect((await expectResolved(of('peek'), 'key', 2, 600)).allowed).toBe(false);
    await expectResolved(of('refund'), 'key', 2, 600);
    expect((await expectResolved(of('peek'), 'key', 2, 600)).allowed).toBe(true);
    expect((await use()).allowed).toBe(true);
    expect((await use()).allowed).toBe(false);
    // This process forgets.
    await expectResolved(of('clear'), 'key');
    expect((await use()).allowed).toBe(true);
    await use();
    expect((await use()).allowed).toBe(false);
    await expectResolved(of('clear'));
    expect((await use()).allowed).toBe(true);
    await use();
    await expectResolved('clearRateLimits');
    expect((await use()).allowed).toBe(true);
  }
  for (let attempt = 0; attempt < 5; attempt += 1)
    expect(await expectResolved('checkRateLimit', 'somebody')).toBe(false);
  expect(await expectResolved('checkRateLimit', 'somebody')).toBe(true);
  await expectResolved('clearRateLimit', 'somebody');
  expect(await expectResolved('checkRateLimit', 'somebody')).toBe(false);
  report('calls while Redis is frozen', { answers: summary(waits) });
  expect(Math.max(...waits)).toBeLessThan(LONGEST_MS);
  redis.thaw();
  await one.kill();
});

/** Ways in which a server that lives refuses what a limiter does to it. */
const REFUSALS = {
  'has no memory left': {
    refuse: (redis) => redis.cli('CONFIG', 'SET', 'maxmemory', '1'),
    relent: (redis) => redis.cli('CONFIG', 'SET', 'maxmemory', '0'),
  },
  'grants no permission for scripts': {
    refuse: (redis) => redis.cli('ACL', 'SETUSER', 'default', '-@scripting'),
    relent: (redis) => redis.cli('ACL', 'SETUSER', 'default', '+@all'),
  },
  'grants no permission for the keys': {
    refuse: (redis) => redis.cli('ACL', 'SETUSER', 'default', 'resetkeys', '~other:*'),
    relent: (redis) => redis.cli('ACL', 'SETUSER', 'default', 'allkeys'),
  },
  'has become a replica of nobody': {
    refuse: (redis) => redis.cli('REPLICAOF', '127.0.0.1', '1'),
    relent: (redis) => redis.cli('REPLICAOF', 'NO', 'ONE'),
  },
};

test.concurrent.each(Object.keys(REFUSALS))(
  'a Redis that %s: the process decides, nothing is rejected, and Redis decides again when it relents',
  async (way) => {
    const { refuse, relent } = REFUSALS[way];
    const { redis, one } = await redisAndProcess();
    const policies = ALGORITHMS.map((algorithm) => ({
      key: `refused ${algorithm}`,
      limit: 10,
      options: { algorithm },
    }));
    // A key is there that may be put something else under.
    for (const policy of policies) expect(await allowedOf(one, 1, policy)).toBe(1);
    const before = await one.call('outages');
    await refuse(redis);
    for (const policy of policies) expect(await allowedOf(one, 30, policy)).toBe(9);
    const refused = await one.call('outages');
    expect(refused).toBeGreaterThan(before);
    const calls = {};
    for (const [method, ...args] of [
      ['peek', 'refused sliding-window', 10, 600],
      ['refund', 'refused sliding-window', 10, 600],
      ['get', 'refused sliding-window'],
      ['clear', 'refused sliding-window'],
      ['clear'],
    ]) {
      const { code, ms } = await one.call('tried', ['RedisRateLimitStore', {}, method], ...args);
      calls[method] = code ?? 'resolved';
      expect(ms).toBeLessThan(LONGEST_MS);
    }
    expect(calls).toEqual({ peek: 'resolved', refund: 'resolved', get: 'resolved', clear: 'resolved' });
    await relent(redis);
    await one.call('connected');
    await one.kill();
  },
);

test.concurrent.each(['LPUSH', 'SET', 'SADD'])(
  'keys that somebody else wrote (%s) reject nothing, and let nobody have more than the limit again',
  async (command) => {
    const { redis, one } = await redisAndProcess();
    const policies = ALGORITHMS.map((algorithm) => ({ key: `spoilt ${algorithm}`, limit: 10, options: { algorithm } }));
    for (const policy of policies) expect(await allowedOf(one, 1, policy)).toBe(1);
    const keys = (await redis.cli('KEYS', 'ratelimit:*')).split('\n').filter((key) => key.includes('spoilt'));
    expect(keys).toHaveLength(policies.length);
    for (const key of keys) {
      await redis.cli('DEL', key);
      await redis.cli(command, key, 'no limit');
    }
    for (const policy of policies) {
      const allowed = await allowedOf(one, 30, policy);
      expect(allowed).toBeGreaterThanOrEqual(9);
      expect(allowed).toBeLessThanOrEqual(10);
      await one.call('tried', ['RedisRateLimitStore', {}, 'clear'], policy.key);
    }
    await one.kill();
  },
);

/** So many doubles, as the scripts return them. */
const doubles = (...numbers) => {
  const bytes = Buffer.from(Float64Array.from(numbers).buffer);
  return Buffer.concat([Buffer.from(`$${bytes.length}\r\n`), bytes, Buffer.from('\r\n')]);
};

/** Answers to a script that only a server of somebody else's would give. */
const HOSTILE = {
  ...MISBEHAVIOURS,
  'numbers that are none': () => () => doubles(NaN, NaN, NaN, NaN, NaN),
  'negative numbers': () => () => doubles(-1, -1, -1, -1, -1),
  'numbers without end': () => () => doubles(Infinity, 1e300, 2 ** 60, 1e20, 0.5),
  'too few numbers': () => () => doubles(1, 1),
  'no number': () => () => '_\r\n',
};

test.concurrent.each(Object.keys(HOSTILE))(
  'a server that answers checks with %s: the process decides, and nothing is rejected',
  async (behaviour) => {
    const fake = await startFakeRedis();
    fake.misbehave = HOSTILE[behaviour]();
    const one = await limiter(fake, { STUDIO_REDIS_LOG: 'off' });
    for (const algorithm of ALGORITHMS) {
      const policy = { key: 'key', limit: 10, windowSeconds: 600, options: { algorithm }, calls: 40, perTick: 10 };
      const { admitted, failures, wrong } = await one.call('burst', policy);
      expect({ algorithm, admitted, failures, wrong }).toEqual({ algorithm, admitted: 10, failures: [], wrong: [] });
    }
    expect(await one.call('outages')).toBeGreaterThan(0);
    await one.kill();
  },
);
