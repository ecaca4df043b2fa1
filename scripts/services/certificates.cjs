'use strict';

// Certificates for tests: two authorities, and what they vouch for, good and wrong. Node signs but cannot make certificates
// (RFC 5280), so the few structures of DER that one consists of are written here; neither openssl nor a package is needed.

const crypto = require('node:crypto');
const { mkdirSync, writeFileSync } = require('node:fs');
const path = require('node:path');

const DAY = 24 * 60 * 60 * 1000;

// DER: a tag, a length, and the content.
const der = (tag, ...parts) => {
  const content = Buffer.concat(parts);
  const { length } = content;
  if (length < 0x80) return Buffer.concat([Buffer.from([tag, length]), content]);
  const bytes = length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...bytes]), content]);
};
const sequence = (...parts) => der(0x30, ...parts);
const oid = (text) => {
  const [first, second, ...rest] = text.split('.').map(Number);
  const digits = rest.flatMap((number) => {
    const bytes = [number & 0x7f];
    for (let left = number >> 7; left > 0; left >>= 7) bytes.unshift((left & 0x7f) | 0x80);
    return bytes;
  });
  return der(0x06, Buffer.from([first * 40 + second, ...digits]));
};
const boolean = (value) => der(0x01, Buffer.from([value ? 0xff : 0]));
const bits = (unused, bytes) => der(0x03, Buffer.from([unused]), bytes);
const octets = (bytes) => der(0x04, bytes);
/** GeneralizedTime, which RFC 5280 wants from 2050 on, and UTCTime before. */
const time = (date) => {
  const digits = date.toISOString().replace(/[-:T]|\.\d+/g, '');
  return date.getUTCFullYear() < 2050
    ? der(0x17, Buffer.from(digits.slice(2), 'latin1'))
    : der(0x18, Buffer.from(digits, 'latin1'));
};
const nameOf = (common) => sequence(der(0x31, sequence(oid('2.5.4.3'), der(0x0c, Buffer.from(common, 'utf8')))));
const extension = (id, critical, value) => sequence(oid(id), ...(critical ? [boolean(true)] : []), octets(value));

const ECDSA_WITH_SHA256 = sequence(oid('1.2.840.10045.4.3.2'));
const PURPOSES = { server: '1.3.6.1.5.5.7.3.1', client: '1.3.6.1.5.5.7.3.2' };

/** The bytes of an IP address, or null for a name. */
function address(host) {
  if (/^\d+\.\d+\.\d+\.\d+$/.test(host)) return Buffer.from(host.split('.').map(Number));
  if (!host.includes(':')) return null;
  const [head, tail] = host.split('::').map((part) => part.split(':').filter(Boolean));
  const groups = tail ? [...head, ...Array(8 - head.length - tail.length).fill('0'), ...tail] : head;
  return Buffer.from(groups.flatMap((group) => [parseInt(group, 16) >> 8, parseInt(group, 16) & 0xff]));
}

const alternatives = (hosts) =>
  sequence(
    ...hosts.map((host) => {
      const bytes = address(host);
      return bytes ? der(0x87, bytes) : der(0x82, Buffer.from(host, 'latin1'));
    }),
  );

const pem = (label, bytes) =>
  `-----BEGIN ${label}-----\n${bytes.toString('base64').match(/.{1,64}/g).join('\n')}\n-----END ${label}-----\n`;

/** Names a key, as an authority and what it has signed do. */
const keyId = (publicKey) =>
  crypto.createHash('sha1').update(publicKey.export({ type: 'spki', format: 'der' })).digest();

/**
 * One certificate (P-256) and its key, as PEM. Without `authority` it signs itself. `hosts` are names and IP addresses,
 * `purposes` is some of `server` and `client`; `from` and `days` say when it is valid.
 */
