'use strict';

// What is not meant is refused by what limits requests and attempts to sign in, by name and class, before anything is counted.

const { spawnSync } = require('node:child_process');
const path = require('node:path');
const { runScript } = require('./helpers/process.js');
const { startRedis } = require('./helpers/servers.js');
const { openRedis } = require('./fixtures/functional/redis.js');
const { rejection } = require('./fixtures/functional/environment.js');
const { thrown } = require('./fixtures/client/open.js');
const { addon, keysThatBegin } = require('./fixtures/limits/steps.js');
const {
  OTHERS,
  KEYS,
  LIMITS,
  WINDOWS,
  OPTIONS,
  FUNCTIONS,
  DAYS_31,
  only,
  without,
  ranges,
  throwing,
  expectMisuse,
} = require('./fixtures/limits/wrong.js');

const { checkRateLimit, clearRateLimit, createRateLimiter, rateLimitMiddleware } = addon;

let redis;

beforeAll(async () => {
  const server = await startRedis();
  process.env.REDIS_URL = server.url;
  process.env.REDIS_KEY_PREFIX = 'limits-arguments-requests:';
  redis = openRedis(server.url);
});

afterEach(async () => {
  const keys = await keysThatBegin(redis, '');
  await redis.flushall();
  // A call that is refused counts nowhere.
  expect(keys).toEqual([]);
});

describe('checkRateLimit rejects', () => {
  test.each(KEYS)('identifier: %s', async (_, value, type) => {
    expectMisuse(await rejection(() => checkRateLimit(value)), type, 'identifier');
    expectMisuse(await rejection(() => clearRateLimit(value)), type, 'identifier');
  });
  test.each(without(LIMITS, 'undefined'))('maxAttempts: %s', async (_, value, type) => {
    expectMisuse(await rejection(() => checkRateLimit('who', value)), type, 'maxAttempts');
  });
  test.each([
    ...without(OTHERS, 'undefined'),
    ['a string', '5', TypeError],
    ...ranges(NaN, Infinity, 0, -1, 0.5, DAYS_31 * 1000 + 1, 2 ** 53),
  ])('windowMs: %s', async (_, value, type) =>
    expectMisuse(await rejection(() => checkRateLimit('who', 5, value)), type, 'windowMs'),
  );
});

describe('createRateLimiter throws at once', () => {
  const RIGHT = { requests: 5, window: 60 };

  test.each([['undefined', undefined, TypeError], ...OPTIONS])('config: %s', (_, value, type) =>
    expectMisuse(
      thrown(() => createRateLimiter(value)),
      type,
      'config',
    ),
  );
  test.each(LIMITS)('requests: %s', (_, value, type) =>
    expectMisuse(
      thrown(() => createRateLimiter({ ...RIGHT, requests: value })),
      type,
      'requests',
    ),
  );
  test.each(WINDOWS)('window: %s', (_, value, type) =>
    expectMisuse(
      thrown(() => createRateLimiter({ ...RIGHT, window: value })),
      type,
      'window',
    ),
  );
  test.each(FUNCTIONS)('error: %s', (_, value, type) =>
    expectMisuse(
      thrown(() => createRateLimiter({ ...RIGHT, error: value })),
      type,
      'error',
    ),
  );
  describe.each(only('algorithm', 'onOutage', 'shadow', 'name'))('%s', (name, values) => {
    test.each(values)('%s', (_, value, type) =>
      expectMisuse(
        thrown(() => createRateLimiter({ ...RIGHT, [name]: value })),
        type,
        name,
      ),
    );
    test('a getter that throws', () => {
      const config = Object.defineProperty({ ...RIGHT }, name, {
        ...Object.getOwnPropertyDescriptor(throwing(name), name),
      });
      expectMisuse(
        thrown(() => createRateLimiter(config)),
        TypeError,
        name,
      );
    });
  });
  test.each(['request', 'max', 'windowMs', 'cost', 'key', 'Name'])('the misspelled option %s', (name) => {
    expectMisuse(
      thrown(() => createRateLimiter({ ...RIGHT, [name]: 1 })),
      TypeError,
      name,
    );
  });
  test('requests of a sliding window of more than 100,000', () => {
    expectMisuse(
      thrown(() => createRateLimiter({ requests: 100_001, window: 60 })),
      RangeError,
      'requests',
    );
    expect(createRateLimiter({ requests: 100_001, window: 60, algorithm: 'token-bucket' })).toBeInstanceOf(Function);
  });
});

