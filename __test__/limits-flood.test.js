'use strict';

// A million keys, or ten with SOAK=1, thrown at the limiter in the process, which may keep counts of a hundred
// thousand: its memory stays bounded, and who is at the limit is not pushed out of it.

const { startRedis } = require('./helpers/servers.js');
const { limiter, undisturbed } = require('./fixtures/limits/cast.js');
const { ALGORITHMS } = require('./fixtures/limits/verdict.js');
const { report } = require('./fixtures/faults/figures.js');

const KEYS = process.env.SOAK ? 10_000_000 : 1_000_000;
/** A smaller table with a smaller flood behaves in the same way. */
const KEPT = { all: 100_000, few: 10_000 };
const MB = 1024 * 1024;
/** Once the table is full, until the end: for the heap of JavaScript, whose promises come and go. */
const MOST_GROWTH = 64 * MB;
/** A kilobyte for each key that is kept, and as above. */
const mostMemory = (kept) => kept * 1024 + MOST_GROWTH;
const LONG_SECONDS = 3600;
const VICTIMS = Array.from({ length: 50 }, (_, number) => `victim ${number}`);
const VICTIM_LIMIT = 10;
const TIMEOUT_MS = process.env.SOAK ? 900_000 : 90_000;

const start = (kept) => limiter(null, { RATE_LIMIT_LOCAL_KEYS: `${kept}` });

const mb = (bytes) => `${(bytes / MB).toFixed(1)} MB`;

/**
 * Who throws what: strangers with a part of their limit each, or such as are at it, who seem to matter as much as the
 * victims.
 */
const FLOODS = [
  { by: 'checkLimit', algorithm: 'sliding-window', limit: 5, kept: KEPT.all, keys: KEYS },
  { by: 'checkLimit', algorithm: 'token-bucket', limit: 1 },
  { by: 'checkLimit', algorithm: 'fixed-window', limit: 5 },
  { by: 'InMemoryRateLimitStore', algorithm: 'sliding-window', limit: 1 },
].map((flood) => ({ kept: KEPT.few, keys: KEYS / 10, ...flood }));

test.each(FLOODS)(
  '$keys keys of limit $limit, $by, $algorithm: memory is bounded, and nobody gets a count back',
  async ({ by, algorithm, limit, kept, keys }) => {
    const one = await start(kept);
    const victim = (key, times) =>
      one.call('use', { by, algorithm, key, times, limit: VICTIM_LIMIT, window: LONG_SECONDS });
    // The first half is at its limit, the others are on the way to it.
    const used = [];
    for (const [index, key] of VICTIMS.entries()) used.push(await victim(key, index % 2 ? 6 : VICTIM_LIMIT + 2));
    expect(new Set(used)).toEqual(new Set([VICTIM_LIMIT, 6]));
    const before = await one.call('resident');
    const seen = await one.call('flood', {
      by,
      algorithm,
      keys,
      limit,
      window: LONG_SECONDS,
      victims: VICTIMS,
      victimLimit: VICTIM_LIMIT,
      // More than the table holds comes in between.
      victimsEvery: 1.3 * kept,
    });
    await one.kill();
    const full = seen.resident.find(({ after }) => after >= 1.5 * kept).bytes;
    const end = seen.resident.at(-1).bytes;
    report(`${keys} keys, ${by}, ${algorithm}`, {
      'memory of the full table': mb(full - before),
      'growth after': mb(end - full),
      'strangers denied at first': seen.deniedAtFirst,
    });
    expect(seen.failures).toEqual([]);
    expect(seen.answered).toBe(keys);
    const tooMany = VICTIMS.filter((_, index) => used[index] + seen.victims[index] > VICTIM_LIMIT);
    expect(tooMany).toEqual([]);
    expect(end - full).toBeLessThan(MOST_GROWTH);
    expect(end - before).toBeLessThan(mostMemory(kept));
  },
  TIMEOUT_MS,
);

test.each(ALGORITHMS)(
  '%s: victims that nobody asks for during the flood are at their limit after it',
  async (algorithm) => {
    const one = await start(KEPT.few);
    const policy = { by: 'checkLimit', algorithm, limit: VICTIM_LIMIT, window: LONG_SECONDS };
    for (const key of VICTIMS) expect(await one.call('use', { ...policy, key, times: 12 })).toBe(VICTIM_LIMIT);
    const { failures } = await one.call('flood', { ...policy, keys: 5 * KEPT.few, limit: 1 });
    expect(failures).toEqual([]);
    for (const key of VICTIMS) expect(await one.call('use', { ...policy, key, times: 12 })).toBe(0);
    await one.kill();
  },
  TIMEOUT_MS,
);

test(
  'long logs are bounded too: few keys with a great many calls each',
  async () => {
    const one = await start(KEPT.all);
    const policy = { by: 'checkLimit', algorithm: 'sliding-window', limit: 100_000, window: LONG_SECONDS };
    const before = await one.call('resident');
    const { resident, failures } = await one.call('flood', { ...policy, keys: 2000, hits: 500 });
    await one.kill();
    expect(failures).toEqual([]);
    const grownBy = resident.at(-1).bytes - before;
    report('a million calls of 2000 keys', { memory: mb(grownBy) });
    expect(grownBy).toBeLessThan(mostMemory(KEPT.all));
  },
  TIMEOUT_MS,
);

test(
  'while both must allow, strangers are not denied for what others have counted: Redis knows better',
  async () => {
    const redis = await startRedis();
    const kept = 2000;
    const one = await limiter(redis, { RATE_LIMIT_LOCAL_KEYS: `${kept}` });
    await one.call('connected');
    redis.freeze();
    await one.call('tried', 'checkLimit', 'missed', 5, LONG_SECONDS);
    redis.thaw();
    await one.call('connected');
    let floods = 0;
    const flood = () =>
      one.call('flood', {
        by: 'checkLimit',
        algorithm: 'sliding-window',
        prefix: `flood ${(floods += 1)}`,
        keys: 10 * kept,
        // So few that what is shared would soon be used up.
        limit: 2,
        window: LONG_SECONDS,
      });
    const { failures, deniedAtFirst } = await undisturbed([one], flood);
    expect({ failures, deniedAtFirst }).toEqual({ failures: [], deniedAtFirst: 0 });
    await one.kill();
  },
  TIMEOUT_MS,
);
