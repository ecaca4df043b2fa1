'use strict';

// Four processes check one limit at once, each 250 times: exactly as many are allowed as the limit says. 5 rounds of
// each kind, or 100 with SOAK=1.

const { startRedis, until } = require('./helpers/servers.js');
const { limiters, undisturbed, timeOf } = require('./fixtures/limits/cast.js');
const { ALGORITHMS } = require('./fixtures/limits/verdict.js');
const { now } = require('./fixtures/faults/clock.js');
const { report } = require('./fixtures/faults/figures.js');

const ROUNDS = process.env.SOAK ? 100 : 5;
const PROCESSES = 4;
const CALLS = 250;
const LIMIT = 100;
/** So long that a bucket gets nothing back while a round lasts. */
const LONG_SECONDS = 600;
/** By then every process has heard of its turn. */
const LEAD_US = 30_000;
/** For a busy machine. */
const BUSY_MS = 1000;
const TIMEOUT_MS = process.env.SOAK ? 600_000 : 60_000;

/** How the calls of a process come, and for how much they count. */
const KINDS = {
  'in one tick': {},
  'in ten ticks': { perTick: CALLS / 10 },
  'each in a tick of its own': { perTick: 1 },
  'of different costs': { costs: [1, 2, 3, 5] },
  'of different costs, each in a tick of its own': { perTick: 1, costs: [5, 1, 3, 2] },
};

let redis;
let processes;
let lastKey = 0;

beforeAll(async () => {
  redis = await startRedis();
  processes = await limiters(redis, PROCESSES);
});

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

/**
 * One round in `some` processes. What they were allowed, and how many microseconds it may have taken by the server's
 * clock.
 */
async function round(some, { limits = [LIMIT], windowSeconds = LONG_SECONDS, calls = CALLS, ...kind }) {
  const key = `round ${(lastKey += 1)}`;
  const before = await timeOf(redis);
  const startAt = now() + LEAD_US;
  const all = await Promise.all(
    some.map((one, index) =>
      one.call('burst', { key, limit: limits[index % limits.length], windowSeconds, calls, startAt, ...kind }),
    ),
  );
  const tookUs = (await timeOf(redis)) - before;
  expect(all.flatMap(({ failures, wrong }) => [...failures, ...wrong])).toEqual([]);
  return {
    key,
    tookUs,
    each: all.map(({ admitted }) => admitted),
    admitted: sum(all.map(({ admitted }) => admitted)),
    remaining: all.flatMap(({ remaining }) => remaining).sort((a, b) => a - b),
    onesDenied: sum(all.map(({ deniedByCost }) => deniedByCost[1] ?? 0)),
  };
}

/** How many a bucket may have got back in so many microseconds: whole ones. */
const refilled = (tookUs, windowSeconds) => Math.floor((tookUs * LIMIT) / (windowSeconds * 1e6));

const CASES = ALGORITHMS.flatMap((algorithm) => Object.keys(KINDS).map((kind) => [algorithm, kind]));

test.each(CASES)(
  `%s: of ${PROCESSES} x ${CALLS} calls at once, %s, exactly ${LIMIT} are allowed, ${ROUNDS} times`,
  async (algorithm, kind) => {
    const shares = [];
    let repeated = 0;
    for (let number = 0; number < ROUNDS; number += 1) {
      const seen = await undisturbed(processes, () => round(processes, { options: { algorithm }, ...KINDS[kind] }));
      repeated += seen.repeated;
      shares.push(seen.each);
      const extra = algorithm === 'token-bucket' ? refilled(seen.tookUs, LONG_SECONDS) : 0;
      expect(seen.onesDenied).toBeGreaterThan(0);
      expect(seen.admitted).toBeGreaterThanOrEqual(LIMIT);
      expect(seen.admitted).toBeLessThanOrEqual(LIMIT + extra);
      // Each was told of another place.
      if (!KINDS[kind].costs && seen.admitted === LIMIT) {
        expect(seen.remaining).toEqual(Array.from({ length: LIMIT }, (_, index) => index));
      }
    }
    const several = shares.filter((each) => each.filter((share) => share > 0).length > 1).length;
    report(`${algorithm}, ${kind}`, { 'rounds in which several processes were allowed some': several, repeated });
    // It was a race, but where each sends all of its calls as one, and the first to come gets everything.
    if (KINDS[kind].perTick) expect(several).toBeGreaterThan(0);
  },
  TIMEOUT_MS,
);

test('a server that has forgotten the scripts is told them again, and the limit is exact', async () => {
  for (const algorithm of ALGORITHMS) {
    const options = { algorithm };
    const seen = await undisturbed(processes, async () => {
      await redis.cli('SCRIPT', 'FLUSH');
      return round(processes, { options, perTick: 5 });
    });
    expect(seen.admitted).toBe(LIMIT + (algorithm === 'token-bucket' ? refilled(seen.tookUs, LONG_SECONDS) : 0));
  }
});

