'use strict';

// Where the primary is, sentinels know: how they are named and asked, what is said when they do not tell, and what goes on
// without them.

const addon = require('./fixtures/functional/addon.js');
const { startRedis, startSentinels, freePort, sleep, until } = require('./helpers/servers.js');
const { rejection, withEnvironment } = require('./fixtures/functional/environment.js');
const { connectionsOf } = require('./fixtures/faults/cast.js');
const { openClient } = require('./fixtures/client/open.js');
const { rolesAt } = require('./fixtures/sentinel/turnover.js');
const { certificates, believing } = require('./fixtures/tls/certificates.js');

const PASSWORD = 'p@ss:w/%rd?&=';
const SENTINEL_PASSWORD = '0ther/?&=+';
const NAME = 'studio-main';

let lines;

beforeEach(() => {
  lines = [];
  addon.setLogHandler((line) => lines.push(line));
});

/** Calls until the call resolves, as during the time in which there is no primary. */
const untilDone = (call, what) =>
  until(
    () =>
      call().then(
        (value) => ({ value }),
        () => null,
      ),
    { what, everyMs: 50 },
  );

const listeners = (sentinels) => Promise.all(sentinels.map((one) => connectionsOf(one, process)));

/** Each of these sentinels is listened to. */
const untilHeard = (sentinels) =>
  until(async () => (await listeners(sentinels)).every((count) => count > 0), {
    what: 'a connection to each sentinel',
  });

describe('who they are', () => {
  let guarded;

  beforeAll(async () => {
    guarded = await startSentinels({
      name: NAME,
      replicas: 1,
      password: PASSWORD,
      sentinelPassword: SENTINEL_PASSWORD,
    });
  });

  /** Writes through the client, and looks where that went. */
  async function expectOnPrimary(client, database = 0) {
    const key = `key ${Math.random()}`;
    expect(await client.set(key, 'v')).toBe('OK');
    const info = await client.call('CLIENT', 'INFO');
    expect(info).toContain(` db=${database} `);
    expect(info).toContain(`laddr=127.0.0.1:${(await guarded.primary()).port} `);
  }

  test('by URL, with passwords of the servers and of the sentinels', async () => {
    const client = openClient(guarded.url);
    expect(await connectionsOf(guarded.sentinels[0], process)).toBe(0);
    await expectOnPrimary(client);
    await untilHeard(guarded.sentinels);
    await client.close();
    const other = openClient(guarded.url.replace('?', '/3?'));
    await expectOnPrimary(other, 3);
    await other.close();
  });

  const VARIABLES = () => ({
    REDIS_URL: undefined,
    REDIS_SENTINEL_HOSTS: guarded.hosts,
    REDIS_MASTER_NAME: NAME,
    REDIS_PASSWORD: PASSWORD,
    REDIS_SENTINEL_PASSWORD: SENTINEL_PASSWORD,
  });
  const encoded = encodeURIComponent(PASSWORD);

  test.each([
    ['without REDIS_URL', () => ({}), 0],
    [
      'in the place of the host of REDIS_URL, with its password and database',
      () => ({ REDIS_URL: `redis://:${encoded}@nowhere.invalid:1/2`, REDIS_PASSWORD: undefined }),
      2,
    ],
    [
      'where REDIS_URL names the sentinels, and leaves open their password and the name',
      () => ({
        REDIS_URL: `redis-sentinel://:${encoded}@${guarded.hosts}/1`,
        REDIS_SENTINEL_HOSTS: undefined,
        REDIS_PASSWORD: undefined,
      }),
      1,
    ],
  ])('by the environment, %s', (_, variables, database) =>
    withEnvironment({ ...VARIABLES(), ...variables() }, async () => {
      const client = addon.getRedisClient();
      await expectOnPrimary(client, database);
      expect(await addon.checkRedisHealth()).toBe(true);
      expect((await addon.checkLimit(`key ${database}`, 1, 60)).allowed).toBe(true);
      expect((await addon.checkLimit(`key ${database}`, 1, 60)).allowed).toBe(false);
    }),
  );

  const wrongs = {
    'no password for the sentinels': [
      () => guarded.url.replace(/&sentinelPassword=.*/, ''),
      /NOAUTH.*REDIS_SENTINEL_PASSWORD/,
    ],
    'a wrong password for the sentinels': [
      () => guarded.url.replace(/&sentinelPassword=.*/, '&sentinelPassword=hunter2'),
      /WRONGPASS.*REDIS_SENTINEL_PASSWORD/,
    ],
    'no password for the servers': [() => guarded.url.replace(/:[^:@]*@/, ''), /NOAUTH/],
    'a wrong password for the servers': [() => guarded.url.replace(/:[^:@]*@/, ':hunter2@'), /WRONGPASS/],
    'a name that they do not know': [
      () => guarded.url.replace(NAME, 'nobody'),
      /no primary named "nobody"; set REDIS_MASTER_NAME or \?master=/,
    ],
    'a server that is no sentinel': [
      async () => `redis-sentinel://127.0.0.1:${(await startRedis()).port}`,
      /is no sentinel/,
    ],
    'nobody there': [async () => `redis-sentinel://127.0.0.1:${await freePort()}`, /no sentinel can be asked/],
  };

  test.each(Object.keys(wrongs))('%s', async (name) => {
    const [url, message] = wrongs[name];
    const client = openClient(await url());
    const error = await rejection(() => client.get('k'));
    expect(error).toMatchObject({ code: 'ERR_CONNECTION', message: expect.stringMatching(message) });
    const told = JSON.stringify([error.message, lines]);
    for (const secret of ['hunter2', PASSWORD, SENTINEL_PASSWORD, encoded]) expect(told).not.toContain(secret);
    await client.close();
  });

  test('clients of the same share one pool and one connection to each; none is left when they are closed', async () => {
    const clients = ['one', 'two'].map((id) => addon.createRedisClient(id, { connectionString: guarded.url }));
    await Promise.all(clients.map((client) => client.set(client.projectId ?? 'k', 'v')));
    const [first] = clients;
    const subscription = await first.subscribe('news', () => {});
    const waiting = first.brpop('nothing', 1);
    await untilHeard(guarded.sentinels);
    await until(async () => (await listeners(guarded.sentinels)).every((count) => count === 1), {
      what: 'one connection each',
    });
    const primary = await guarded.primary();
    const roles = await rolesAt(primary, process);
    expect(roles.filter((role) => role !== 'commands')).toEqual(['blocking', 'subscriber']);
    expect(await waiting).toBeNull();
    await subscription.unsubscribe();
    for (const client of clients) await client.close();
    const left = async () => [...(await listeners(guarded.sentinels)), (await rolesAt(primary, process)).length];
    await until(async () => (await left()).every((count) => count === 0), { what: 'the last connection to end' });
  });
});

