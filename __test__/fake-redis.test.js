'use strict';

// The server that misbehaves is what tests of the client stand on.

const net = require('node:net');
const { once } = require('node:events');
const { startFakeRedis, until } = require('./helpers/servers.js');
const { MISBEHAVIOURS } = require('./helpers/fake-redis.js');
const { openRedis } = require('./fixtures/functional/redis.js');

let server;
const sockets = [];

beforeAll(async () => {
  server = await startFakeRedis();
});

afterEach(() => {
  server.misbehave = null;
  server.rude = false;
  for (const socket of sockets.splice(0)) socket.destroy();
});

const encode = (...words) => `*${words.length}\r\n${words.map((word) => `$${word.length}\r\n${word}\r\n`).join('')}`;

/** A client that remembers the bytes that it received and how it ended. */
async function connect() {
  const socket = net.connect(server.port, '127.0.0.1');
  sockets.push(socket);
  const client = { socket, received: '', ended: false };
  socket.on('data', (chunk) => (client.received += chunk.toString('latin1')));
  socket.on('error', () => {});
  socket.on('close', () => (client.ended = true));
  await once(socket, 'connect');
  return client;
}

const receives = (client, text) =>
  until(() => client.received === text, { deadlineMs: 2000, what: JSON.stringify(text) });

test('another client believes in it', async () => {
  const redis = openRedis(server.url);
  expect(await redis.echo('a')).toBe('a');
  expect(await Promise.all([redis.get('b'), redis.ping(), redis.get('c')])).toEqual([
    'value of b',
    'PONG',
    'value of c',
  ]);
  const before = server.counter;
  expect(await redis.incr('x')).toBe(before + 1);
});

test('it understands commands in pieces, answers them in order, and counts connections', async () => {
  const { accepted, connections } = server;
  const client = await connect();
  const bytes = encode('HELLO', '3') + encode('echo', 'one') + encode('ECHO', 'two');
  for (const byte of bytes) client.socket.write(byte);
  await until(() => client.received.endsWith('$3\r\none\r\n$3\r\ntwo\r\n'), { deadlineMs: 2000 });
  expect(client.received).toMatch(/^%2\r\n/);
  expect(server.commands.slice(-2)).toEqual([
    ['ECHO', 'one'],
    ['ECHO', 'two'],
  ]);
  expect([server.accepted, server.connections]).toEqual([accepted + 1, connections + 1]);
});

const RIGHT = '$1\r\na\r\n';
/** What each way makes of two right answers. */
const EXPECTED = {
  'a wrong length': '$3\r\nabcdef\r\n'.repeat(2),
  'a length without end': '$99999999999999999999\r\n'.repeat(2),
  HTTP: 'HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n'.repeat(2),
  'deep nesting': '*1\r\n'.repeat(200_000),
  'an extra reply': `${RIGHT}+EXTRA\r\n`.repeat(2),
  LOADING: '-LOADING Redis is loading the dataset in memory\r\n'.repeat(2),
  READONLY: "-READONLY You can't write against a read only replica.\r\n".repeat(2),
  MASTERDOWN: "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n".repeat(2),
};

test.each(Object.entries(EXPECTED))('%s', async (way, expected) => {
  const client = await connect();
  client.socket.write(encode('SELECT', '0'));
  await receives(client, '+OK\r\n');
  client.received = '';
  server.misbehave = MISBEHAVIOURS[way]();
  client.socket.write(encode('SELECT', '0'));
  await receives(client, '+OK\r\n'); // the handshake is left alone
  client.received = '';
  client.socket.write(encode('ECHO', 'a') + encode('ECHO', 'a'));
  await receives(client, expected);
  server.misbehave = null;
  client.received = '';
  client.socket.write(encode('ECHO', 'a'));
  await receives(client, RIGHT);
});

test('half a reply, and the connection is silent for good; others are not', async () => {
  server.misbehave = MISBEHAVIOURS['half a reply, then silence']();
  const [silenced, other] = [await connect(), await connect()];
  silenced.socket.write(encode('ECHO', 'a') + encode('ECHO', 'b'));
  await receives(silenced, '$1\r\n');
  server.misbehave = null;
  silenced.socket.write(encode('ECHO', 'c'));
  other.socket.write(encode('ECHO', 'a'));
  await receives(other, RIGHT);
  expect([silenced.received, silenced.ended]).toEqual(['$1\r\n', false]);
});

test('random bytes begin with one that begins no reply, and are the same each time', async () => {
  server.misbehave = MISBEHAVIOURS['random bytes']();
  const clients = [await connect(), await connect()];
  for (const { socket } of clients) socket.write(encode('PING'));
  await until(() => clients.every(({ received }) => received.length === 201), { deadlineMs: 2000 });
  expect(clients[0].received).toBe(clients[1].received);
  expect(clients[0].received[0]).toBe('\0');
});

test('a reply too few: every so many commands have none', async () => {
  server.misbehave = MISBEHAVIOURS['a reply too few'](3);
  const client = await connect();
  client.socket.write(['a', 'b', 'c', 'd'].map((word) => encode('ECHO', word)).join(''));
  await receives(client, '$1\r\na\r\n$1\r\nb\r\n$1\r\nd\r\n');
});

test('a push comes before the right answer, and another after it', async () => {
  server.misbehave = MISBEHAVIOURS['a push in between']();
  const client = await connect();
  client.socket.write(encode('ECHO', 'a'));
  await until(() => client.received.includes('nobody asked'), { deadlineMs: 2000 });
  expect(client.received).toMatch(/^>2\r\n.*\|1\r\n.*\$1\r\na\r\n>3\r\n/s);
});

test('it ends each connection after exactly so many bytes', async () => {
  server.misbehave = MISBEHAVIOURS['the end after n bytes'](10);
  for (let round = 0; round < 2; round += 1) {
    const client = await connect();
    client.socket.write(encode('ECHO', 'a') + encode('ECHO', 'a'));
    await until(() => client.ended, { deadlineMs: 2000 });
    expect(client.received).toBe(`${RIGHT}$1\r`);
  }
});

test('a rude one misbehaves in the handshake', async () => {
  server.misbehave = MISBEHAVIOURS.HTTP();
  server.rude = true;
  const client = await connect();
  client.socket.write(encode('HELLO', '3'));
  await until(() => client.received.startsWith('HTTP/1.1'), { deadlineMs: 2000 });
});