describe('a limiter rejects', () => {
  const req = { headers: {}, socket: { remoteAddress: '192.0.2.1' } };
  const res = { setHeader: () => {} };
  const next = jest.fn();
  beforeEach(() => next.mockClear());
  const limiters = [
    ['rateLimitMiddleware', rateLimitMiddleware],
    ['what createRateLimiter made', createRateLimiter({ requests: 5, window: 60 })],
    ['strictRateLimiter', addon.strictRateLimiter],
    ['generousRateLimiter', addon.generousRateLimiter],
  ];

  describe.each(limiters)('%s', (_, limiter) => {
    test.each([
      ['undefined', undefined],
      ['null', null],
      ['a string', 'GET /'],
      ['a number', 5],
    ])('req: %s', async (title, value) => {
      expectMisuse(await rejection(() => limiter(value, res, next)), TypeError, 'req');
    });
    test.each([
      ['undefined', undefined],
      ['null', null],
      ['a string', 'OK'],
      ['without setHeader', {}],
      ['with a setHeader that is none', { setHeader: 1 }],
    ])('res: %s', async (title, value) => {
      expectMisuse(await rejection(() => limiter(req, value, next)), TypeError, 'res');
    });
    test.each([['undefined', undefined, TypeError], ...FUNCTIONS])('next: %s', async (title, value) => {
      expectMisuse(await rejection(() => limiter(req, res, value)), TypeError, 'next');
    });
    afterEach(() => expect(next).not.toHaveBeenCalled());
  });

  describe('customLimit', () => {
    const ask = (custom) => rejection(() => rateLimitMiddleware(req, res, next, custom));
    test.each(OPTIONS)('%s', async (_, value, type) =>
      expectMisuse(await ask(value), type, 'customLimit'),
    );
    test.each(LIMITS)('requests: %s', async (_, value, type) =>
      expectMisuse(await ask({ requests: value, window: 60 }), type, 'requests'),
    );
    test.each(WINDOWS)('window: %s', async (_, value, type) =>
      expectMisuse(await ask({ requests: 5, window: value }), type, 'window'),
    );
    test('a misspelled name', async () =>
      expectMisuse(await ask({ requests: 5, window: 60, max: 5 }), TypeError, 'max'));
    afterEach(() => expect(next).not.toHaveBeenCalled());
  });
});

test('errors are of the realm that the module was loaded in', async () => {
  const source = `
    const vm = require('node:vm');
    const fs = require('node:fs');
    const path = require('node:path');
    const file = path.resolve('index.js');
    const context = vm.createContext({ process });
    const load = () => {
      const wrapper = vm.runInContext('(function (exports, require, module) {' + fs.readFileSync(file, 'utf8') + '})', context);
      const module = { exports: {} };
      wrapper(module.exports, (name) => require(path.resolve(name)), module);
      return module.exports;
    };
    const classes = (addon, realm) => Promise.all([
      addon.checkLimit(1).catch((error) => error instanceof realm.TypeError),
      addon.checkLimit('k', 0, 1).catch((error) => error instanceof realm.RangeError),
      (async () => addon.createRateLimiter({ requests: 0, window: 1 }))().catch((error) => error instanceof realm.RangeError),
      (async () => new addon.RedisRateLimitStore(5))().catch((error) => error instanceof realm.TypeError),
      addon.createRateLimiter({ requests: 1, window: 60, name: 'realm' })({ headers: {}, user: { sub: 'x' } }, { setHeader() {} }, () => {})
        .then(() => addon.createRateLimiter({ requests: 1, window: 60, name: 'realm' })({ headers: {}, user: { sub: 'x' } }, { setHeader() {} }, () => {}))
        .catch((error) => error instanceof realm.Error && error.code === 'ERR_RATE_LIMITED'),
    ]);
    (async () => {
      const own = require('./index.js');
      console.log(JSON.stringify(await classes(own, globalThis)));
      console.log(JSON.stringify(await classes(load(), vm.runInContext('({ Error, TypeError, RangeError })', context))));
      await own.shutdown();
    })();`;
  const { stdout, stderr, code } = await runScript(source, { env: { REDIS_URL: undefined, STUDIO_REDIS_LOG: 'off' } });
  expect({ stderr, code }).toEqual({ stderr: '', code: 0 });
  expect(stdout.split('\n')).toEqual(['[true,true,true,true,true]', '[true,true,true,true,true]', '']);
});

test('requests and responses of node:http are what the declarations accept', () => {
  const tsc = path.join(path.dirname(require.resolve('typescript/package.json')), 'bin', 'tsc');
  const options = [
    '--noEmit',
    '--strict',
    '--exactOptionalPropertyTypes',
    '--target',
    'es2022',
    '--module',
    'nodenext',
    '--types',
    'node',
  ];
  const { status, stdout } = spawnSync(process.execPath, [tsc, ...options, 'types-http.test-d.ts'], {
    cwd: __dirname,
    encoding: 'utf8',
  });
  expect({ status, stdout }).toEqual({ status: 0, stdout: '' });
});
