'use strict';

// What is not meant is refused, by name and class, before anything is counted; and nothing else is refused.

const { startRedis } = require('./helpers/servers.js');
const { openRedis } = require('./fixtures/functional/redis.js');
const { rejection } = require('./fixtures/functional/environment.js');
const { thrown } = require('./fixtures/client/open.js');
const { addon, ALGORITHMS, HOUR, fresh, keysThatBegin } = require('./fixtures/limits/steps.js');
const {
  KEYS,
  LIMITS,
  WINDOWS,
  COSTS,
  OPTIONS,
  OF_CHECKS,
  DAYS_31,
  only,
  throwing,
  expectMisuse,
} = require('./fixtures/limits/wrong.js');

const { checkLimit, RedisRateLimitStore, RedisTokenBucketStore, InMemoryRateLimitStore } = addon;

let redis;

beforeAll(async () => {
  const server = await startRedis();
  process.env.REDIS_URL = server.url;
  process.env.REDIS_KEY_PREFIX = 'limits-arguments:';
  redis = openRedis(server.url);
});

afterEach(async () => {
  const keys = await keysThatBegin(redis, '');
  await redis.flushall();
  // A call that is refused counts nowhere.
  expect(keys).toEqual([]);
});

describe('checkLimit rejects', () => {
  test.each(KEYS)('key: %s', async (_, value, type) =>
    expectMisuse(await rejection(() => checkLimit(value, 5, HOUR)), type, 'key'),
  );
  test.each(LIMITS)('limit: %s', async (_, value, type) => {
    for (const algorithm of ALGORITHMS)
      expectMisuse(await rejection(() => checkLimit('k', value, HOUR, { algorithm })), type, 'limit');
  });
  test.each(WINDOWS)('windowSeconds: %s', async (_, value, type) => {
    for (const algorithm of ALGORITHMS)
      expectMisuse(await rejection(() => checkLimit('k', 5, value, { algorithm })), type, 'windowSeconds');
  });
  test.each(OPTIONS)('options: %s', async (_, value, type) =>
    expectMisuse(await rejection(() => checkLimit('k', 5, HOUR, value)), type, 'options'),
  );

  describe.each(OF_CHECKS)('options.%s', (name, values) => {
    test.each(values)('%s', async (_, value, type) =>
      expectMisuse(await rejection(() => checkLimit('k', 5, HOUR, { [name]: value })), type, name),
    );
    test('a getter that throws', async () =>
      expectMisuse(await rejection(() => checkLimit('k', 5, HOUR, throwing(name))), TypeError, name));
  });

  test.each(['algoritm', 'Cost', 'onoutage', 'shadowed', 'names', 'window', '__Proto__'])(
    'the misspelled option %s',
    async (name) => {
      expectMisuse(await rejection(() => checkLimit('k', 5, HOUR, { cost: 1, [name]: 1 })), TypeError, name);
    },
  );

  test('a long misspelled option, without repeating it whole', async () => {
    expectMisuse(await rejection(() => checkLimit('k', 5, HOUR, { ['x'.repeat(100_000)]: 1 })), TypeError, 'options');
  });

  test('calls without arguments', async () => {
    expectMisuse(await rejection(() => checkLimit()), TypeError, '(key|limit|windowSeconds)');
    expectMisuse(await rejection(() => checkLimit('k')), TypeError, '(limit|windowSeconds)');
    expectMisuse(await rejection(() => checkLimit('k', 5)), TypeError, 'windowSeconds');
  });

  test('a sliding window of more than 100,000, and says what to use', async () => {
    for (const options of [undefined, {}, { algorithm: 'sliding-window' }]) {
      const error = await rejection(() => checkLimit('k', 100_001, HOUR, options));
      expectMisuse(error, RangeError, 'limit');
      expect(error.message).toContain('100000');
    }
  });
});

