'use strict';

const net = require('node:net');
const nodeTls = require('node:tls');
const path = require('node:path');
const { startProcess, makeFolder, removeFolder, tail } = require('./keeping.cjs');
const { freePort, until } = require('./net.cjs');
const { ensureInstalled } = require('./install.cjs');

/** A throw-away Redis on the loopback interface. */
class RedisServer {
  /**
   * Starts a server and waits until it answers. `args` are command-line options of redis-server, for instance
   * `['--maxmemory', '1mb']`. A `dir` that the caller gives is the caller's to remove.
   *
   * With `tls` the port is an encrypted one: `{ certificates, as, authClients, protocols, ciphers }` are what
   * `makeCertificates` gave, the name of the server's among them (default `server`), whether clients need one (`yes`, `no`,
   * `optional`; default `no`), and the OpenSSL names of what it speaks.
   *
   * With `password` it asks for one, and gives it to a primary that it replicates.
   */
  static async start({ port, dir, args = [], tls, password } = {}) {
    const { redisServer } = await ensureInstalled();
    if (!redisServer) throw new Error('There is no redis-server on this machine, and none could be installed.');
    const server = new RedisServer();
    server.binary = redisServer;
    server.args = args;
    server.tls = tls;
    server.password = password;
    server.ownsDir = dir === undefined;
    server.dir = dir ?? (await makeFolder('redis'));
    for (let attempt = 1; ; attempt += 1) {
      server.port = port ?? (await freePort());
      try {
        await server.#launch();
        return server;
      } catch (error) {
        // Somebody else may have taken the free port in the meantime.
        if (attempt < 3 && port === undefined && /already in use/i.test(error.message)) continue;
        await server.stop();
        throw error;
      }
    }
  }

  get url() {
    return `${this.tls ? 'rediss' : 'redis'}://127.0.0.1:${this.port}`;
  }

  get pid() {
    return this.process.pid;
  }

  async #launch() {
    const log = path.join(this.dir, 'server.log');
    const fixed = [
      ...listening(this.port, this.tls),
      ...(this.password ? ['--requirepass', this.password, '--masterauth', this.password] : []),
      '--bind',
      '127.0.0.1',
      '--dir',
      this.dir,
      '--save',
      '',
      '--appendonly',
      'no',
    ];
    this.process = await startProcess({ command: this.binary, args: [...fixed, ...this.args], cwd: this.dir, log });
    await until(
      async () => {
        if (!this.process.running) throw new Error(`redis-server did not start: ${tail(log)}`);
        try {
          await this.cli('PING');
          return true;
        } catch (error) {
          // A refusal for want of a password is an answer too; one that is loading is not up yet.
          return error.reply !== undefined && !error.reply.startsWith('LOADING');
        }
      },
      { what: `Redis on port ${this.port}` },
    );
  }

  /** Stops its clock: it keeps its connections and answers nobody. */
  freeze() {
    process.kill(this.pid, 'SIGSTOP');
  }

  thaw() {
    process.kill(this.pid, 'SIGCONT');
  }

  /** Ends it without a word, as a crash does. Its folder stays for `restart`. */
  async kill() {
    await this.process.end('SIGKILL');
  }

  /** Ends it in an orderly way, and removes its folder unless `keep` is set (`restart` then finds its data). */
  async stop({ keep = false } = {}) {
    await this.process?.end();
    if (!keep && this.ownsDir && this.dir) {
      const dir = this.dir;
      this.dir = null;
      await removeFolder(dir);
    }
  }

  /** Ends it if it runs, and starts it again on the same port, in the same folder, with `args` and `tls` instead if given. */
  async restart({ args = this.args, tls = this.tls } = {}) {
    await this.process.end();
    this.dir ??= await makeFolder('redis');
    Object.assign(this, { args, tls });
    await this.#launch();
  }

  /** Sends one command over a connection of its own; resolves with the reply as lines of text. */
  cli(...args) {
    return command(this, args);
  }
}

function connect({ port, tls }) {
  if (!tls) return net.connect(port, '127.0.0.1');
  const { cert, key } = tls.certificates.server;
  // Whatever it shows and speaks: what is wrong with it is the business of others.
  const lenient = { rejectUnauthorized: false, minVersion: 'TLSv1', ciphers: 'DEFAULT@SECLEVEL=0' };
  return nodeTls.connect({ port, host: '127.0.0.1', cert, key, ...lenient });
}

/** The options for its port. */
function listening(port, tls) {
  if (!tls) return ['--port', `${port}`];
  const { certificates, as = 'server', authClients = 'no', protocols, ciphers } = tls;
  const options = {
    port: 0,
    'tls-port': port,
    'tls-cert-file': certificates[as].certFile,
    'tls-key-file': certificates[as].keyFile,
    'tls-ca-cert-file': certificates.ca.certFile,
    'tls-auth-clients': authClients,
    ...(protocols && { 'tls-protocols': protocols }),
    ...(ciphers && { 'tls-ciphers': ciphers }),
  };
  return Object.entries(options).flatMap(([name, value]) => [`--${name}`, `${value}`]);
}

/** One command, one reply (RESP2), as redis-cli prints it when its output is no terminal. */
function command(server, args) {
  return new Promise((resolve, reject) => {
    const socket = connect(server);
    const send = (words) => {
      const parts = words.map((word) => Buffer.from(`${word}`));
      socket.write(`*${parts.length}\r\n`);
      for (const part of parts)
        socket.write(Buffer.concat([Buffer.from(`$${part.length}\r\n`), part, Buffer.from('\r\n')]));
    };
    // The first reply is then that to the password; what is wrong with it the other one tells.
    let before = server.password ? 1 : 0;
    let received = Buffer.alloc(0);
    socket.setTimeout(10_000, () => socket.destroy(new Error(`Redis did not answer ${args[0]} within 10 s.`)));
    socket.once(socket.encrypted ? 'secureConnect' : 'connect', () => {
      if (server.password) send(['AUTH', server.password]);
      send(args);
    });
    socket.on('data', (chunk) => {
      received = Buffer.concat([received, chunk]);
      let parsed = parse(received, 0);
      if (parsed && before > 0) {
        before = 0;
        received = received.subarray(parsed.next);
        parsed = parse(received, 0);
      }
      if (!parsed) return;
      socket.destroy();
      if (parsed.error) reject(Object.assign(new Error(parsed.error), { reply: parsed.error }));
      else resolve(parsed.lines.join('\n'));
    });
    socket.on('error', reject);
    socket.on('close', () => reject(new Error(`Redis closed the connection before it answered ${args[0]}.`)));
  });
}

/** Parses one reply at `offset`; null while it is incomplete. */
function parse(buffer, offset) {
  const lineEnd = buffer.indexOf('\r\n', offset);
  if (lineEnd < 0) return null;
  const line = buffer.toString('utf8', offset + 1, lineEnd);
  const next = lineEnd + 2;
  switch (buffer[offset]) {
    case 0x2d: // '-'
      return { error: line, lines: [line], next };
    case 0x24: {
      // '$'
      const length = Number(line);
      if (length < 0) return { lines: [''], next };
      if (buffer.length < next + length + 2) return null;
      return { lines: [buffer.toString('utf8', next, next + length)], next: next + length + 2 };
    }
    case 0x2a: {
      // '*'
      const lines = [];
      let position = next;
      for (let index = 0; index < Number(line); index += 1) {
        const element = parse(buffer, position);
        if (!element) return null;
        lines.push(...element.lines);
        position = element.next;
      }
      return { lines, next: position };
    }
    default: // '+' and ':'
      return { lines: [line], next };
  }
}

module.exports = { RedisServer, listening, command };
