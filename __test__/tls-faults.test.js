'use strict';

// Every way in which TLS to Redis can be wrong: a sentence with the cure for the caller, nothing for those who look for secrets,
// and everything goes on that does not need Redis.

const { inspect } = require('node:util');
const nodeTls = require('node:tls');
const addon = require('./fixtures/functional/addon.js');
const { startRedis, startPostgres, until } = require('./helpers/servers.js');
const { Database } = require('./helpers/database.js');
const { openClient } = require('./fixtures/client/open.js');
const { withEnvironment, rejection } = require('./fixtures/functional/environment.js');
const { certificates, startTlsRedis, believing, showing } = require('./fixtures/tls/certificates.js');

const lines = [];
const seen = [];
let redis;

beforeAll(async () => {
  redis = await startTlsRedis();
  Object.assign(process.env, believing());
  addon.setLogHandler((line) => lines.push(line));
});

afterAll(() => addon.setLogHandler(null));

/** What a new engine with these variables says of the server at `url`. */
const told = (url, env = {}) =>
  withEnvironment(env, async () => {
    const client = openClient(url);
    const error = await rejection(() => client.ping());
    seen.push(error);
    expect(error.code).toBe('ERR_CONNECTION');
    expect(await client.healthCheck()).toBe(false);
    return error.message;
  });

const works = (url, env = {}) => withEnvironment(env, async () => expect(await openClient(url).ping()).toBe('PONG'));

/** The same server, showing another certificate or behaving otherwise. */
const now = (tls = {}) => redis.restart({ tls: { certificates, ...tls } });

describe("the server's certificate", () => {
  test.each([
    ['expired', 'expired 5 days ago; renew it there.'],
    ['notYetValid', 'is not valid yet, but in 5 days; look at the clocks of both.'],
    ['wrongHost', 'is for redis.elsewhere.test, 192.0.2.1 and not for 127.0.0.1; use a name that it has'],
    ['noServer', 'is not one for servers'],
    ['other', 'is from an authority that is not in REDIS_CA_CERT; set REDIS_CA_CERT to'],
    ['selfSigned', 'is self-signed and not in REDIS_CA_CERT; put it there'],
    ['ca', 'is one of an authority (CA:TRUE), which cannot be a server'],
  ])('%s', async (as, sentence) => {
    await now({ as });
    expect(await told(redis.url)).toContain(`The connection to Redis at 127.0.0.1:${redis.port} failed: the server's certificate ${sentence}`);
  });

  test('that is self-signed is believed where it was put', async () => {
    await now({ as: 'selfSigned' });
    await works(redis.url, believing(certificates.selfSigned));
  });

  test('is not believed any more once its authority was taken away', async () => {
    await now();
    const both = Buffer.from(certificates.ca.cert + certificates.otherCa.cert).toString('base64');
    await works(redis.url, { REDIS_CA_CERT: both });
    expect(await told(redis.url, believing(certificates.otherCa))).toContain('is not in REDIS_CA_CERT');
    await now({ as: 'other' });
    await works(redis.url, believing(certificates.otherCa));
  });

  test('that was replaced is noticed at the next connection', async () => {
    await now();
    const client = openClient(redis.url);
    expect(await client.ping()).toBe('PONG');
    await now({ as: 'expired' });
    await until(async () => (await client.ping().catch((error) => error)).message?.includes('expired 5 days ago'), { what: 'the reason' });
    await now();
    await until(() => client.ping().catch(() => false), { what: 'the next connection' });
    await client.close();
  });

  test('is not looked at where insecurity was asked for, in development alone, and the log says so once', async () => {
    await now({ as: 'other' });
    const asked = { REDIS_ALLOW_INSECURE_TLS: 'true' };
    const warnings = () => lines.filter((line) => JSON.stringify(line).includes('REDIS_ALLOW_INSECURE_TLS is set')).length;
    for (const env of [{ NODE_ENV: 'production' }, { NODE_ENV: undefined }, { NODE_ENV: 'development', REDIS_ALLOW_INSECURE_TLS: 'false' }]) {
      expect(await told(redis.url, { ...asked, ...env })).toContain('is not in REDIS_CA_CERT');
    }
    const before = warnings();
    await withEnvironment({ ...asked, NODE_ENV: 'development' }, async () => {
      const clients = [0, 1, 2].map((database) => openClient(`${redis.url}/${database}`));
      expect(await Promise.all(clients.map((client) => client.ping()))).toEqual(['PONG', 'PONG', 'PONG']);
      await until(() => warnings() > before, { what: 'the warning' });
      expect(warnings() - before).toBe(1);
    });
  });
});

