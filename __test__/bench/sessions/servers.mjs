// The servers of a benchmark: always its own, because it empties Redis again and again.

import pg from 'pg';
import database from '../../helpers/database.js';
import { PostgresServer, RedisServer, ensureInstalled } from '../../../scripts/services.mjs';
import { REVOKED_USERS, SESSIONS_A_USER } from './cases.mjs';
import { insert } from './numbered.mjs';

const MANY = 'many';

/** Counts statements that update sessions, whoever makes them and whether or not a row is updated. */
const COUNT_UPDATES = `
  CREATE SEQUENCE public.bench_updates;
  CREATE FUNCTION public.bench_count_update() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM nextval('public.bench_updates'); RETURN NULL; END $$;
  CREATE TRIGGER bench_count_update AFTER UPDATE ON platform.user_sessions
    FOR EACH STATEMENT EXECUTE FUNCTION public.bench_count_update()`;

export class Servers {
  static async start({ sessions, many }) {
    if (!(await ensureInstalled()).redisServer) throw new Error('The benchmark needs a redis-server on this machine.');
    const servers = new Servers();
    [servers.redis, servers.postgres] = await Promise.all([RedisServer.start(), PostgresServer.start()]);
    servers.databaseUrl = servers.postgres.url;
    servers.databaseName = new URL(servers.databaseUrl).pathname.slice(1);
    // In a database of its own, so that the books of the measured one show the peers alone.
    const elsewhere = new URL(servers.databaseUrl);
    elsewhere.pathname = '/postgres';
    servers.books = new pg.Client({ connectionString: elsewhere.href });
    await servers.books.connect();
    const seeding = new database.Database(servers.databaseUrl);
    servers.sessions = (await seeding.createSessions(sessions, { expiresInSeconds: 86_400 })).map(({ token, hash }) => ({ token, hash }));
    await seeding.query(COUNT_UPDATES);
    // Statistics for the planner, and no first reader has to set the rows' hint bits.
    await seeding.query('VACUUM ANALYZE');
    await seeding.end();
    /** The largest difference between what a peer counted and what Postgres did, over a process's life. */
    servers.uncounted = 0;
    servers.many = many;
    servers.manyInserted = false;
    return servers;
  }

  get environment() {
    return { REDIS_URL: this.redis.url, DATABASE_URL: this.databaseUrl };
  }

  get forCells() {
    return { redisUrl: this.redis.url, databaseUrl: this.databaseUrl, sessions: this.sessions };
  }

  /** Runs a cell on an empty Redis, and compares its count of queries with the server's own. */
  async around(measureCell, cell) {
    await this.redis.cli('FLUSHDB');
    const more = await this.#sessionsFor(cell);
    const updatesBefore = await this.#updates();
    const before = await this.#transactions();
    const { life, ...result } = await measureCell(more);
    const transactions = (await this.#transactions()) - before;
    if (life?.queries === null) result.queries = transactions / life.calls;
    else if (life) this.uncounted = Math.max(this.uncounted, Math.abs(transactions - life.queries));
    if (cell.set === 'steady') result.updates = (((await this.#updates()) - updatesBefore) / life.calls) * 1000;
    return result;
  }

  /** Sessions by number, for the cases that want more than all the others, or end them. */
  async #sessionsFor({ set, id, peer, round }) {
    if (set !== 'million' && set !== 'revoke') return {};
    if (!this.manyInserted) {
      const began = performance.now();
      await insert(this.databaseUrl, { series: MANY, users: this.many });
      console.log(`${this.many.toLocaleString('en-US')} sessions inserted in ${Math.round((performance.now() - began) / 1000)} s.`);
      this.manyInserted = true;
    }
    if (set === 'million') return { series: MANY };
    const revoked = `${id}-${peer}-${round}`;
    await insert(this.databaseUrl, { series: revoked, users: REVOKED_USERS, sessionsEach: SESSIONS_A_USER });
    return { series: MANY, revoked };
  }

  /** Through a connection of its own that ends, as `#transactions` wants. */
  async #updates() {
    const client = new pg.Client({ connectionString: this.databaseUrl });
    await client.connect();
    try {
      const { rows } = await client.query('SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS count FROM public.bench_updates');
      return Number(rows[0].count);
    } finally {
      await client.end();
    }
  }

  /**
   * Transactions in the measured database so far, by Postgres's own books. A connection enters its last ones when it
   * ends, so this waits until there is none.
   */
  async #transactions() {
    for (let attempt = 0; attempt < 200; attempt += 1) {
      const [{ open }] = await this.#ask(
        "SELECT count(*)::int AS open FROM pg_stat_activity WHERE datname = $1 AND backend_type = 'client backend'",
        [this.databaseName],
      );
      if (open === 0) {
        const [{ total }] = await this.#ask(
          'SELECT xact_commit + xact_rollback AS total FROM pg_stat_database WHERE datname = $1',
          [this.databaseName],
        );
        return Number(total);
      }
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
    throw new Error('A process left connections to Postgres behind.');
  }

  async #ask(text, values) {
    return (await this.books.query(text, values)).rows;
  }

  async versions() {
    const [{ server_version: postgres }] = await this.#ask('SHOW server_version');
    const info = await this.redis.cli('INFO', 'server');
    return [`Redis ${/redis_version:(\S+)/.exec(info)?.[1] ?? '?'}`, `Postgres ${postgres.split(' ')[0]}`];
  }

  async stop() {
    await this.books?.end();
    await Promise.all([this.redis?.stop(), this.postgres?.stop()]);
  }
}