test('encrypted connections to the sentinels and to the servers, also to another primary', async () => {
  const deployment = await startSentinels({ replicas: 1, tls: { certificates } });
  expect(deployment.url).toMatch(/^rediss-sentinel:/);
  await withEnvironment(believing(certificates.otherCa), async () => {
    const client = openClient(deployment.url);
    const error = await rejection(() => client.get('k'));
    expect(error).toMatchObject({
      code: 'ERR_CONNECTION',
      message: expect.stringMatching(/no sentinel can be asked.*REDIS_CA_CERT/),
    });
    await client.close();
  });
  await withEnvironment(believing(), async () => {
    const client = openClient(deployment.url);
    expect(await client.set('k', 'v')).toBe('OK');
    const next = await deployment.failover();
    await untilDone(() => client.set('k', 'w'), 'a write to the next primary');
    expect(await next.cli('GET', 'k')).toBe('w');
    await client.close();
  });
});

describe('sentinels that come and go', () => {
  let deployment;
  let client;
  let heard;
  let subscription;

  beforeAll(async () => {
    deployment = await startSentinels({ replicas: 1 });
    // The others are learned from the first.
    client = openClient(`redis-sentinel://127.0.0.1:${deployment.sentinels[0].port}`);
    heard = [];
    subscription = await client.subscribe('news', (message) => heard.push(message));
    await untilHeard(deployment.sentinels);
  });

  afterAll(() => subscription.unsubscribe());

  /** The client is at this server, and what is published there is heard. */
  async function expectAt(server) {
    const there = async () => (await client.call('CLIENT', 'INFO')).includes(`laddr=127.0.0.1:${server.port} `);
    await until(() => there().catch(() => false), { what: 'a connection to the primary', everyMs: 50 });
    const message = `m${Math.random()}`;
    await until(async () => (await server.cli('PUBLISH', 'news', message), heard.includes(message)), {
      what: 'a message',
      everyMs: 100,
    });
    await untilDone(() => client.set('k', message), 'a write');
    expect(await server.cli('GET', 'k')).toBe(message);
  }

  test('the one that was named goes: the others tell of another primary, and what waits is told that it is lost', async () => {
    const [named, ...others] = deployment.sentinels;
    const former = await deployment.primary();
    await expectAt(former);
    const waiting = rejection(() => client.brpop('nothing', 0));
    await until(async () => (await rolesAt(former, process)).includes('blocking'), { what: 'the waiting command' });
    await named.kill();
    const next = await deployment.failover();
    await expectAt(next);
    expect(await waiting).toMatchObject({ code: 'ERR_CONNECTION' });
    const popped = client.brpop('something', 10);
    await next.cli('LPUSH', 'something', 'x');
    expect(await popped).toEqual(['something', 'x']);
    // Nobody stays with the former one, which still runs.
    await until(async () => (await rolesAt(former, process)).length === 0, {
      what: 'the last connection to the former one',
    });
    await named.restart();
    await untilHeard([named]);
    await untilHeard(others);
  });

  test('all of them are away while the primary lives: all goes on, also what is connected anew', async () => {
    const primary = await deployment.primary();
    const [one, two, three] = deployment.sentinels;
    await Promise.all([one.kill(), two.kill()]);
    three.freeze();
    // Longer than a silent connection lives.
    await sleep(3500);
    await expectAt(primary);
    const popped = client.brpop('something', 10);
    await until(async () => (await rolesAt(primary, process)).includes('blocking'), { what: 'the waiting command' });
    await primary.cli('LPUSH', 'something', 'y');
    expect(await popped).toEqual(['something', 'y']);
    await primary.cli('CLIENT', 'KILL', 'TYPE', 'pubsub');
    await primary.cli('CLIENT', 'KILL', 'TYPE', 'normal');
    await expectAt(primary);
    const news = lines.filter((line) => JSON.stringify(line).includes('a change of the primary will not be noticed'));
    expect(news).toHaveLength(1);

    three.thaw();
    await Promise.all([one.restart(), two.restart()]);
    await untilHeard(deployment.sentinels);
    await expectAt(await deployment.failover());
  });
});