test('every key has an end, in Redis too', async () => {
  const keys = (await redis.cli('KEYS', 'ratelimit:*')).split('\n');
  expect(keys.length).toBeGreaterThanOrEqual(CASES.length * ROUNDS);
  for (const key of keys) {
    const left = Number(await redis.cli('PTTL', key));
    // The longest window here, and a second one for whoever counts by two.
    expect(left).toBeGreaterThan(-2);
    expect(left).not.toBe(-1);
    expect(left).toBeLessThanOrEqual(2 * LONG_SECONDS * 1000);
  }
});

/**
 * Who has used up a limit asks without a pause; how long until another process's clearing, and its giving back, are
 * seen.
 */
async function seenElsewhere([one, other], algorithm) {
  const name = 'elsewhere';
  const policy = {
    key: `forgotten ${(lastKey += 1)}`,
    limit: 10,
    windowSeconds: LONG_SECONDS,
    options: { algorithm, name },
  };
  const use = async (calls) => (await one.call('burst', { ...policy, calls })).admitted;
  const store = algorithm === 'token-bucket' ? 'RedisTokenBucketStore' : 'RedisRateLimitStore';
  const tell = async (method, ...args) => {
    const { code, message } = await other.call('tried', [store, { name }, method], policy.key, ...args);
    expect({ code, message }).toEqual({ code: undefined, message: undefined });
  };
  const untilAllowed = async () => {
    const begun = Date.now();
    await until(() => use(1), { what: 'the first that is allowed', deadlineMs: 5000, everyMs: 10 });
    return Date.now() - begun;
  };
  expect(await use(20)).toBe(10);
  await tell('clear');
  const cleared = await untilAllowed();
  expect(await use(20)).toBe(9);
  await tell('refund', 10, LONG_SECONDS, { cost: 3 });
  const refunded = await untilAllowed();
  expect(await use(20)).toBe(2);
  return { cleared, refunded };
}

test('what another process forgets or gives back is seen within a second, also where Redis was missed before', async () => {
  // About another key, and in a window that has not ended.
  redis.freeze();
  await processes[0].call('tried', 'checkLimit', 'missed', 1, LONG_SECONDS);
  redis.thaw();
  await processes[0].call('connected');
  // No store has fixed windows in Redis.
  const algorithms = ['sliding-window', 'token-bucket'];
  const { waits } = await undisturbed(processes, async () => {
    const all = await Promise.all(algorithms.map((algorithm) => seenElsewhere(processes, algorithm)));
    return { waits: all.flatMap(({ cleared, refunded }) => [cleared, refunded]) };
  });
  report('seen elsewhere', { 'after ms': waits.join(', ') });
  expect(Math.max(...waits)).toBeLessThan(1000 + BUSY_MS);
});

test('a bucket that is refilled meanwhile gives exactly what its rate allows in that time', async () => {
  // 50 a second.
  const windowSeconds = 2;
  const options = { algorithm: 'token-bucket' };
  const seen = await undisturbed(processes, () =>
    round(processes, { windowSeconds, options, perTick: 1, calls: 2500 }),
  );
  report('a bucket that is refilled', { allowed: seen.admitted, 'within ms': Math.round(seen.tookUs / 1000) });
  expect(seen.admitted).toBeGreaterThanOrEqual(LIMIT);
  expect(seen.admitted).toBeLessThanOrEqual(LIMIT + refilled(seen.tookUs, windowSeconds));
});

test.each(ALGORITHMS)(
  '%s: where processes check one key against different limits, each of them holds',
  async (algorithm) => {
    for (let number = 0; number < ROUNDS; number += 1) {
      const limits = [LIMIT, 60];
      const seen = await undisturbed(processes, () => round(processes, { limits, options: { algorithm }, perTick: 1 }));
      const ofTheLesser = sum(seen.each.filter((_, index) => index % 2 === 1));
      expect(ofTheLesser).toBeLessThanOrEqual(60);
      expect(seen.admitted).toBeLessThanOrEqual(LIMIT);
      expect(seen.admitted).toBeGreaterThanOrEqual(60);
    }
  },
);

test.each(ALGORITHMS)('%s: across a restart of the process the count stays', async (algorithm) => {
  const options = { algorithm };
  const key = `restarted ${algorithm}`;
  const attempt = async (some, calls) => {
    const { admitted, failures } = await some[0].call('burst', {
      key,
      limit: LIMIT,
      windowSeconds: LONG_SECONDS,
      options,
      calls,
    });
    expect(failures).toEqual([]);
    return { admitted };
  };
  const begun = await timeOf(redis);
  const first = await limiters(redis, 1);
  // A try in which Redis was late may have left anything there.
  const clear = () => redis.cli('FLUSHALL');
  const { admitted } = await undisturbed(first, async () => (await clear(), attempt(first, 60)));
  expect(admitted).toBe(60);
  await first[0].kill();
  const second = await limiters(redis, 1);
  const { admitted: later } = await attempt(second, CALLS);
  await second[0].kill();
  const extra = algorithm === 'token-bucket' ? refilled((await timeOf(redis)) - begun, LONG_SECONDS) : 0;
  expect(later).toBeGreaterThanOrEqual(LIMIT - 60);
  expect(later).toBeLessThanOrEqual(LIMIT - 60 + extra);
});
