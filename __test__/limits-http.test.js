'use strict';

// Limiters in servers of node:http, behind proxies, asked by clients over sockets: whose request it is, and what the client is told.

const { networkInterfaces } = require('node:os');
const { startRedis, until, sleep } = require('./helpers/servers.js');
const { openRedis } = require('./fixtures/functional/redis.js');
const { withEnvironment } = require('./fixtures/functional/environment.js');
const { ALGORITHMS, inTurn, atOnce } = require('./fixtures/limits/steps.js');
const { startApp, startAppendingProxy, get, limited, keyOf } = require('./fixtures/limits/http.js');
const { parseList } = require('./fixtures/limits/structured.js');

/** Only Linux answers on all of 127.0.0.0/8. */
const onLinux = process.platform === 'linux' ? test : test.skip;
const hasIPv6 = Object.values(networkInterfaces())
  .flat()
  .some(({ address }) => address === '::1');
const onIPv6 = hasIPv6 ? test : test.skip;

let redis;

beforeAll(async () => {
  const server = await startRedis();
  process.env.REDIS_URL = server.url;
  process.env.REDIS_KEY_PREFIX = 'limits-http:';
  redis = openRedis(server.url);
});

describe('over sockets', () => {
  test('a client is served, then told to wait', async () => {
    const { limiter, keys } = limited(redis, { requests: 3 });
    const app = await startApp(limiter);
    const answers = await inTurn(5, () => get(app));
    expect(answers.map(({ status, body }) => `${status} ${body}`)).toEqual([
      '200 ok',
      '200 ok',
      '200 ok',
      '429 ERR_RATE_LIMITED',
      '429 ERR_RATE_LIMITED',
    ]);
    expect(answers.map(({ headers }) => headers['x-ratelimit-remaining'])).toEqual(['2', '1', '0', '0', '0']);
    for (const { headers, status } of answers) {
      expect(parseList(headers['ratelimit-policy'])[0].parameters.q.value).toBe(3);
      expect(parseList(headers.ratelimit)[0].parameters.r.value).toBe(Number(headers['x-ratelimit-remaining']));
      expect('retry-after' in headers).toBe(status === 429);
      if (status === 429) expect(headers['retry-after']).toMatch(/^[1-9]\d*$/);
    }
    expect(await keys()).toEqual(['ip:127.0.0.1']);
  });

  test('many at once get exactly the limit', async () => {
    const { limiter } = limited(redis, { requests: 10 });
    const app = await startApp(limiter);
    const answers = await atOnce(40, () => get(app));
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(10);
    expect(answers.filter(({ status }) => status === 429)).toHaveLength(30);
  });

  test.each(ALGORITHMS)(
    'a sole client that waits as it is told is served the first time, with %s',
    async (algorithm) => {
      const { limiter } = limited(redis, { requests: 2, window: 0.9, algorithm });
      const app = await startApp(limiter);
      let waits = 0;
      for (let round = 0; round < 4; round += 1) {
        const denied = await until(
          async () => {
            const answer = await get(app);
            return answer.status === 429 ? answer : null;
          },
          { everyMs: 0, what: 'a denial' },
        );
        waits += 1;
        const told = performance.now();
        const wait = Number(denied.headers['retry-after']) * 1000;
        while (performance.now() - told < wait) await sleep(Math.ceil(wait - (performance.now() - told)));
        expect((await get(app)).status).toBe(200);
      }
      expect(waits).toBe(4);
    },
  );

  onIPv6('a client of IPv6 is counted by its /64', async () => {
    const { limiter, keys } = limited(redis, { requests: 2 });
    const app = await startApp(limiter, '::1');
    expect((await inTurn(3, () => get(app))).map(({ status }) => status)).toEqual([200, 200, 429]);
    expect(app.seen[0]).toBe('::1');
    const [key, ...others] = await keys();
    expect(others).toEqual([]);
    expect(key).toMatch(/^ip:/);
    expect(key).toBe(await keyOf(redis, { address: '::2' }));
  });

  onIPv6('a client of IPv4 at a socket of IPv6 is one of IPv4', async () => {
    const { limiter, keys } = limited(redis, { requests: 2 });
    const app = await startApp(limiter, '::');
    const here = { ...app, host: '127.0.0.1' };
    expect((await inTurn(3, () => get(here))).map(({ status }) => status)).toEqual([200, 200, 429]);
    expect(app.seen[0]).toBe('::ffff:127.0.0.1');
    expect(await keys()).toEqual(['ip:127.0.0.1']);
    if (process.platform === 'linux') {
      expect((await get(here, { from: '127.0.0.9' })).status).toBe(200);
      expect(await keys()).toEqual(['ip:127.0.0.1', 'ip:127.0.0.9']);
    }
  });
});

