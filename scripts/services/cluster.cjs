'use strict';

// A throw-away Redis Cluster on the loopback interface, and what happens to clusters: slots move, servers are killed,
// replicas take over, servers join. It is made by commands of the servers themselves, because redis-cli is not
// everywhere where redis-server is.

const Redis = require('ioredis');
const { RedisServer } = require('./redis.cjs');
const { freePort, until } = require('./net.cjs');

const SLOTS = 16384;

/** How long a server may be silent before the others call it dead: the least that a busy machine does not mistake. */
const NODE_TIMEOUT_MS = 1200;

/** Everything as quick as it can be: nobody wants to wait for what is thrown away. */
const SETTINGS = {
  'cluster-enabled': 'yes',
  'cluster-config-file': 'nodes.conf',
  'cluster-node-timeout': NODE_TIMEOUT_MS,
  'cluster-announce-ip': '127.0.0.1',
  // A replica whose primary loses its slots stays where it is, and any of them may take over.
  'cluster-allow-replica-migration': 'no',
  'cluster-replica-validity-factor': 0,
  'repl-diskless-sync': 'yes',
  'repl-diskless-sync-delay': 0,
  'repl-ping-replica-period': 1,
};

/** The same for one that is encrypted, on its bus too. */
const encrypted = (port, { certificates: { server, ca } }) => ({
  'tls-port': port,
  'tls-cluster': 'yes',
  'tls-replication': 'yes',
  'tls-auth-clients': 'no',
  'tls-cert-file': server.certFile,
  'tls-key-file': server.keyFile,
  'tls-ca-cert-file': ca.certFile,
});

/** One server of a cluster, over a connection of its own for what the test wants of it. */
class ClusterNode {
  constructor(server, { password, tlsPort }) {
    Object.assign(this, { server, password, tlsPort, connection: null, id: null });
  }

  get port() {
    return this.server.port;
  }

  /** Where other servers and encrypted clients find it. */
  get publicPort() {
    return this.tlsPort ?? this.port;
  }

  get pid() {
    return this.server.pid;
  }

  get running() {
    return this.server.process.running;
  }

  /** Sends one command; resolves with its reply as ioredis gives it. */
  async ask(...args) {
    if (!this.connection || this.connection.status === 'end') {
      this.connection = new Redis({
        host: '127.0.0.1',
        port: this.port,
        password: this.password,
        enableReadyCheck: false,
        maxRetriesPerRequest: 0,
        retryStrategy: () => null,
      });
      // What goes wrong is told by the command that it befalls.
      this.connection.on('error', () => {});
    }
    return this.connection.call(...args.map(String));
  }

  /** A field of its INFO. */
  async info(field) {
    const line = `${await this.ask('INFO', 'everything')}`.split('\r\n').find((each) => each.startsWith(`${field}:`));
    return line?.slice(field.length + 1);
  }

  /** Its own epoch ('my'), or the newest that it knows of ('current'). */
  async epoch(whose) {
    return Number(`${await this.ask('CLUSTER', 'INFO')}`.match(new RegExp(`cluster_${whose}_epoch:(\\d+)`))[1]);
  }

  freeze() {
    this.server.freeze();
  }

  thaw() {
    this.server.thaw();
  }

  /** Ends it without a word, as a crash does. What it knows of the cluster stays for `restart`. */
  async kill() {
    this.connection?.disconnect();
    await this.server.kill();
  }

  async restart() {
    this.connection?.disconnect();
    await this.server.restart();
  }

  async stop() {
    this.connection?.disconnect();
    await this.server.stop();
  }
}

