'use strict';

// Postgres under TLS, as DATABASE_URL asks for it by sslmode, sslrootcert, sslcert and sslkey.

const path = require('node:path');
const addon = require('./fixtures/functional/addon.js');
const { startPostgres } = require('./helpers/servers.js');
const { Database } = require('./helpers/database.js');
const { withEnvironment, rejection } = require('./fixtures/functional/environment.js');
const { certificates } = require('./fixtures/tls/certificates.js');

const { ca, otherCa, client, otherClient } = certificates;
const ROOT = { sslrootcert: ca.certFile };

let postgres;
let database;
let session;

beforeAll(async () => {
  addon.setLogHandler(() => {});
  postgres = await startPostgres({ ssl: { certificates } });
  database = new Database(postgres.url);
  session = await database.createSession();
  await database.query('CREATE ROLE certified SUPERUSER LOGIN');
});

afterAll(() => database.end());

/** The URL of the database with these parameters. */
function urlWith({ user, host, ...parameters }) {
  const url = new URL(postgres.url);
  if (user) url.username = user;
  if (host) url.hostname = host;
  for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);
  return url.href;
}

/** What becomes of a validation by a new engine; and whether its connection was encrypted. */
const validated = (parameters) =>
  withEnvironment({ REDIS_URL: undefined, DATABASE_URL: urlWith(parameters) }, async () => {
    expect(await addon.validateSession(session.token)).toMatchObject({ id: session.id });
    const rows = await database.query(
      `SELECT DISTINCT s.ssl FROM pg_stat_ssl s JOIN pg_stat_activity USING (pid)
       WHERE application_name LIKE 'studio-redis-native:${process.pid}%' AND datname = current_database()`,
    );
    expect(rows).toHaveLength(1);
    return rows[0].ssl;
  });

/** Why a validation fails. */
const refused = (parameters) =>
  withEnvironment({ REDIS_URL: undefined, DATABASE_URL: urlWith(parameters) }, async () => {
    const error = await rejection(() => addon.validateSession(session.token));
    expect(JSON.stringify([error.message, error.stack])).not.toContain('BEGIN');
    return `${error.code} ${error.message}`;
  });

/** The same server, showing another certificate, or none (`null`). */
const now = (as) => postgres.restart({ ssl: as && { certificates, as }, settings: as ? {} : { ssl: 'off' } });

test.each([
  ['disable', {}, false],
  ['prefer', {}, true],
  ['require', {}, true],
  ['require', ROOT, true],
  ['verify-ca', ROOT, true],
  ['verify-full', ROOT, true],
  ['verify-full', { ...ROOT, host: 'localhost' }, true],
])('sslmode=%s %o', async (sslmode, parameters, encrypted) => {
  expect(await validated({ sslmode, ...parameters })).toBe(encrypted);
});

test('without sslmode it is encrypted where the server can', async () => {
  expect(await validated({})).toBe(true);
});

test.each(['verify-ca', 'verify-full', 'require'])('sslmode=%s and another authority', async (sslmode) => {
  expect(await refused({ sslmode, sslrootcert: otherCa.certFile })).toMatch(
    /^ERR_SESSION_STORE .*the server's certificate is from an authority that this system does not know; set sslrootcert to/,
  );
});

test('a client certificate is shown to a server that wants one', async () => {
  const shown = (one) => ({ sslmode: 'verify-full', ...ROOT, user: 'certified', ...(one && { sslcert: one.certFile, sslkey: one.keyFile }) });
  expect(await validated(shown(client))).toBe(true);
  expect(await refused(shown(null))).toMatch(/^ERR_SESSION_STORE .*28000 connection requires a valid client certificate/);
  expect(await refused(shown(otherClient))).toMatch(/^ERR_SESSION_STORE .*client certificate \(sslcert\)/);
});

test.each([
  ['no-verify', 'sslmode=no-verify, which node-postgres alone knows; sslmode=require encrypts without verifying'],
  ['always', 'has an unknown sslmode; use disable, prefer, require, verify-ca or verify-full'],
])('sslmode=%s', async (sslmode, sentence) => {
  const message = await refused({ sslmode });
  expect(message).toMatch(/^ERR_INVALID_CONFIG DATABASE_URL /);
  expect(message).toContain(sentence);
});

test('a file that is not there', async () => {
  const missing = path.join(certificates.folder, 'missing.crt');
  const message = await refused({ sslmode: 'verify-full', sslrootcert: missing });
  expect(message).toMatch(/^ERR_SESSION_STORE .*a file that sslrootcert, sslcert or sslkey names, cannot be opened/);
});

describe('a certificate that is wrong', () => {
  test('for another host: verify-full refuses it, verify-ca does not', async () => {
    await now('wrongHost');
    expect(await validated({ sslmode: 'verify-ca', ...ROOT })).toBe(true);
    expect(await refused({ sslmode: 'verify-full', ...ROOT })).toContain(
      "the server's certificate is for redis.elsewhere.test, 192.0.2.1 and not for 127.0.0.1; use a name that it has",
    );
  });

  test('expired: require does not look, verify-ca does', async () => {
    await now('expired');
    expect(await validated({ sslmode: 'require' })).toBe(true);
    expect(await refused({ sslmode: 'verify-ca', ...ROOT })).toContain("the server's certificate expired 5 days ago");
  });

  test('none at all: prefer goes on without, require says what is missing', async () => {
    await now(null);
    expect(await validated({ sslmode: 'prefer' })).toBe(false);
    expect(await refused({ sslmode: 'require' })).toContain('the server offers no TLS, and sslmode asks for it; switch it on there');
  });
});