/** What a client may send to be taken for somebody else: lists of names and values. */
const FORGERIES = [
  ['X-Forwarded-For', '203.0.113.5'],
  ['X-Forwarded-For', '203.0.113.5, 203.0.113.6'],
  ['x-FORWARDED-for', '203.0.113.7'],
  ['X-Forwarded-For', '203.0.113.5,203.0.113.6,'],
  ['X-Forwarded-For', ','],
  ['X-Forwarded-For', ', , ,'],
  ['X-Forwarded-For', ''],
  ['X-Forwarded-For', ' '],
  ['X-Forwarded-For', '\t203.0.113.5\t'],
  ['X-Forwarded-For', 'unknown'],
  ['X-Forwarded-For', '_hidden, "203.0.113.5'],
  ['X-Forwarded-For', '"203.0.113.5, '],
  ['X-Forwarded-For', '[2001:db8::1'],
  ['X-Forwarded-For', '[2001:db8::1]:80, [::ffff:203.0.113.5]'],
  ['X-Forwarded-For', '::ffff:203.0.113.5'],
  ['X-Forwarded-For', '203.0.113.5:80'],
  ['X-Forwarded-For', '203.0.113.5;203.0.113.6'],
  ['X-Forwarded-For', '203.0.113.5 203.0.113.6'],
  ['X-Forwarded-For', '203.0.113.5\u00a0'],
  ['X-Forwarded-For', '(203.0.113.5, 203.0.113.6'],
  ['X-Forwarded-For', '\\, 203.0.113.5\\'],
  ['X-Forwarded-For', 'for=203.0.113.5;proto=http'],
  ['X-Forwarded-For', '127.0.0.1, 10.0.0.1, 192.168.0.1'],
  ['X-Forwarded-For', '999.999.999.999'],
  ['X-Forwarded-For', '0x7f.1'],
  ['X-Forwarded-For', Array.from({ length: 500 }, (_, index) => `203.0.113.${index % 256}`).join(', ')],
  ['X-Forwarded-For', 'x'.repeat(8000)],
  ['X-Forwarded-For', '203.0.113.5', 'X-Forwarded-For', '203.0.113.6'],
  ['X-Forwarded-For', '203.0.113.5', 'Accept', '*/*', 'x-forwarded-for', ''],
  ['X-Real-IP', '203.0.113.5'],
  ['Forwarded', 'for=203.0.113.5'],
  ['True-Client-IP', '203.0.113.5', 'CF-Connecting-IP', '203.0.113.5', 'X-Client-IP', '203.0.113.5'],
  [
    'X-Forwarded',
    '203.0.113.5',
    'X-Cluster-Client-IP',
    '203.0.113.5',
    'Client-IP',
    '203.0.113.5',
    'Via',
    '1.1 203.0.113.5',
  ],
  ['X-Forwarded-Host', '203.0.113.5', 'X_Forwarded_For', '203.0.113.5'],
];

/** Sends every forgery; `Host` has to be in a list of headers. */
const forge = async (target, options = {}) => {
  for (const headers of FORGERIES) {
    const { status } = await get(target, { ...options, headers: ['Host', 'localhost', ...headers] });
    expect({ headers, status }).toEqual({ headers, status: 200 });
  }
};

describe('behind proxies that append', () => {
  onLinux('a client is the one that the proxy saw, whatever it says', async () => {
    const { limiter, keys } = limited(redis);
    const app = await startApp(limiter);
    const proxy = await startAppendingProxy(app, { from: '127.0.0.2' });
    expect((await get(proxy, { from: '127.0.0.7' })).status).toBe(200);
    expect(app.seen[0]).toBe('127.0.0.2');
    expect(await keys()).toEqual(['ip:127.0.0.7']);
    await forge(proxy, { from: '127.0.0.7' });
    expect(await keys()).toEqual(['ip:127.0.0.7']);
    await get(proxy, { from: '127.0.0.8' });
    expect(await keys()).toEqual(['ip:127.0.0.7', 'ip:127.0.0.8']);
  });

  onLinux('two proxies, two hops', () =>
    withEnvironment({ RATE_LIMIT_TRUSTED_PROXY_HOPS: '2' }, async () => {
      const { limiter, keys } = limited(redis);
      const app = await startApp(limiter);
      const inner = await startAppendingProxy(app, { from: '127.0.0.3' });
      const outer = await startAppendingProxy(inner, { from: '127.0.0.2' });
      await get(outer, { from: '127.0.0.7' });
      await forge(outer, { from: '127.0.0.7' });
      expect(await keys()).toEqual(['ip:127.0.0.7']);
    }),
  );

  onLinux('one hop of two is the outer proxy; more hops than proxies is the socket', async () => {
    for (const [hops, key] of [
      ['1', 'ip:127.0.0.2'],
      ['3', 'ip:127.0.0.3'],
      ['10', 'ip:127.0.0.3'],
    ]) {
      await withEnvironment({ RATE_LIMIT_TRUSTED_PROXY_HOPS: hops }, async () => {
        const { limiter, keys } = limited(redis);
        const app = await startApp(limiter);
        const inner = await startAppendingProxy(app, { from: '127.0.0.3' });
        const outer = await startAppendingProxy(inner, { from: '127.0.0.2' });
        await get(outer, { from: '127.0.0.7' });
        expect(await keys()).toEqual([key]);
      });
    }
  });

  onLinux('without hops the socket alone counts', () =>
    withEnvironment({ RATE_LIMIT_TRUSTED_PROXY_HOPS: '0' }, async () => {
      const { limiter, keys } = limited(redis);
      const app = await startApp(limiter);
      await forge(app, { from: '127.0.0.7' });
      expect(await keys()).toEqual(['ip:127.0.0.7']);
      const proxy = await startAppendingProxy(app, { from: '127.0.0.2' });
      await get(proxy, { from: '127.0.0.9' });
      expect(await keys()).toEqual(['ip:127.0.0.2', 'ip:127.0.0.7']);
    }),
  );

  onLinux('X-Real-IP counts only where that is said', async () => {
    for (const [trust, key] of [
      ['false', 'ip:127.0.0.7'],
      [undefined, 'ip:127.0.0.7'],
      ['true', 'ip:203.0.113.5'],
    ]) {
      await withEnvironment({ RATE_LIMIT_TRUST_X_REAL_IP: trust }, async () => {
        const { limiter, keys } = limited(redis);
        const app = await startApp(limiter);
        await get(app, { from: '127.0.0.7', headers: { 'X-Real-IP': '203.0.113.5' } });
        expect(await keys()).toEqual([key]);
      });
    }
  });
});
