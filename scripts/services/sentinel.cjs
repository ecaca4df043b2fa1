'use strict';

// A primary with replicas and sentinels on the loopback interface, in a hurry to fail over.

const { randomBytes } = require('node:crypto');
const { writeFileSync } = require('node:fs');
const path = require('node:path');
const { startProcess, makeFolder, removeFolder, tail } = require('./keeping.cjs');
const { freePort, until } = require('./net.cjs');
const { ensureInstalled } = require('./install.cjs');
const { RedisServer, listening, command } = require('./redis.cjs');

/** Replicas begin to copy at once, and notice at once that their primary is away. */
const IN_A_HURRY = ['--repl-diskless-sync-delay', '0', '--repl-ping-replica-period', '1'];

/** One sentinel. What it has learned stays in its folder. */
class SentinelServer {
  constructor({ port, binary, tls, password }) {
    Object.assign(this, { port, binary, tls, password, id: randomBytes(20).toString('hex'), dir: null, process: null });
  }

  async start(lines) {
    this.dir = await makeFolder('sentinel');
    this.file = path.join(this.dir, 'sentinel.conf');
    const options = listening(this.port, this.tls);
    const own = [];
    for (let index = 0; index < options.length; index += 2)
      own.push(`${options[index].slice(2)} ${options[index + 1]}`);
    if (this.tls) own.push('tls-replication yes');
    if (this.password) own.push(`requirepass ${this.password}`, `sentinel sentinel-pass ${this.password}`);
    writeFileSync(
      this.file,
      [...own, 'bind 127.0.0.1', `dir ${this.dir}`, `sentinel myid ${this.id}`, ...lines, ''].join('\n'),
    );
    await this.restart();
  }

  /** Starts it again with what it knew. */
  async restart() {
    await this.process?.end();
    const log = path.join(this.dir, 'sentinel.log');
    this.process = await startProcess({ command: this.binary, args: [this.file, '--sentinel'], cwd: this.dir, log });
    await until(
      async () => {
        if (!this.process.running) throw new Error(`The sentinel did not start: ${tail(log)}`);
        return this.cli('PING').then(
          () => true,
          () => false,
        );
      },
      { what: `a sentinel on port ${this.port}` },
    );
  }

  get running() {
    return this.process?.running ?? false;
  }

  freeze() {
    process.kill(this.process.pid, 'SIGSTOP');
  }

  thaw() {
    process.kill(this.process.pid, 'SIGCONT');
  }

  /** Ends it without a word. `restart` starts it again. */
  kill() {
    return this.process.end('SIGKILL');
  }

  async stop() {
    await this.process?.end();
    if (this.dir) await removeFolder(this.dir);
    this.dir = null;
  }

  /** Sends one command; resolves with the reply as lines of text. */
  cli(...args) {
    return command(this, args);
  }
}

class SentinelDeployment {
  /**
   * Starts `replicas` and a primary (`servers`, the primary first) and `sentinels`, and waits until all know each other.
   * `password` is that of the servers and `sentinelPassword` that of the sentinels; `tls` is that of `RedisServer.start`.
   */
  static async start(options = {}) {
    const deployment = new SentinelDeployment();
    try {
      await deployment.#start(options);
    } catch (error) {
      await deployment.stop();
      throw error;
    }
    return deployment;
  }

  servers = [];
  sentinels = [];