function issue({ name, authority, isAuthority = false, hosts = [], purposes = [], from = Date.now() - DAY, days = 30 }) {
  const { privateKey, publicKey } = crypto.generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const id = keyId(publicKey);
  const issuer = authority ?? { name, privateKey, id };
  const extensions = [
    extension('2.5.29.14', false, octets(id)),
    extension('2.5.29.35', false, sequence(der(0x80, issuer.id))),
    extension('2.5.29.19', true, isAuthority ? sequence(boolean(true)) : sequence()),
    // Signing certificates, or signing handshakes.
    extension('2.5.29.15', true, isAuthority ? bits(2, Buffer.from([0x04])) : bits(7, Buffer.from([0x80]))),
  ];
  if (hosts.length > 0) extensions.push(extension('2.5.29.17', false, alternatives(hosts)));
  if (purposes.length > 0)
    extensions.push(extension('2.5.29.37', false, sequence(...purposes.map((purpose) => oid(PURPOSES[purpose])))));
  const serial = crypto.randomBytes(16);
  // Positive, and without leading zeros.
  serial[0] = (serial[0] & 0x7f) | 0x40;
  const body = sequence(
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, serial),
    ECDSA_WITH_SHA256,
    nameOf(issuer.name),
    sequence(time(new Date(from)), time(new Date(from + days * DAY))),
    nameOf(name),
    publicKey.export({ type: 'spki', format: 'der' }),
    der(0xa3, sequence(...extensions)),
  );
  const signature = crypto.sign('sha256', body, issuer.privateKey);
  const certificate = sequence(body, ECDSA_WITH_SHA256, bits(0, signature));
  return {
    name,
    privateKey,
    id,
    cert: pem('CERTIFICATE', certificate),
    key: privateKey.export({ type: 'pkcs8', format: 'pem' }),
  };
}

const HOSTS = ['localhost', '127.0.0.1', '::1'];

/**
 * Makes a set of certificates, and writes each as `<name>.crt` and `<name>.key` into `folder`, which is made if it is not
 * there. Each is `{ cert, key, certFile, keyFile, certBase64, keyBase64 }`; the base64 is what the variables
 * REDIS_CA_CERT, REDIS_CLIENT_CERT and REDIS_CLIENT_KEY want.
 *
 * - `ca`, `otherCa`: authorities; servers of tests are to believe `ca`
 * - `server`: good, for localhost, 127.0.0.1 and ::1; `other` the same by `otherCa`, `selfSigned` by nobody
 * - `expired`, `notYetValid`, `wrongHost`, `noServer` (for clients alone): wrong servers by `ca`
 * - `client`, `expiredClient` by `ca`, `otherClient` by `otherCa`: who somebody is
 */
function makeCertificates(folder) {
  mkdirSync(folder, { recursive: true });
  const ca = issue({ name: 'Test Authority', isAuthority: true });
  const otherCa = issue({ name: 'Another Authority', isAuthority: true });
  const server = { name: 'redis.test', hosts: HOSTS, purposes: ['server', 'client'], authority: ca };
  const client = { name: 'studio', purposes: ['client'], authority: ca };
  const all = {
    ca,
    otherCa,
    server: issue(server),
    other: issue({ ...server, authority: otherCa }),
    selfSigned: issue({ ...server, authority: undefined }),
    expired: issue({ ...server, from: Date.now() - 10 * DAY, days: 5 }),
    notYetValid: issue({ ...server, from: Date.now() + 5.5 * DAY }),
    wrongHost: issue({ ...server, hosts: ['redis.elsewhere.test', '192.0.2.1'] }),
    noServer: issue({ ...server, purposes: ['client'] }),
    client: issue(client),
    expiredClient: issue({ ...client, from: Date.now() - 10 * DAY, days: 5 }),
    otherClient: issue({ ...client, authority: otherCa }),
  };
  const written = Object.entries(all).map(([name, { cert, key }]) => {
    const certFile = path.join(folder, `${name}.crt`);
    const keyFile = path.join(folder, `${name}.key`);
    writeFileSync(certFile, cert);
    writeFileSync(keyFile, key, { mode: 0o600 });
    return [name, { cert, key, certFile, keyFile, certBase64: base64(cert), keyBase64: base64(key) }];
  });
  return { folder, ...Object.fromEntries(written) };
}

const base64 = (text) => Buffer.from(text).toString('base64');

module.exports = { makeCertificates, issue, base64 };
