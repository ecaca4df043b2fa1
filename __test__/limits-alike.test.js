'use strict';

// A store in Redis and one in the process, asked the same in the same order, answer the same: whatever is asked, whatever is
// remembered, joined or forgotten on the way.

const { startRedis } = require('./helpers/servers.js');
const { addon, ALGORITHMS, HOUR, fresh, freshName, atOnce } = require('./fixtures/limits/steps.js');
const { Random } = require('./fixtures/differential/random.js');

const { RedisRateLimitStore, InMemoryRateLimitStore } = addon;
const KEYS = process.env.SOAK === '1' ? 2000 : 100;
const OPERATIONS_A_KEY = 30;

beforeAll(async () => {
  const server = await startRedis();
  process.env.REDIS_URL = server.url;
  process.env.REDIS_KEY_PREFIX = 'limits-alike:';
});

/** One operation on both, and the words that tell it. */
function operation(random, limits) {
  const [limit, window] = random.pick(limits);
  const options = { cost: random.whole(1, Math.min(limit, 4)) };
  const name = random.pick(['checkLimit', 'checkLimit', 'checkLimit', 'joined', 'peek', 'refund', 'get', 'clear']);
  const told = `${name} ${limit} in ${window} s, ${options.cost}`;
  const works = {
    checkLimit: (store, key) => store.checkLimit(key, limit, window, options),
    joined: (store, key) => atOnce(5, () => store.checkLimit(key, limit, window, options)),
    peek: (store, key) => store.peek(key, limit, window, options),
    refund: (store, key) => store.refund(key, limit, window, options),
    get: (store, key) => store.get(key),
    clear: (store, key) => (options.cost === 1 ? store.clear(key) : null),
  };
  return { told, run: works[name], looks: name === 'get' };
}

/** An answer without times, and its times. */
function parted(answer) {
  const times = [];
  const rest = JSON.stringify(answer ?? null, (name, value) => {
    if (name !== 'reset' && name !== 'retryAfter') return value;
    times.push(value);
    return undefined;
  });
  return { rest, times };
}

describe.each(ALGORITHMS)('%s', (algorithm) => {
  test.each([
    ['one limit a key', 1],
    ['several limits a key', 6],
  ])('%s', async (_, most) => {
    const seed = Number(process.env.SEED ?? Date.now() % 2 ** 32);
    const random = new Random(seed);
    const name = freshName();
    const [shared, own] = [
      new RedisRateLimitStore({ name, algorithm }),
      new InMemoryRateLimitStore({ name, algorithm }),
    ];
    for (let keys = 0; keys < KEYS; keys += 1) {
      const key = fresh();
      const limits = Array.from({ length: most }, () => [random.whole(1, 10), random.pick([1, 2, 4]) * HOUR]);
      const story = [`SEED=${seed}`];
      for (let count = 0; count < OPERATIONS_A_KEY; count += 1) {
        const { told, run, looks } = operation(random, limits);
        const [left, right] = [await run(shared, key), await run(own, key)];
        story.push(`${told}: ${JSON.stringify(left)} ${JSON.stringify(right)}`);
        // What is denied out of memory is no check against a limit, as far as `get` is concerned.
        if (looks && most > 1) continue;
        const [one, other] = [parted(left), parted(right)];
        // One was asked after the other, by another clock. A fixed window grows with the longest that is asked for, which is
        // not known to what is repeated.
        const repeated = algorithm === 'fixed-window' && most > 1 && one.rest.includes('"allowed":false');
        const near = repeated || one.times.every((time, index) => Math.abs(time - other.times[index]) <= 5);
        if (one.rest !== other.rest || one.times.length !== other.times.length || !near)
          throw new Error(story.join('\n'));
      }
    }
  });
});
