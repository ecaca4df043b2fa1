'use strict';

// Whose request it is: addresses in all their spellings, and what is none.

const { startRedis } = require('./helpers/servers.js');
const { openRedis } = require('./fixtures/functional/redis.js');
const { withEnvironment } = require('./fixtures/functional/environment.js');
const { inTurn } = require('./fixtures/limits/steps.js');
const { pretend, limited, keyOf } = require('./fixtures/limits/http.js');

let redis;

beforeAll(async () => {
  const server = await startRedis();
  process.env.REDIS_URL = server.url;
  process.env.REDIS_KEY_PREFIX = 'limits-addresses:';
  redis = openRedis(server.url);
});

describe('whose request it is', () => {
  const forwarded = (value, address = '192.0.2.99') => keyOf(redis, { address, headers: { 'x-forwarded-for': value } });

  test.each([
    ['203.0.113.5', '203.0.113.5'],
    [' 203.0.113.5 ', '203.0.113.5'],
    ['203.0.113.5:443', '203.0.113.5'],
    ['198.51.100.1, 203.0.113.5', '203.0.113.5'],
    ['198.51.100.1,203.0.113.5', '203.0.113.5'],
    ['garbage, 203.0.113.5', '203.0.113.5'],
    ['::ffff:203.0.113.5', '203.0.113.5'],
    ['::FFFF:cb00:7105', '203.0.113.5'],
    ['[::ffff:203.0.113.5]', '203.0.113.5'],
    ['[::ffff:203.0.113.5]:443', '203.0.113.5'],
  ])('X-Forwarded-For: %s', async (value, address) => {
    expect(await forwarded(value)).toBe(`ip:${address}`);
    expect(await forwarded(['198.51.100.1', value])).toBe(`ip:${address}`);
  });

  test('a header may be a list', async () => {
    expect(await forwarded(['198.51.100.1', '203.0.113.5'])).toBe('ip:203.0.113.5');
    expect(await forwarded(['203.0.113.5'])).toBe('ip:203.0.113.5');
    expect(await forwarded([])).toBe('ip:192.0.2.99');
  });

  test('without the header it is the socket', async () => {
    expect(await keyOf(redis, { address: '192.0.2.99' })).toBe('ip:192.0.2.99');
    expect(await keyOf(redis, { address: '::ffff:192.0.2.99' })).toBe('ip:192.0.2.99');
    expect(await keyOf(redis, { address: '192.0.2.99', headers: { 'x-forwarded-for': undefined } })).toBe(
      'ip:192.0.2.99',
    );
  });

  test.each([
    '',
    ' ',
    'unknown',
    'garbage',
    '999.1.1.1',
    '1.2.3',
    '1.2.3.4.5',
    '[',
    '[]',
    '::g',
    '203.0.113.5:port',
    '203.0.113.5, ',
    '203.0.113.5, x',
    '"',
    '\0',
    'x'.repeat(100_000),
  ])('what is no address where one is trusted is nobody new: %.30j', async (value) => {
    const key = await forwarded(value);
    expect(key).toBe(await forwarded(`${value}`));
    expect(key.length).toBeLessThan(100);
    // Not what the client itself has written before.
    expect(key).not.toContain('203.0.113.5');
  });

  test('what is no address at all is counted together', async () => {
    const keys = new Set();
    for (const address of [undefined, '', 'unknown', '/var/run/app.sock', 'x'.repeat(1000)])
      keys.add(await keyOf(redis, { address }));
    for (const key of keys) expect(key.length).toBeLessThan(100);
    expect(keys.size).toBe(1);
  });

  describe('IPv6', () => {
    test.each([
      ['2001:db8:1:2::1', '2001:db8:1:2:ffff:ffff:ffff:ffff'],
      ['2001:db8:1:2::1', '2001:DB8:1:2:0:0:0:1'],
      ['2001:db8:1:2::1', '2001:0db8:0001:0002:0003:0004:0005:0006'],
      ['2001:db8::1', '2001:db8::2'],
      ['fe80::1', 'fe80::1%eth0'],
      ['fe80::1%eth0', 'fe80::2%eth1'],
      ['::1', '::2'],
    ])('%s and %s are of one /64', async (one, other) => {
      const key = await keyOf(redis, { address: one });
      expect(key).toMatch(/^ip:/);
      expect(await keyOf(redis, { address: other })).toBe(key);
      expect(await forwarded(one)).toBe(key);
      expect(await forwarded(`[${other}]:443`)).toBe(key);
      expect(await forwarded(`[${other}]`)).toBe(key);
    });

    test.each([
      ['2001:db8:1:2::1', '2001:db8:1:3::1'],
      ['2001:db8:1:2::1', '2001:db8:2:2::1'],
      ['::ffff:203.0.113.5', '::ffff:203.0.113.6'],
      ['::1', '::ffff:127.0.0.1'],
      ['64:ff9b::203.0.113.5', '64:ff9b::203.0.113.6'],
    ])('%s and %s are not', async (one, other) => {
      expect(await keyOf(redis, { address: one })).not.toBe(await keyOf(redis, { address: other }));
    });

    test('who changes the address within a /64 is one client', async () => {
      const { limiter, keys } = limited(redis, { requests: 5 });
      const codes = await inTurn(30, async (index) => {
        const { req, res } = pretend({
          address: `2001:db8:a:b:${index.toString(16)}:${((index * 7919) & 0xffff).toString(16)}::${index}`,
        });
        return limiter(req, res, () => {}).then(
          () => 'ok',
          ({ code }) => code,
        );
      });
      expect(codes).toEqual([...Array(5).fill('ok'), ...Array(25).fill('ERR_RATE_LIMITED')]);
      expect(await keys()).toHaveLength(1);
    });
  });

  describe('X-Real-IP, where it is trusted', () => {
    const run = (work) => withEnvironment({ RATE_LIMIT_TRUST_X_REAL_IP: 'true' }, work);
    const real = (value, headers = {}) =>
      keyOf(redis, { address: '192.0.2.99', headers: { 'x-real-ip': value, ...headers } });

    test('is an address like any other', () =>
      run(async () => {
        expect(await real('203.0.113.5')).toBe('ip:203.0.113.5');
        expect(await real('::ffff:203.0.113.5')).toBe('ip:203.0.113.5');
        expect(await real('2001:db8:1:2::1')).toBe(await real('2001:db8:1:2::2'));
        expect(await keyOf(redis, { address: '192.0.2.99' })).toBe('ip:192.0.2.99');
        for (const garbage of ['', 'unknown', '203.0.113.5, 203.0.113.6', 'x'.repeat(10_000)])
          expect(await real(garbage)).toBe('ip:192.0.2.99');
      }));
  });
});

test('nothing in a request makes a limiter reject', async () => {
  const { limiter } = limited(redis, { requests: 1_000, algorithm: 'token-bucket' });
  const values = ['', ',', 'x', '\0', '\ud800', '1.2.3.4', ['a', 'b'], [], undefined, 'x'.repeat(1_000_000)];
  for (const value of values) {
    for (const name of ['x-forwarded-for', 'x-real-ip', 'forwarded']) {
      const { req, res } = pretend({ address: '192.0.2.1', headers: { [name]: value } });
      expect(await limiter(req, res, () => {})).toBe(undefined);
    }
  }
});