describe('nothing else is refused', () => {
  afterEach(() => redis.flushall());

  test.each([
    ['one byte', 'x'],
    ['4096 bytes', 'x'.repeat(4096)],
    ['4096 bytes in 1024 pairs', '😀'.repeat(1024)],
    ['a space', ' '],
    ['a NUL', '\0'],
    ['a lone surrogate', 'a\ud800b'],
    ['a line break', '\r\n'],
  ])('a key of %s', async (_, key) => {
    expect(await checkLimit(key, 5, HOUR)).toMatchObject({ allowed: true });
  });

  test.each([1, 100_000])('a limit of %p', async (limit) =>
    expect(await checkLimit(fresh(), limit, HOUR)).toMatchObject({ info: { limit } }),
  );

  test.each(['token-bucket', 'fixed-window'])('a limit of 1,000,000,000 with %s', async (algorithm) => {
    expect(await checkLimit(fresh(), 1_000_000_000, HOUR, { algorithm })).toMatchObject({
      info: { remaining: 999_999_999 },
    });
  });

  test.each([0.001, 0.0011, 1 / 3, 1, 59.999999, DAYS_31])('a window of %p s', async (window) => {
    for (const algorithm of ALGORITHMS)
      expect(await checkLimit(fresh(), 5, window, { algorithm })).toMatchObject({ allowed: true });
  });

  test.each(['a', '0', '.', '_', '/', '-', 'a/b.c_d-e', 'x'.repeat(64), '__proto__', 'constructor'])(
    'the name %p',
    async (name) => {
      expect(await checkLimit(fresh(), 5, HOUR, { name })).toMatchObject({ info: { remaining: 4 } });
    },
  );

  test('options without a prototype, of a class, inherited, frozen, with Symbols', async () => {
    class Options {
      cost = 2;
    }
    class Getters {
      get cost() {
        return 2;
      }
    }
    for (const options of [
      Object.assign(Object.create(null), { cost: 2 }),
      new Options(),
      new Getters(),
      Object.create({ cost: 2 }),
      Object.create(new Options(), { name: { value: 'inherited', enumerable: true } }),
      Object.freeze({ cost: 2 }),
      { cost: 2, [Symbol('x')]: 1 },
    ]) {
      expect(await checkLimit(fresh(), 5, HOUR, options)).toMatchObject({ info: { remaining: 3 } });
    }
  });

  test('options that change between calls', async () => {
    const key = fresh();
    const options = { cost: 1 };
    const ask = async () => (await checkLimit(key, 10, HOUR, options)).info.remaining;
    expect(await ask()).toBe(9);
    options.cost = 3;
    expect(await ask()).toBe(6);
    options.algorithm = 'fixed-window';
    expect(await ask()).toBe(7);
    delete options.cost;
    expect(await ask()).toBe(6);
    options.costs = 1;
    expectMisuse(await rejection(ask), TypeError, 'costs');
    const calls = [1, 2, 3].map((cost) =>
      checkLimit(fresh(), 10, HOUR, Object.assign(options, { costs: undefined }, { cost })),
    );
    delete options.costs;
    for (const call of calls) expectMisuse(await rejection(() => call), TypeError, 'costs');
  });

  test('what is read of options may call back', async () => {
    const key = fresh();
    const others = [];
    const options = {
      get cost() {
        others.push(checkLimit(key, 10, HOUR, { cost: 2 }));
        return 1;
      },
    };
    const answer = await checkLimit(key, 10, HOUR, options);
    expect(others).toHaveLength(1);
    const remaining = [answer, await others[0]].map(({ info }) => info.remaining).sort();
    expect(Math.min(...remaining)).toBe(7);
  });

  test('more arguments than there are', async () => {
    expect(await checkLimit(fresh(), 5, HOUR, {}, 'more')).toMatchObject({ allowed: true });
  });
});

const STORES = [
  ['RedisRateLimitStore', RedisRateLimitStore, ['name', 'onOutage', 'shadow', 'algorithm'], ['cost']],
  ['RedisTokenBucketStore', RedisTokenBucketStore, ['name', 'onOutage', 'shadow'], ['algorithm', 'cost']],
  ['InMemoryRateLimitStore', InMemoryRateLimitStore, ['name', 'shadow', 'algorithm'], ['onOutage', 'cost']],
];

describe.each(STORES)('new %s', (_, Class, options, foreign) => {
  test.each(OPTIONS)('throws for options: %s', (title, value, type) =>
    expectMisuse(
      thrown(() => new Class(value)),
      type,
      'options',
    ),
  );

  describe.each(only(...options))('throws for options.%s', (name, values) => {
    test.each(values)('%s', (title, value, type) =>
      expectMisuse(
        thrown(() => new Class({ [name]: value })),
        type,
        name,
      ),
    );
    test('a getter that throws', () =>
      expectMisuse(
        thrown(() => new Class(throwing(name))),
        TypeError,
        name,
      ));
  });

  test.each([...foreign, 'Name', 'prefix'])('has no option %s', (name) => {
    expectMisuse(
      thrown(() => new Class({ [name]: 'local' })),
      TypeError,
      name,
    );
  });

  describe.each(['checkLimit', 'peek', 'refund'])('%s rejects', (method) => {
    const store = new Class();
    test.each(KEYS)('key: %s', async (title, value, type) =>
      expectMisuse(await rejection(() => store[method](value, 5, HOUR)), type, 'key'),
    );
    test.each(LIMITS)('limit: %s', async (title, value, type) =>
      expectMisuse(await rejection(() => store[method]('k', value, HOUR)), type, 'limit'),
    );
    test.each(WINDOWS)('windowSeconds: %s', async (title, value, type) =>
      expectMisuse(await rejection(() => store[method]('k', 5, value)), type, 'windowSeconds'),
    );
    test.each(OPTIONS)('options: %s', async (title, value, type) =>
      expectMisuse(await rejection(() => store[method]('k', 5, HOUR, value)), type, 'options'),
    );
    test.each(COSTS)('options.cost: %s', async (title, value, type) =>
      expectMisuse(await rejection(() => store[method]('k', 5, HOUR, { cost: value })), type, 'cost'),
    );
    test.each(['algorithm', 'name', 'shadow', 'onOutage', 'costs'])(
      'the option %s, which is none of it',
      async (name) => {
        expectMisuse(await rejection(() => store[method]('k', 5, HOUR, { [name]: 'local' })), TypeError, name);
      },
    );
  });

  describe('get and clear reject', () => {
    const store = new Class();
    test.each(KEYS)('key: %s', async (title, value, type) => {
      expectMisuse(await rejection(() => store.get(value)), type, 'key');
      // Without a key it forgets everything: that must be meant.
      if (value !== undefined) expectMisuse(await rejection(() => store.clear(value)), type, 'key');
    });
  });
});