describe('what is spoken', () => {
  test('TLS 1.1 is refused', async () => {
    await now({ protocols: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' });
    expect(await told(redis.url)).toContain('the server speaks no TLS newer than 1.1; 1.2 or 1.3 is needed.');
  });

  test('a URL for TLS and a port without it', async () => {
    const plain = await startRedis();
    for (const [url, env] of [
      [`rediss://127.0.0.1:${plain.port}`, {}],
      [plain.url, { REDIS_USE_TLS: 'true' }],
    ]) {
      expect(await told(url, env)).toContain('what answers there does not speak TLS; use redis: instead of rediss:, or the port for TLS.');
    }
  });

  test('a URL without TLS and a port for it', async () => {
    await now();
    expect(await told(`redis://127.0.0.1:${redis.port}`)).toContain('if this port is one for TLS, use rediss: instead of redis:.');
    const { cert, key } = certificates.server;
    const polite = nodeTls.createServer({ cert, key }).on('tlsClientError', () => {});
    await new Promise((resolve) => polite.listen(0, '127.0.0.1', resolve));
    try {
      const url = `redis://127.0.0.1:${polite.address().port}`;
      expect(await told(url)).toContain('use rediss: instead of redis:.');
    } finally {
      polite.close();
    }
  });
});

describe('our own certificate', () => {
  describe.each(['TLSv1.2', 'TLSv1.3'])('by %s', (protocols) => {
    beforeAll(() => now({ protocols, authClients: 'yes' }));

    test.each([
      ['is missing', {}, /the server (wants|asked for) a client certificate.*; set REDIS_CLIENT_CERT and REDIS_CLIENT_KEY\./],
      ['is of an unknown authority', showing(certificates.otherClient), /client certificate \(REDIS_CLIENT_CERT\)/],
      ['has expired', showing(certificates.expiredClient), /client certificate \(REDIS_CLIENT_CERT\)/],
    ])('%s', async (_, env, sentence) => {
      expect(await told(redis.url, env)).toMatch(sentence);
    });
  });
});

describe('the variables', () => {
  const { ca, client, otherClient } = certificates;
  test.each([
    ['REDIS_CA_CERT is not base64', { REDIS_CA_CERT: '/etc/ssl/certs/ca.pem' }],
    ['REDIS_CA_CERT is base64, but not of PEM', { REDIS_CA_CERT: 'c2VjcmV0' }],
    ['REDIS_CA_CERT holds no certificate', { REDIS_CA_CERT: client.keyBase64 }],
    ['REDIS_CA_CERT holds PEM that is broken', { REDIS_CA_CERT: Buffer.from(ca.cert.slice(0, 300)).toString('base64') }],
    ['REDIS_CLIENT_CERT is set without REDIS_CLIENT_KEY', { REDIS_CLIENT_CERT: client.certBase64 }],
    ['REDIS_CLIENT_KEY is set without REDIS_CLIENT_CERT', { REDIS_CLIENT_KEY: client.keyBase64 }],
    ['REDIS_CLIENT_KEY is not the key of', { REDIS_CLIENT_CERT: client.certBase64, REDIS_CLIENT_KEY: otherClient.keyBase64 }],
    ['REDIS_CLIENT_KEY holds no private key', { REDIS_CLIENT_CERT: client.certBase64, REDIS_CLIENT_KEY: client.certBase64 }],
    ['REDIS_USE_TLS must be true or false', { REDIS_USE_TLS: 'yes' }],
  ])('%s', async (sentence, env) => {
    await withEnvironment(env, async () => {
      const error = await rejection(async () => openClient(redis.url).ping());
      seen.push(error);
      expect(error.code).toBe('ERR_INVALID_CONFIG');
      expect(error.message).toContain(sentence);
    });
  });
});

test('sessions go on from Postgres, and limits in the process', async () => {
  await now({ as: 'expired' });
  const postgres = await startPostgres();
  const database = new Database(postgres.url);
  try {
    await withEnvironment({ REDIS_URL: redis.url, DATABASE_URL: postgres.url }, async () => {
      const session = await database.createSession();
      for (let call = 0; call < 5; call += 1) {
        expect(await addon.validateSessionWithCache(session.token)).toMatchObject({ id: session.id });
      }
      expect(await addon.sessionCacheHealthCheck()).toBe(false);
      expect(await addon.checkRedisHealth()).toBe(false);
      const checks = await Promise.all(Array.from({ length: 12 }, () => addon.checkLimit('tls', 5, 60)));
      expect(checks.filter(({ allowed }) => allowed)).toHaveLength(5);
      expect(await addon.revokeSessionByToken(session.token)).toBe(true);
      expect(await addon.validateSessionWithCache(session.token)).toBe(null);
    });
  } finally {
    await database.end();
  }
});

test('no certificate and no key is in an error, in the log, or in what is inspected', async () => {
  await now({ authClients: 'yes' });
  const variables = { ...showing(), ...believing() };
  const objects = await withEnvironment(variables, async () => {
    const client = openClient(redis.url);
    await client.ping();
    return [client, addon, await client.info(), addon.getBreakerState()];
  });
  const text = [...seen, ...objects, ...lines].map((one) => `${inspect(one, { depth: 9, showHidden: true })} ${one?.stack ?? one}`).join('\n');
  expect(seen.length).toBeGreaterThan(20);
  expect(lines.length).toBeGreaterThan(5);
  for (const { cert, key, certBase64, keyBase64 } of Object.values(certificates).filter((one) => one.cert)) {
    const pieces = [certBase64, keyBase64, ...[cert, key].flatMap((pem) => pem.split('\n').slice(1, 3))];
    for (const piece of pieces) {
      expect(piece.length).toBeGreaterThan(40);
      expect(text.includes(piece.slice(-40))).toBe(false);
    }
  }
});
