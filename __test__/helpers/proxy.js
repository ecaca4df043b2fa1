'use strict';

// A TCP proxy on the loopback interface that misbehaves on request. A direction is 'toServer', 'toClient' or 'both'.

const net = require('node:net');

const DIRECTIONS = ['toServer', 'toClient'];
/** As much as a frozen direction keeps before it lets the sender feel it. */
const BUFFER_BYTES = 256 * 1024;
const END = Symbol('end');

const each = (direction) => (direction === 'both' ? DIRECTIONS : [direction]);
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** One direction of one connection: what came in, in order, until it may go out. */
class Flow {
  constructor(proxy, connection, direction, from, to) {
    Object.assign(this, { proxy, connection, direction, from, to, queue: [], queued: 0, busy: false });
    from.on('data', (chunk) => {
      this.queue.push(chunk);
      this.queued += chunk.length;
      if (this.queued > BUFFER_BYTES && !this.proxy.hoarding) this.from.pause();
      this.pump();
    });
    from.on('end', () => {
      this.queue.push(END);
      this.pump();
    });
  }

  async pump() {
    if (this.busy) return;
    this.busy = true;
    while (this.queue.length > 0) {
      await this.proxy.passable(this.direction, this.connection);
      if (this.connection.destroyed) return;
      const chunk = this.queue.shift();
      // Taken and never passed on, not even the end: neither side is told.
      if (this.connection.stranded) continue;
      if (chunk === END) {
        this.to.end();
        continue;
      }
      this.queued -= chunk.length;
      if (this.queued <= BUFFER_BYTES) this.from.resume();
      await this.pass(chunk);
    }
    this.busy = false;
  }

  async pass(chunk) {
    const changed = this.proxy.onData ? await this.proxy.onData(this.direction, chunk, this.connection) : undefined;
    if (changed === null) return;
    let rest = changed ?? chunk;
    while (rest.length > 0) {
      const pace = this.proxy.pace[this.direction];
      const piece = rest.subarray(0, pace?.bytesPerWrite ?? rest.length);
      rest = rest.subarray(piece.length);
      if (pace) await sleep(pace.delayMs);
      await this.proxy.passable(this.direction, this.connection);
      if (this.connection.destroyed) return;
      const allowance = this.proxy.allowance[this.direction];
      if (allowance !== null && piece.length >= allowance) {
        this.proxy.allowance[this.direction] = null;
        await new Promise((written) => this.to.write(piece.subarray(0, allowance), written));
        this.proxy.bytes[this.direction] += allowance;
        this.connection.destroy();
        return;
      }
      if (allowance !== null) this.proxy.allowance[this.direction] -= piece.length;
      this.proxy.bytes[this.direction] += piece.length;
      if (!this.to.write(piece)) await this.drained();
    }
  }

  drained() {
    return new Promise((resolve) => {
      this.to.once('drain', resolve);
      this.to.once('close', resolve);
    });
  }
}

/** A client's socket with the socket to the server that belongs to it. */
class Connection {
  constructor(proxy, client, server) {
    Object.assign(this, { proxy, client, server, destroyed: false, stranded: false });
    this.frozen = { toServer: false, toClient: false };
    for (const socket of [client, server]) {
      socket.setNoDelay(true);
      // An abrupt end of one side is one of the other too.
      socket.on('error', () => this.destroy());
      socket.on('close', () => {
        if (client.destroyed && server.destroyed) this.destroy();
      });
    }
    this.flows = [new Flow(proxy, this, 'toServer', client, server), new Flow(proxy, this, 'toClient', server, client)];
  }

  /** Passes no byte of this connection any more, until `thaw`; the others are not affected. */
  freeze(direction = 'both') {
    for (const one of each(direction)) this.frozen[one] = true;
  }

  /** Passes on again, first what had been stuck, unless the whole proxy is frozen. */
  thaw(direction = 'both') {
    for (const one of each(direction)) this.frozen[one] = false;
    this.proxy.wake();
  }

