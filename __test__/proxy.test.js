'use strict';

// The fault-injecting proxy is what many other tests stand on.

const net = require('node:net');
const { once } = require('node:events');
const { startProxy, sleep, until } = require('./helpers/servers.js');

let echo;
let proxy;
const sockets = [];

beforeAll(async () => {
  echo = net.createServer((socket) => {
    socket.on('error', () => {});
    socket.pipe(socket);
  });
  await new Promise((resolve) => echo.listen(0, '127.0.0.1', resolve));
  proxy = await startProxy(echo.address().port);
});

afterEach(async () => {
  proxy.onData = null;
  proxy.slow();
  proxy.release();
  proxy.thaw();
  await proxy.restore();
  for (const socket of sockets.splice(0)) socket.destroy();
});

afterAll(() => echo.close());

/** A client that remembers what it received and how it ended. */
async function connect() {
  const socket = net.connect(proxy.port, '127.0.0.1');
  sockets.push(socket);
  const client = { socket, received: '', ended: false };
  socket.on('data', (chunk) => (client.received += chunk));
  socket.on('error', (error) => (client.error = error.code));
  socket.on('close', () => (client.ended = true));
  await once(socket, 'connect');
  return client;
}

const receives = (client, text) => until(() => client.received === text, { deadlineMs: 2000, what: `"${text}"` });

test('passes everything, both ways, until the end', async () => {
  const client = await connect();
  client.socket.write('hello');
  await receives(client, 'hello');
  const big = 'x'.repeat(3_000_000);
  client.socket.end(big);
  await receives(client, `hello${big}`);
  await until(() => client.ended, { deadlineMs: 2000 });
  expect(client.error).toBeUndefined();
});

test('cut resets connections and refuses new ones until restore', async () => {
  const client = await connect();
  client.socket.write('a');
  await receives(client, 'a');
  await proxy.cut();
  await until(() => client.ended, { deadlineMs: 2000 });
  expect(client.error).toBe('ECONNRESET');
  expect(proxy.connections).toBe(0);
  await expect(connect()).rejects.toThrow('ECONNREFUSED');
  await proxy.restore();
  const second = await connect();
  second.socket.write('b');
  await receives(second, 'b');
});

test.each(['toServer', 'toClient', 'both'])('freeze %s keeps bytes and sockets until thaw', async (direction) => {
  const client = await connect();
  client.socket.write('a');
  await receives(client, 'a');
  proxy.freeze(direction);
  client.socket.write('b');
  const late = await connect();
  late.socket.write('c');
  await sleep(100);
  expect([client.received, late.received, client.ended]).toEqual(['a', '', false]);
  proxy.thaw(direction);
  await receives(client, 'ab');
  await receives(late, 'c');
});

test.each(['toServer', 'toClient', 'both'])('one connection is frozen %s, and the others are not', async (direction) => {
  const [client, other] = [await connect(), await connect()];
  client.socket.write('a');
  await receives(client, 'a');
  const [frozen] = proxy.open;
  frozen.freeze(direction);
  client.socket.write('b');
  other.socket.write('c');
  await receives(other, 'c');
  // The proxy as a whole was not frozen, so that this changes nothing.
  proxy.thaw();
  await sleep(50);
  expect([client.received, client.ended]).toEqual(['a', false]);
  frozen.thaw(direction);
  await receives(client, 'ab');
});

test('stranded connections stay open and pass nothing, new ones work', async () => {
  const client = await connect();
  client.socket.write('a');
  await receives(client, 'a');
  proxy.strand();
  client.socket.write('b');
  const late = await connect();
  late.socket.write('c');
  await receives(late, 'c');
  await sleep(50);
  expect([client.received, client.ended, proxy.connections]).toEqual(['a', false, 2]);
  client.socket.end();
  await sleep(50);
  expect(client.ended).toBe(false);
  proxy.reset();
  await until(() => client.ended && late.ended, { deadlineMs: 2000 });
});

test('holds replies and delivers them in order', async () => {
  const client = await connect();
  proxy.holdReplies();
  const big = 'y'.repeat(2_000_000);
  client.socket.write(big);
  await until(() => proxy.bytes.toServer >= big.length, { deadlineMs: 2000 });
  await sleep(50);
  expect(client.received).toBe('');
  proxy.release();
  await receives(client, big);
});

test('slow passes small pieces with pauses', async () => {
  const client = await connect();
  proxy.slow({ bytesPerWrite: 2, delayMs: 20, direction: 'toClient' });
  const started = Date.now();
  client.socket.write('0123456789');
  await receives(client, '0123456789');
  expect(Date.now() - started).toBeGreaterThanOrEqual(95);
});

test('cutAfter passes exactly so many bytes', async () => {
  const client = await connect();
  const other = await connect();
  proxy.cutAfter(5, 'toClient');
  client.socket.write('12345678');
  await until(() => client.ended, { deadlineMs: 2000 });
  expect(client.received).toBe('12345');
  other.socket.write('still here');
  await receives(other, 'still here');
});

test('the hook sees, replaces, drops and delays', async () => {
  const client = await connect();
  const seen = [];
  proxy.onData = async (direction, chunk) => {
    seen.push(`${direction}:${chunk}`);
    if (direction === 'toServer') return undefined;
    if (`${chunk}` === 'drop') return null;
    await sleep(20);
    return Buffer.from(`<${chunk}>`);
  };
  client.socket.write('drop');
  await until(() => seen.length === 2, { deadlineMs: 2000 });
  client.socket.write('keep');
  await receives(client, '<keep>');
  expect(seen).toEqual(['toServer:drop', 'toClient:drop', 'toServer:keep', 'toClient:keep']);
});

test('the hook can lose one answer', async () => {
  const client = await connect();
  proxy.onData = (direction, chunk, connection) => {
    if (direction === 'toClient') connection.destroy();
    return direction === 'toClient' ? null : undefined;
  };
  client.socket.write('DELETE');
  await until(() => client.ended, { deadlineMs: 2000 });
  expect(client.received).toBe('');
});
