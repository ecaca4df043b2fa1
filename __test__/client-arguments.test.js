'use strict';

// What is not meant is refused before anything is sent: by every method of the client and of its batches, with the
// name of the argument. The clients here are for a server that is not there, so that no answer can come from one.

const addon = require('./fixtures/functional/addon.js');
const { freePort } = require('./helpers/servers.js');
const { rejection } = require('./fixtures/functional/environment.js');
const { openClient, thrown } = require('./fixtures/client/open.js');
const { WRONG, ARGUMENTS, ALONE, CALLS } = require('./fixtures/client/wrong.js');

const PASSWORD = 'hunter2';
const URL = 'redis://127.0.0.1:1';
let client;

beforeAll(async () => {
  client = openClient(`redis://:${PASSWORD}@127.0.0.1:${await freePort()}`);
});

const titled = ([name, named, kind, args]) => ({ name, kind, named, args, title: `${name}: ${named.source}` });

function expectMisuse(error, type, named) {
  expect(error).toBeInstanceOf(type);
  expect(error.code).toBe('ERR_INVALID_ARG');
  expect(error.message).toMatch(named);
  expect(error.message).not.toContain(PASSWORD);
}

describe('a client rejects', () => {
  describe.each([...ARGUMENTS, ...ALONE].map(titled))('$title', ({ name, kind, named, args }) => {
    test.each(WRONG[kind])('%s', async (_, value, type) => {
      expectMisuse(await rejection(() => client[name](...args(value))), type, named);
    });
  });

  test.each(CALLS.map(([name, args, named]) => ({ name, args, named })))(
    '$name with $args',
    async ({ name, args, named }) => {
      const error = await rejection(() => client[name](...args));
      expect([TypeError, RangeError]).toContain(error.constructor);
      expectMisuse(error, Error, named);
    },
  );

  test.each([
    ['pattern', [5], TypeError],
    ['pattern', [null], TypeError],
    ['count', ['*', '5'], TypeError],
    ['count', ['*', 1.5], RangeError],
    ['count', ['*', NaN], RangeError],
    ['count', ['*', -1], RangeError],
  ])('scanIterator: %s %p', async (named, args, type) => {
    const error = await rejection(async () => {
      for await (const key of client.scanIterator(...args)) return key;
    });
    expectMisuse(error, type, new RegExp(named));
  });

  test('a long wrong word without repeating it whole', async () => {
    const error = await rejection(() => client.config('x'.repeat(1_000_000), 'maxmemory'));
    expectMisuse(error, Error, /action/);
    expect(error.message.length).toBeLessThan(500);
  });

  test('what is no client', async () => {
    const { get } = client;
    for (const self of [undefined, null, {}, 5, Object.create(addon.RedisClientWrapper.prototype)]) {
      const error = await (async () => get.call(self, 'k'))().then(
        () => null,
        (reason) => reason,
      );
      expect(error.name).toBe('TypeError');
    }
  });

  test('without having asked for a connection', () => {
    expect(client.getPoolStats()).toEqual({ size: 0, available: 0, pending: 0 });
  });
});

describe.each(['pipeline', 'multi'])('%s throws, and goes on', (kind) => {
  describe.each(ARGUMENTS.map(titled))('$title', ({ name, kind: wrong, named, args }) => {
    test('all that is wrong', () => {
      for (const [, value, type] of WRONG[wrong]) {
        const batch = client[kind]();
        batch.get('before');
        expectMisuse(
          thrown(() => batch[name](...args(value))),
          type,
          named,
        );
        expect(batch.length).toBe(1);
        expect(batch.get('after')).toBe(batch);
      }
    });
  });

  test.each(CALLS.map(([name, args, named]) => ({ name, args, named })))(
    '$name with $args',
    ({ name, args, named }) => {
      expectMisuse(
        thrown(() => client[kind]()[name](...args)),
        Error,
        named,
      );
    },
  );

  test.each([
    'blpop',
    'brpop',
    'subscribe',
    'psubscribe',
    'scanIterator',
    'pipeline',
    'multi',
    'callBuffer',
    'close',
    'healthCheck',
    'getPoolStats',
    'getBreakerState',
  ])('it has no %s', (name) => {
    expect(client[kind]()[name]).toBe(undefined);
  });
});

