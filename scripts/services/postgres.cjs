'use strict';

const { chownSync, existsSync, readFileSync, writeFileSync } = require('node:fs');
const { spawnSync } = require('node:child_process');
const path = require('node:path');
const { startProcess, run, makeFolder, removeFolder, tail } = require('./keeping.cjs');
const { freePort, until } = require('./net.cjs');
const { ensureInstalled } = require('./install.cjs');
const { tree, signalAll } = require('./tree.cjs');

const SCHEMA = path.join(__dirname, '..', '..', '__test__', 'schema');

/** A throw-away server: what a crash would lose does not matter, so nothing waits for the disk. */
const SETTINGS = {
  listen_addresses: '127.0.0.1',
  fsync: 'off',
  synchronous_commit: 'off',
  full_page_writes: 'off',
  shared_buffers: '32MB',
  max_connections: '200',
  autovacuum: 'off',
};

/** A throw-away Postgres on the loopback interface. Its owner is `postgres`; it asks nobody for a password. */
class PostgresServer {
  /**
   * Starts a server with one database that has Studio's schema, with its two known defects if `defects` is set.
   * `settings` are server parameters, for instance `{ log_statement: 'all' }`.
   *
   * With `ssl` it offers TLS beside plain connections: `{ certificates, as }` are what `makeCertificates` gave, and the name of
   * the server's among them (default `server`). The role `certified` is let in with a certificate by `ca` alone.
   */
  static async start({ dir, defects = false, settings = {}, ssl } = {}) {
    const { postgresBin } = await ensureInstalled();
    const server = new PostgresServer();
    server.bin = postgresBin;
    server.settings = settings;
    server.ssl = ssl;
    server.user = unprivilegedUser();
    server.ownsDir = dir === undefined;
    server.dir = dir ?? (await makeFolder('postgres', server.user));
    server.databases = 0;
    try {
      await server.#initialise();
      for (let attempt = 1; ; attempt += 1) {
        server.port = await freePort();
        try {
          await server.#launch();
          break;
        } catch (error) {
          // Somebody else may have taken the free port in the meantime.
          if (attempt === 3 || !/already in use/i.test(error.message)) throw error;
        }
      }
      server.url = await server.createDatabase({ defects });
      return server;
    } catch (error) {
      await server.stop();
      throw error;
    }
  }

  get pid() {
    return this.process.pid;
  }

  get data() {
    return path.join(this.dir, 'data');
  }

  /** What the server has written to its log so far. */
  get log() {
    return readFileSync(path.join(this.dir, 'server.log'), 'utf8');
  }