  /** Ends it with a reset, as a crashed peer or an impatient router does. */
  destroy() {
    if (this.destroyed) return;
    this.destroyed = true;
    this.proxy.open.delete(this);
    for (const socket of [this.client, this.server]) {
      if (socket.connecting) socket.destroy();
      else socket.resetAndDestroy();
    }
  }
}

class Proxy {
  /** Listens on a free port and passes everything to `targetPort`. */
  static async start(targetPort, { targetHost = '127.0.0.1' } = {}) {
    const proxy = new Proxy();
    Object.assign(proxy, {
      targetPort,
      targetHost,
      port: 0,
      open: new Set(),
      /** How many connections there have been. */
      accepted: 0,
      /** Bytes passed on since the start. */
      bytes: { toServer: 0, toClient: 0 },
      frozen: { toServer: false, toClient: false },
      hoarding: false,
      pace: { toServer: null, toClient: null },
      allowance: { toServer: null, toClient: null },
      waiting: [],
      /**
       * Sees every chunk before it is passed: `(direction, chunk, connection)`, may be async. Returning a Buffer
       * replaces the chunk, returning null drops it; `connection.destroy()` ends the connection instead.
       */
      onData: null,
    });
    await proxy.restore();
    return proxy;
  }

  /** How many connections are open. */
  get connections() {
    return this.open.size;
  }

  url(scheme, rest = '') {
    return `${scheme}://127.0.0.1:${this.port}${rest}`;
  }

  /** Resets all connections and refuses new ones. */
  async cut() {
    const closed = this.listener && new Promise((resolve) => this.listener.close(resolve));
    this.listener = null;
    this.reset();
    await closed;
  }

  /** Resets all connections; new ones are welcome. */
  reset() {
    for (const connection of [...this.open]) connection.destroy();
  }

  /** Listens again, on the same port. */
  async restore() {
    if (this.listener) return;
    this.listener = net.createServer({ allowHalfOpen: true }, (client) => {
      this.accepted += 1;
      const server = net.connect({ port: this.targetPort, host: this.targetHost, allowHalfOpen: true });
      this.open.add(new Connection(this, client, server));
    });
    await new Promise((resolve, reject) => {
      this.listener.once('error', reject);
      this.listener.listen(this.port, '127.0.0.1', resolve);
    });
    this.port = this.listener.address().port;
  }

  /** Passes no byte any more; the sockets stay, and new connections are accepted and left without an answer. */
  freeze(direction = 'both') {
    for (const one of each(direction)) this.frozen[one] = true;
  }

  /** Passes on again, first what had been stuck. */
  thaw(direction = 'both') {
    for (const one of each(direction)) this.frozen[one] = false;
    this.wake();
  }

  /** Lets those who wait look again whether they may pass. */
  wake() {
    for (const resolve of this.waiting.splice(0)) resolve();
  }

  /** Passes no byte of the present connections any more, for good, and keeps their sockets; new ones work. */
  strand() {
    for (const connection of this.open) connection.stranded = true;
  }

  /** Takes every reply from the server and keeps it, without letting the server feel it. */
  holdReplies() {
    this.hoarding = true;
    this.freeze('toClient');
  }

  /** Delivers the replies that were held. */
  release() {
    this.hoarding = false;
    this.thaw('toClient');
  }

  /** Passes pieces of `bytesPerWrite` with `delayMs` before each; without arguments at full speed again. */
  slow({ bytesPerWrite, delayMs = 0, direction = 'both' } = {}) {
    for (const one of each(direction)) this.pace[one] = bytesPerWrite || delayMs ? { bytesPerWrite, delayMs } : null;
  }

  /** Passes exactly `bytes` more in this direction, then resets the connection that carried the last of them. */
  cutAfter(bytes, direction = 'toClient') {
    this.allowance[direction] = bytes;
  }

  /** Ends everything. */
  async close() {
    await this.cut();
    this.thaw();
  }

  async passable(direction, { frozen }) {
    while (this.frozen[direction] || frozen[direction]) await new Promise((resolve) => this.waiting.push(resolve));
  }
}

module.exports = { Proxy };
