'use strict';

// A server that speaks as much RESP3 as a client needs to believe in it, and then misbehaves as a test asks.

const net = require('node:net');

const CRLF = '\r\n';
const bulk = (text) => `$${Buffer.byteLength(text)}${CRLF}${text}${CRLF}`;
const HELLO = `%2${CRLF}${bulk('server')}${bulk('redis')}${bulk('proto')}:3${CRLF}`;

/** What belongs to the making of a connection, or keeps it alive: it is answered rightly unless `rude` is set. */
const HANDSHAKE = ['HELLO', 'AUTH', 'SELECT', 'INFO', 'CLIENT', 'READONLY'];

const ANSWERS = {
  HELLO: () => HELLO,
  INFO: (server) => bulk(`# Server${CRLF}redis_version:7.4.0${CRLF}run_id:${server.runId}${CRLF}loading:0${CRLF}`),
  PING: () => `+PONG${CRLF}`,
  ECHO: (server, [text]) => bulk(text),
  GET: (server, [key]) => bulk(`value of ${key}`),
  INCR: (server) => `:${(server.counter += 1)}${CRLF}`,
};

/** Takes one command off the front of `bytes`: `{ words, rest }`, or null while it is incomplete. */
function takeCommand(bytes) {
  const words = [];
  let at = bytes.indexOf(CRLF);
  if (at < 0) return null;
  const count = Number(bytes.toString('latin1', 1, at));
  at += 2;
  while (words.length < count) {
    const end = bytes.indexOf(CRLF, at);
    if (end < 0) return null;
    const length = Number(bytes.toString('latin1', at + 1, end));
    if (bytes.length < end + 2 + length + 2) return null;
    words.push(bytes.toString('utf8', end + 2, end + 2 + length));
    at = end + 2 + length + 2;
  }
  return { words, rest: bytes.subarray(at) };
}

class FakeRedis {
  /** Listens on a free port of the loopback interface. */
  static async start() {
    const server = new FakeRedis();
    Object.assign(server, {
      runId: 'f'.repeat(40),
      counter: 0,
      sockets: new Set(),
      /** How many connections there have been. */
      accepted: 0,
      /** Every command since the start, handshakes included: arrays of words. */
      commands: [],
      /**
       * Sees every command but those of a handshake: `(right, words, socket)`, where `right` is the answer that would be
       * right. What it returns is sent instead; null sends nothing.
       */
      misbehave: null,
      /** Misbehaves in the handshake, too. */
      rude: false,
    });
    server.listener = net.createServer((socket) => server.#serve(socket));
    await new Promise((resolve) => server.listener.listen(0, '127.0.0.1', resolve));
    server.port = server.listener.address().port;
    return server;
  }

  get url() {
    return `redis://127.0.0.1:${this.port}`;
  }

  /** How many connections are open. */
  get connections() {
    return this.sockets.size;
  }

  #serve(socket) {
    this.accepted += 1;
    this.sockets.add(socket);
    socket.setNoDelay(true);
    socket.on('error', () => {});
    socket.once('close', () => this.sockets.delete(socket));
    let unread = Buffer.alloc(0);
    socket.on('data', (chunk) => {
      unread = Buffer.concat([unread, chunk]);
      for (let command = takeCommand(unread); command; command = takeCommand(unread)) {
        unread = command.rest;
        this.#answer(command.words, socket);
      }
    });
  }

  #answer([name, ...rest], socket) {
    const words = [name.toUpperCase(), ...rest];
    this.commands.push(words);
    if (socket.silenced) return;
    const right = ANSWERS[words[0]]?.(this, rest) ?? `+OK${CRLF}`;
    const polite = !this.misbehave || (HANDSHAKE.includes(words[0]) && !this.rude);
    const answer = polite ? right : this.misbehave(right, words, socket);
    if (answer !== null && socket.writable) socket.write(answer);
  }

  /** Ends everything. */
  async close() {
    const closed = new Promise((resolve) => this.listener.close(resolve));
    for (const socket of this.sockets) socket.destroy();
    await closed;
  }
}

/** The same noise at each run. Numerical Recipes' linear congruential generator. */
function noise(bytes) {
  let state = bytes;
  return Buffer.from(
    Array.from({ length: bytes }, () => {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      return state >>> 24;
    }),
  );
}

/** Ways to misbehave, made anew for each use because some count. */
const MISBEHAVIOURS = {
  /** The first byte is the beginning of no reply. */
  'random bytes': () => () => Buffer.concat([Buffer.from('\0'), noise(200)]),
  'a wrong length': () => () => `$3${CRLF}abcdef${CRLF}`,
  'a length without end': () => () => `$99999999999999999999${CRLF}`,
  HTTP: () => () => `HTTP/1.1 400 Bad Request${CRLF}Connection: close${CRLF}${CRLF}`,
  'deep nesting': () => () => `*1${CRLF}`.repeat(100_000),
  /** The connection stays silent for good, also when the server behaves again. */
  'half a reply, then silence': () => (right, words, socket) => {
    socket.silenced = true;
    return right.slice(0, Math.ceil(right.length / 2));
  },
  'an extra reply': () => (right) => `${right}+EXTRA${CRLF}`,
  /** The `every`th command has no answer. */
  'a reply too few': (every = 20) => {
    let count = 0;
    return (right) => ((count += 1) % every === 0 ? null : right);
  },
  'a push in between': () => (right) =>
    `>2${CRLF}+invalidate${CRLF}*1${CRLF}${bulk('k')}|1${CRLF}+ttl${CRLF}:9${CRLF}${right}` +
    `>3${CRLF}${bulk('message')}${bulk('channel')}${bulk('nobody asked')}`,
  LOADING: () => () => `-LOADING Redis is loading the dataset in memory${CRLF}`,
  READONLY: () => () => `-READONLY You can't write against a read only replica.${CRLF}`,
  MASTERDOWN: () => () => `-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.${CRLF}`,
  /** Ends each connection after so many bytes of answers, be it amid one. */
  'the end after n bytes':
    (bytes = 333) =>
    (right, words, socket) => {
      const left = (socket.left ?? bytes) - Buffer.byteLength(right);
      socket.left = left;
      if (left > 0) return right;
      socket.end(Buffer.from(right).subarray(0, Buffer.byteLength(right) + left));
      return null;
    },
};

module.exports = { FakeRedis, MISBEHAVIOURS, takeCommand };