class RedisCluster {
  /**
   * Starts a cluster and waits until its servers agree. `replicas` is their number for each primary, `args` are
   * command-line options of redis-server. With `tls` (`{ certificates }`, as `makeCertificates` gave them) clients and servers
   * are encrypted; the port without encryption is for `ask` alone.
   */
  static async start({ primaries = 3, replicas = 0, password, tls, args = [] } = {}) {
    const cluster = new RedisCluster();
    Object.assign(cluster, { nodes: [], password, tls, args, epoch: 0 });
    try {
      const all = await Promise.all(Array.from({ length: primaries * (1 + replicas) }, () => cluster.#startNode()));
      const [heads, followers] = [all.slice(0, primaries), all.slice(primaries)];
      await cluster.#introduce(all, all);
      await Promise.all(
        heads.map((node, index) => {
          const [first, last] = [index, index + 1].map((part) => Math.ceil((part * SLOTS) / primaries));
          return node.ask('CLUSTER', 'ADDSLOTSRANGE', first, last - 1);
        }),
      );
      await Promise.all(followers.map((node, index) => cluster.#follow(node, heads[index % primaries])));
      await cluster.settled({ replicas });
      return cluster;
    } catch (error) {
      await cluster.stop();
      throw error;
    }
  }

  async #startNode() {
    for (let attempt = 1; ; attempt += 1) {
      const [port, busPort, tlsPort] = [await freePort(), await freePort(), this.tls ? await freePort() : undefined];
      const settings = { ...SETTINGS, 'cluster-port': busPort };
      if (this.password) Object.assign(settings, { requirepass: this.password, masterauth: this.password });
      if (this.tls) Object.assign(settings, encrypted(tlsPort, this.tls));
      const args = Object.entries(settings).flatMap(([name, value]) => [`--${name}`, `${value}`]);
      try {
        const server = await RedisServer.start({ port, args: [...args, ...this.args] });
        const node = new ClusterNode(server, { password: this.password, tlsPort });
        this.nodes.push(node);
        node.busPort = busPort;
        node.id = await node.ask('CLUSTER', 'MYID');
        // Each begins with an epoch of its own: none has to yield to another.
        this.epoch += 1;
        await node.ask('CLUSTER', 'SET-CONFIG-EPOCH', this.epoch);
        return node;
      } catch (error) {
        // Somebody else may have taken one of the free ports in the meantime.
        if (attempt === 3 || !/already in use|listening on port/i.test(error.message)) throw error;
      }
    }
  }

  /** Everybody meets everybody: quicker than by hearsay. */
  async #introduce(newcomers, all) {
    for (const node of newcomers) {
      for (const other of all) {
        if (other !== node) await node.ask('CLUSTER', 'MEET', '127.0.0.1', other.publicPort, other.busPort);
      }
    }
    const known = (text) => all.every(({ id }) => text.includes(id)) && !text.includes('handshake');
    for (const node of all) {
      await until(async () => known(await node.ask('CLUSTER', 'NODES')), { what: 'the servers to know each other' });
    }
  }

  async #follow(node, primary) {
    await node.ask('CLUSTER', 'REPLICATE', primary.id);
    await until(async () => (await node.info('master_link_status')) === 'up', { what: 'a replica to be in step' });
  }

  get running() {
    return this.nodes.filter((node) => node.running);
  }

  get url() {
    return this.urlOf();
  }

  /** URL of the cluster by these servers, in this order. */
  urlOf(nodes = this.nodes, { password = this.password } = {}) {
    const hosts = nodes.map(({ publicPort }) => `127.0.0.1:${publicPort}`);
    const credentials = password ? `:${encodeURIComponent(password)}@` : '';
    return `redis${this.tls ? 's' : ''}-cluster://${credentials}${hosts.join(',')}`;
  }

  /** What a server thinks: `[{ first, last, primary, replicas }]`, by ids, in the order of slots. */
  async layout(node = this.running[0]) {
    const ranges = await node.ask('CLUSTER', 'SLOTS');
    return ranges
      .map(([first, last, primary, ...replicas]) => ({
        first,
        last,
        primary: primary[2],
        replicas: replicas.map((replica) => replica[2]).sort(),
      }))
      .sort((a, b) => a.first - b.first);
  }

  /** Waits until all servers that run serve, and agree on who has which slot, and on so many replicas for each. */
  async settled({ replicas } = {}) {
    const agree = async () => {
      try {
        for (const node of this.running) {
          if (!`${await node.ask('CLUSTER', 'INFO')}`.includes('cluster_state:ok')) return false;
        }
        const layouts = await Promise.all(this.running.map((node) => this.layout(node)));
        if (new Set(layouts.map((layout) => JSON.stringify(layout))).size !== 1) return false;
        return replicas === undefined || layouts[0].every((range) => range.replicas.length === replicas);
      } catch {
        return false;
      }
    };
    await until(agree, { deadlineMs: 40_000, everyMs: 50, what: 'the servers of the cluster to agree' });
  }

  byId(id) {
    return this.nodes.find((node) => node.id === id);
  }

  /** The servers that have slots, in the order of their slots. */
  async primaries() {
    const ids = (await this.layout()).map(({ primary }) => primary);
    return [...new Set(ids)].map((id) => this.byId(id));
  }

  async replicasOf(primary) {
    const range = (await this.layout()).find((each) => each.primary === primary.id);
    return (range?.replicas ?? []).map((id) => this.byId(id));
  }

  async slotOf(key) {
    return Number(await this.running[0].ask('CLUSTER', 'KEYSLOT', key));
  }

  /** Who has a slot, by its own word: what the others know may be a moment old. */
  async ownerOf(slot) {
    const claims = await Promise.all(
      this.running.map(async (node) => {
        const range = (await this.layout(node)).find(({ first, last }) => first <= slot && slot <= last);
        return range?.primary === node.id;
      }),
    );
    return this.running[claims.indexOf(true)];
  }

  /** Begins to move a slot: for keys that are not there any more, its old owner answers ASK. */
  async beginMove(slot, to) {
    const from = await this.ownerOf(slot);
    await to.ask('CLUSTER', 'SETSLOT', slot, 'IMPORTING', from.id);
    await from.ask('CLUSTER', 'SETSLOT', slot, 'MIGRATING', to.id);
    return { slot, from, to };
  }

  /** Moves keys of a slot: those that are named, or so many of them, or all. Resolves with their number. */
  async moveKeys({ slot, from, to }, { keys, count = Infinity } = {}) {
    let moved = 0;
    for (;;) {
      const some = keys ?? (await from.ask('CLUSTER', 'GETKEYSINSLOT', slot, Math.min(100, count - moved)));
      if (some.length === 0) return moved;
      const credentials = this.password ? ['AUTH', this.password] : [];
      await from.ask('MIGRATE', '127.0.0.1', to.publicPort, '', 0, 5000, ...credentials, 'KEYS', ...some);
      moved += some.length;
      if (keys || moved >= count) return moved;
    }
  }

  /**
   * Hands a slot over, without its keys: first to its new owner, so that at no time it has none. Then all others are told,
   * because whoever has not heard of one move before the next would not believe it any more. Replicas cannot be told.
   */
  async finishMove({ slot, from, to }) {
    // Its claim has to be newer than the old one, so it first has to know how new that is.
    const old = await from.epoch('my');
    await until(async () => (await to.epoch('current')) >= old, { what: 'the new owner to be up to date' });
    for (const node of [to, from]) await node.ask('CLUSTER', 'SETSLOT', slot, 'NODE', to.id);
    const others = this.running.filter((node) => node !== to && node !== from);
    await Promise.all(others.map((node) => node.ask('CLUSTER', 'SETSLOT', slot, 'NODE', to.id).catch(() => {})));
  }

  /** Moves slots with all their keys, one after the other. */
  async moveSlots(slots, to) {
    for (const slot of slots) {
      const move = await this.beginMove(slot, to);
      await this.moveKeys(move);
      await this.finishMove(move);
    }
  }

  /** A replica takes over as its primary agrees; resolves when it has. */
  async failover(replica) {
    await replica.ask('CLUSTER', 'FAILOVER');
    await until(async () => (await replica.info('role')) === 'master', { what: 'the replica to take over' });
  }

  /** Waits until somebody else has the slots of a server that was killed. */
  async replaced(killed) {
    const others = this.running;
    const everywhere = async () => {
      const layouts = await Promise.all(others.map((node) => this.layout(node)));
      return layouts.every((layout) => layout.every(({ primary }) => primary !== killed.id));
    };
    await until(everywhere, { deadlineMs: 40_000, everyMs: 50, what: 'a replica to take over' });
    await this.settled();
  }

  /** Starts a server that joins, with no slots, and is nobody's replica. */
  async addPrimary() {
    const node = await this.#startNode();
    await this.#introduce([node], this.running);
    // Until it has seen that all is well it takes no keys.
    await this.settled();
    return node;
  }

  /** Ends all servers and removes their folders. */
  async stop() {
    await Promise.all(this.nodes.splice(0).map((node) => node.stop()));
  }
}

module.exports = { RedisCluster, NODE_TIMEOUT_MS };