describe.each([
  ['createRedisClient', (...args) => addon.createRedisClient(...args)],
  ['new RedisClientWrapper', (...args) => new addon.RedisClientWrapper(...args)],
])('%s throws', (_, make) => {
  const options = (more) => ['p', { connectionString: URL, ...more }];

  test.each([
    ['no projectId', [], TypeError, /projectId/],
    ['projectId as null', [null, { connectionString: URL }], TypeError, /projectId/],
    ['projectId as a number', [5, { connectionString: URL }], TypeError, /projectId/],
    ['no options', ['p'], TypeError, /options/],
    ['options as null', ['p', null], TypeError, /options/],
    ['options as a URL', ['p', URL], TypeError, /options/],
    ['options as an array', ['p', [URL]], TypeError, /options/],
    ['no connectionString', ['p', {}], TypeError, /connectionString/],
    ['connectionString as a number', ['p', { connectionString: 5 }], TypeError, /connectionString/],
    ['connectionString as null', ['p', { connectionString: null }], TypeError, /connectionString/],
    [
      'connectionString as a getter that throws',
      [
        'p',
        {
          get connectionString() {
            throw new Error('on purpose');
          },
        },
      ],
      TypeError,
      /connectionString/,
    ],
    ['a misspelled option', options({ teir: 'pro' }), TypeError, /teir/],
    ['an unknown tier', options({ tier: 'gold' }), Error, /tier/],
    ['a tier in capitals', options({ tier: 'PRO' }), Error, /tier/],
    ['a tier as a number', options({ tier: 1 }), TypeError, /tier/],
    ['a tier as null', options({ tier: null }), TypeError, /tier/],
    ['__proto__ as tier', options({ tier: '__proto__' }), Error, /tier/],
    ['config as a number', options({ config: 5 }), TypeError, /config/],
    ['config as null', options({ config: null }), TypeError, /config/],
    ['config as an array', options({ config: [1, 2] }), TypeError, /config/],
    ['a misspelled size', options({ config: { min: 1 } }), TypeError, /min/],
    ['minPoolSize as a string', options({ config: { minPoolSize: '5' } }), TypeError, /minPoolSize/],
    ['maxPoolSize as null', options({ config: { maxPoolSize: null } }), TypeError, /maxPoolSize/],
    ...[0, -1, 1.5, NaN, Infinity, 1001, 2 ** 53].flatMap((size) => [
      [`minPoolSize ${size}`, options({ config: { minPoolSize: size } }), RangeError, /minPoolSize/],
      [`maxPoolSize ${size}`, options({ config: { maxPoolSize: size } }), RangeError, /maxPoolSize/],
    ]),
    [
      'minPoolSize over maxPoolSize',
      options({ config: { minPoolSize: 6, maxPoolSize: 5 } }),
      RangeError,
      /minPoolSize.*maxPoolSize|maxPoolSize.*minPoolSize/,
    ],
  ])('%s', (_name, args, type, named) => {
    expectMisuse(
      thrown(() => make(...args)),
      type,
      named,
    );
  });

  test.each([
    ['nothing', ''],
    ['no URL', `:${PASSWORD}@nowhere`],
    ['another scheme', `http://:${PASSWORD}@h`],
    ['several hosts for one server', `rediss://:${PASSWORD}@h,i`],
    ['a host among several that is none', `redis-cluster://:${PASSWORD}@h,i:none`],
    ['a database of a cluster', `redis-cluster://:${PASSWORD}@h/1`],
    ['a user without password', `redis://${PASSWORD}@h`],
    ['a database that is none', `redis://:${PASSWORD}@h/one`],
    ['a negative database', `redis://:${PASSWORD}@h/-1`],
    ['a port that is none', `redis://:${PASSWORD}@h:99999`],
    ['no host', `redis://:${PASSWORD}@`],
    ['a password that is no UTF-8', `redis://:${PASSWORD}%ff@h`],
    ['a unix socket without path', 'unix:'],
    ['a database of unix that is none', 'unix:///run/redis.sock?db=x'],
  ])('%s as connectionString, without showing it', (_name, connectionString) => {
    const error = thrown(() => make('p', { connectionString }));
    expect(error).toBeInstanceOf(Error);
    expect(error).toMatchObject({ code: 'ERR_INVALID_CONFIG', message: expect.stringContaining('connectionString') });
    expect(`${error.message} ${error.stack}`).not.toContain(PASSWORD);
  });
});

test('the class is no function', () => {
  expect(thrown(() => addon.RedisClientWrapper('p', { connectionString: URL }))).toBeInstanceOf(TypeError);
});

test('the third argument of Studio is not looked at', () => {
  const manager = new Proxy(
    {},
    {
      get() {
        throw new Error('not to be read');
      },
    },
  );
  expect(new addon.RedisClientWrapper('p', { connectionString: URL }, manager)).toBeInstanceOf(
    addon.RedisClientWrapper,
  );
  expect(addon.createRedisClient('p', { connectionString: URL })).toBeInstanceOf(addon.RedisClientWrapper);
});

describe.each(WRONG.handler)('onBreakerChange: %s', (_, value, type) => {
  test('is no handler', () =>
    expectMisuse(
      thrown(() => addon.onBreakerChange(value)),
      type,
      /handler/,
    ));
});

test('Tier cannot be changed', () => {
  expect(addon.Tier).toEqual({ FREE: 'free', STARTER: 'starter', PRO: 'pro', ENTERPRISE: 'enterprise' });
  expect(Object.isFrozen(addon.Tier)).toBe(true);
  for (const tier of Object.values(addon.Tier)) openClient(URL, { tier });
});