  async #start({
    replicas = 2,
    sentinels = 3,
    name = 'mymaster',
    password,
    sentinelPassword,
    tls,
    args = [],
    downAfterMs = 700,
    failoverTimeoutMs = 2000,
  }) {
    Object.assign(this, { name, password, sentinelPassword, tls });
    const { redisServer: binary } = await ensureInstalled();
    const secure = tls ? ['--tls-replication', 'yes'] : [];
    const server = (more = []) =>
      RedisServer.start({ password, tls, args: [...IN_A_HURRY, ...secure, ...args, ...more] });
    this.servers.push(await server());
    const [first] = this.servers;
    const copies = Array.from({ length: replicas }, async () => {
      const replica = await server();
      this.servers.push(replica);
      // Not by an option: a server that is started again must not choose its primary by itself.
      await replica.cli('REPLICAOF', '127.0.0.1', first.port);
      await inStep(replica);
    });
    await Promise.all(copies);
    for (let count = 0; count < sentinels; count += 1) {
      this.sentinels.push(new SentinelServer({ port: await freePort(), binary, tls, password: sentinelPassword }));
    }
    const monitored = [
      'sentinel resolve-hostnames no',
      `sentinel monitor ${name} 127.0.0.1 ${first.port} ${Math.floor(sentinels / 2) + 1}`,
      `sentinel down-after-milliseconds ${name} ${downAfterMs}`,
      `sentinel failover-timeout ${name} ${failoverTimeoutMs}`,
      `sentinel parallel-syncs ${name} 1`,
      ...(password ? [`sentinel auth-pass ${name} ${password}`] : []),
      ...this.servers.slice(1).map(({ port }) => `sentinel known-replica ${name} 127.0.0.1 ${port}`),
    ];
    const known = ({ port, id }) => `sentinel known-sentinel ${name} 127.0.0.1 ${port} ${id}`;
    await Promise.all(
      this.sentinels.map((one) =>
        one.start([...monitored, ...this.sentinels.filter((other) => other !== one).map(known)]),
      ),
    );
    await this.settled();
  }

  /** `host:port` of each sentinel, comma-separated, as REDIS_SENTINEL_HOSTS wants them. */
  get hosts() {
    return this.sentinels.map(({ port }) => `127.0.0.1:${port}`).join(',');
  }

  get url() {
    const user = this.password ? `:${encodeURIComponent(this.password)}@` : '';
    const own = this.sentinelPassword ? `&sentinelPassword=${encodeURIComponent(this.sentinelPassword)}` : '';
    return `redis${this.tls ? 's' : ''}-sentinel://${user}${this.hosts}?master=${this.name}${own}`;
  }

  /** Which server each sentinel that runs takes for the primary. */
  async opinions() {
    const ask = async (one) => {
      const [, port] = (await one.cli('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', this.name)).split('\n');
      return this.servers.find((server) => server.port === Number(port));
    };
    return Promise.all(this.sentinels.filter(({ running }) => running).map(ask));
  }

  /** The server that the sentinels take for the primary, once they agree. */
  async primary({ but } = {}) {
    return until(
      async () => {
        const [first, ...others] = await this.opinions();
        return first !== but && others.every((other) => other === first) && first;
      },
      { what: `a primary of ${this.name} that all sentinels agree on`, deadlineMs: 60_000, everyMs: 50 },
    );
  }

  /** The servers that run and are not the primary. */
  async replicas() {
    const primary = await this.primary();
    return this.servers.filter((server) => server !== primary && server.process.running);
  }

  /** Waits until every server that runs is in step with the primary, and the sentinels know of all of them. */
  async settled() {
    const primary = await this.primary();
    for (const replica of await this.replicas()) await inStep(replica, primary);
    const copies = (await this.replicas()).length;
    const ready = async (one) => {
      const master = fields(await one.cli('SENTINEL', 'MASTER', this.name));
      const others = this.sentinels.filter(({ running }) => running).length - 1;
      const flags = (await one.cli('SENTINEL', 'REPLICAS', this.name)).split('\n').filter((line) => line === 'slave');
      // Flags and the role that it tells, of each.
      return master.flags === 'master' && Number(master['num-other-sentinels']) >= others && flags.length >= 2 * copies;
    };
    await until(
      async () => (await Promise.all(this.sentinels.filter(({ running }) => running).map(ready))).every(Boolean),
      { what: `sentinels that know all of ${this.name}`, deadlineMs: 60_000, everyMs: 50 },
    );
  }

  /** Whether every sentinel that runs reaches this replica. */
  async sees(replica) {
    const ask = async (one) => {
      const lines = (await one.cli('SENTINEL', 'REPLICAS', this.name)).split('\n');
      const flags = lines[lines.indexOf('flags', lines.indexOf(`127.0.0.1:${replica.port}`)) + 1];
      return flags === 'slave';
    };
    return (await Promise.all(this.sentinels.filter(({ running }) => running).map(ask))).every(Boolean);
  }

  /** A planned failover. Resolves with the new primary, once all sentinels agree. */
  async failover() {
    const former = await this.primary();
    const asked = this.sentinels.find(({ running }) => running);
    await until(
      () =>
        asked.cli('SENTINEL', 'FAILOVER', this.name).then(
          () => true,
          (error) => {
            // No replica is good enough yet, or the last failover is not quite over.
            if (!/^(NOGOODSLAVE|INPROG)/.test(error.reply ?? '')) throw error;
            return false;
          },
        ),
      { what: 'a replica that can be promoted', deadlineMs: 60_000, everyMs: 100 },
    );
    return this.primary({ but: former });
  }

  async stop() {
    for (const server of [...this.sentinels, ...this.servers]) if (server.process?.running) server.thaw();
    await Promise.all([...this.sentinels, ...this.servers].map((server) => server.stop()));
  }
}

/** Waits until a replica has what its primary has. */
const inStep = (replica, primary) =>
  until(
    async () => {
      // Sentinels end the connections of a server to which they give another part.
      const info = await replica.cli('INFO', 'replication').catch(() => '');
      const up = info.includes('master_link_status:up') && info.includes('master_sync_in_progress:0');
      return up && (!primary || info.includes(`master_port:${primary.port}\r`));
    },
    { what: `the replica on port ${replica.port}`, deadlineMs: 60_000 },
  );

/** What a sentinel says of an instance. */
function fields(text) {
  const lines = text.split('\n');
  return Object.fromEntries(lines.flatMap((line, index) => (index % 2 ? [] : [[line, lines[index + 1]]])));
}

module.exports = { SentinelDeployment };