  async #initialise() {
    if (existsSync(path.join(this.data, 'PG_VERSION'))) return;
    await run({
      command: path.join(this.bin, 'initdb'),
      args: [
        '-D',
        this.data,
        '-U',
        'postgres',
        '-A',
        'trust',
        '-E',
        'UTF8',
        '--locale=C',
        '--no-sync',
        '--no-instructions',
      ],
      cwd: this.dir,
      user: this.user,
      log: path.join(this.dir, 'initdb.log'),
    });
  }

  async #launch() {
    const log = path.join(this.dir, 'server.log');
    const own = { unix_socket_directories: this.dir, port: this.port };
    const settings = { ...SETTINGS, ...own, ...this.#ssl(), ...this.settings };
    const args = Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
    this.process = await startProcess({
      command: path.join(this.bin, 'postgres'),
      args: ['-D', this.data, ...args],
      cwd: this.dir,
      user: this.user,
      log,
      // "Immediate": it cleans up its shared memory, and writes nothing that somebody would read later.
      ending: 'SIGQUIT',
    });
    await until(
      () => {
        if (!this.process.running) throw new Error(`postgres did not start: ${tail(log)}`);
        try {
          // The eighth line says "ready" once connections are accepted.
          const status = readFileSync(path.join(this.data, 'postmaster.pid'), 'utf8').split('\n');
          return Number(status[0]) === this.pid && status[7]?.trim() === 'ready';
        } catch {
          return false;
        }
      },
      { deadlineMs: 60_000, what: `Postgres on port ${this.port}` },
    );
  }

  /** Puts certificates where the server reads them, as files of its user, and says who may come in with what. */
  #ssl() {
    if (!this.ssl) return {};
    const { certificates, as = 'server' } = this.ssl;
    const put = (name, text) => {
      const file = path.join(this.data, name);
      writeFileSync(file, text, { mode: 0o600 });
      if (this.user) chownSync(file, this.user.uid, this.user.gid);
    };
    put('server.crt', certificates[as].cert);
    put('server.key', certificates[as].key);
    put('root.crt', certificates.ca.cert);
    put(
      'pg_hba.conf',
      `local all all trust
       hostssl all certified 127.0.0.1/32 trust clientcert=verify-ca
       host all certified 127.0.0.1/32 reject
       host all all 127.0.0.1/32 trust\n`,
    );
    return { ssl: 'on', ssl_ca_file: 'root.crt' };
  }

  /** Creates a database of its own for one test file; resolves with its URL. */
  async createDatabase({ schema = true, defects = false } = {}) {
    this.databases += 1;
    const name = `studio_${this.databases}`;
    const base = `postgres://postgres:postgres@127.0.0.1:${this.port}`;
    await query(`${base}/postgres`, [`CREATE DATABASE ${name}`]);
    const url = `${base}/${name}`;
    await applySchema(url, { schema, defects });
    return url;
  }

  /** Stops the clocks of the server and of all who serve its connections. */
  freeze() {
    signalAll(tree(this.pid), 'SIGSTOP');
  }

  thaw() {
    signalAll(tree(this.pid), 'SIGCONT');
  }

  /** Ends it without a word, as a crash does. Its folder stays for `restart`. */
  async kill() {
    await this.process.end('SIGKILL');
  }

  /** Ends it as an administrator would, and removes its folder unless `keep` is set (`restart` then finds its data). */
  async stop({ keep = false } = {}) {
    await this.process?.end('SIGINT');
    if (!keep && this.ownsDir && this.dir) {
      const dir = this.dir;
      this.dir = null;
      await removeFolder(dir);
    }
  }

  /** Ends it if it runs, and starts it again on the same port with the same data. */
  async restart({ settings = this.settings, ssl = this.ssl } = {}) {
    if (!this.dir) throw new Error('This Postgres was stopped for good: use stop({ keep: true }) before restart().');
    await this.process.end('SIGINT');
    Object.assign(this, { settings, ssl });
    await this.#launch();
  }
}

/** Postgres refuses to run as root: the user to be instead, or undefined where this process is no root. */
function unprivilegedUser() {
  if (process.getuid?.() !== 0) return undefined;
  for (const name of ['postgres', 'nobody']) {
    const [uid, gid] = ['-u', '-g'].map((flag) =>
      Number(spawnSync('id', [flag, name], { encoding: 'utf8' }).stdout || NaN),
    );
    if (uid > 0 && gid >= 0) return { uid, gid };
  }
  return { uid: 65534, gid: 65534 };
}

/** Applies Studio's schema, and its two known defects if asked to. */
async function applySchema(url, { schema = true, defects = false } = {}) {
  const files = [...(schema ? ['platform.sql'] : []), ...(defects ? ['studio-defects.sql'] : [])];
  await query(
    url,
    files.map((file) => readFileSync(path.join(SCHEMA, file), 'utf8')),
  );
}

/** Runs statements over a connection of its own; resolves with the rows of the last. */
async function query(url, statements) {
  const { Client } = require('pg');
  const client = new Client({ connectionString: url });
  await client.connect();
  try {
    let rows = [];
    for (const statement of statements) ({ rows } = await client.query(statement));
    return rows;
  } finally {
    await client.end();
  }
}

module.exports = { PostgresServer, applySchema, query };
