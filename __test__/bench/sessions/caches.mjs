// The peers: Postgres alone, and the caches in front of it that one would write, or take from the shelf.

import crypto from 'node:crypto';
import { BentoCache, bentostore } from 'bentocache';
import { memoryDriver } from 'bentocache/drivers/memory';
import { redisDriver } from 'bentocache/drivers/redis';
import { Redis } from 'ioredis';
import { LRUCache } from 'lru-cache';
import pg from 'pg';

/** Connections to Postgres of every peer; the addon's default is the same. */
const POOL_SIZE = 10;
const TTL_SECONDS = 300;
/** Sessions in the process, unless the case says otherwise; the addon's default is the same. */
const LOCAL_ENTRIES = 100_000;

// Named, so that each connection prepares it once: the kindest way to use `pg`, and what the addon does too.
const VALID_SESSION = {
  name: 'valid-session',
  text: `
    SELECT s.id, s.user_id, s.token, s.expires_at, s.last_activity_at, host(s.ip_address) AS ip_address, s.user_agent,
           s.created_at, u.email, u.first_name, u.last_name, u.username
    FROM platform.user_sessions s JOIN platform.users u ON u.id = s.user_id
    WHERE s.token = $1 AND s.expires_at > now() AND u.deleted_at IS NULL
      AND (u.banned_until IS NULL OR u.banned_until <= now())`,
};

// `crypto.hash` takes half the time of `createHash`; Node has it since 20.12.
const hashOf = crypto.hash
  ? (token) => crypto.hash('sha256', token, 'hex')
  : (token) => crypto.createHash('sha256').update(token).digest('hex');

class Rows {
  constructor(url) {
    this.pool = new pg.Pool({ connectionString: url, max: POOL_SIZE });
    this.count = 0;
  }

  async find(hash) {
    this.count += 1;
    const { rows } = await this.pool.query({ ...VALID_SESSION, values: [hash] });
    if (rows.length === 0) return null;
    const [row] = rows;
    return {
      id: row.id,
      userId: row.user_id,
      token: row.token,
      expiresAt: row.expires_at.toISOString(),
      lastActivityAt: row.last_activity_at.toISOString(),
      ipAddress: row.ip_address,
      userAgent: row.user_agent,
      createdAt: row.created_at.toISOString(),
      email: row.email,
      firstName: row.first_name,
      lastName: row.last_name,
      username: row.username,
    };
  }
}

/** Milliseconds that a copy of a session may live. */
const lifeOf = (session, ttlSeconds) => Math.min(ttlSeconds * 1000, Date.parse(session.expiresAt) - Date.now());

/** No cache at all. */
export function openPostgres({ databaseUrl }) {
  const rows = new Rows(databaseUrl);
  return {
    validate: (token) => rows.find(hashOf(token)),
    queries: () => rows.count,
    close: () => rows.pool.end(),
  };
}

/** The cache that one writes in an hour: read, else query and leave a copy. By the hash of the token. */
class CacheAside {
  constructor({ redisUrl, databaseUrl, ttlSeconds = TTL_SECONDS }, options = {}) {
    this.redis = new Redis(redisUrl, options);
    this.rows = new Rows(databaseUrl);
    this.ttlSeconds = ttlSeconds;
  }

  async find(hash) {
    const key = `session:${hash}`;
    const copy = await this.redis.hgetall(key);
    if (copy.token === hash && Date.parse(copy.expiresAt) > Date.now()) return { ...NOBODY, ...copy };
    const session = await this.rows.find(hash);
    if (session) {
      await this.redis.multi().hset(key, toHash(session)).pexpire(key, lifeOf(session, this.ttlSeconds)).exec();
    }
    return session;
  }

  async close() {
    await Promise.all([this.redis.quit(), this.rows.pool.end()]);
  }
}

// A Redis hash has no null.
const toHash = (session) => Object.fromEntries(Object.entries(session).filter(([, value]) => value !== null));
const NOBODY = { ipAddress: null, userAgent: null, firstName: null, lastName: null, username: null };

export function openCacheAside(cell, options) {
  const cache = new CacheAside(cell, options);
  return {
    validate: (token) => cache.find(hashOf(token)),
    queries: () => cache.rows.count,
    close: () => cache.close(),
  };
}

/** The same behind a map in the process, which hears of nothing that others do. */
export function openLru(cell) {
  const { many = LOCAL_ENTRIES, ttlSeconds = TTL_SECONDS } = cell;
  const cache = new CacheAside(cell);
  const local = new LRUCache({ max: Math.max(LOCAL_ENTRIES, Math.ceil(many * 1.1)) });
  const keep = (hash, session) => local.set(hash, session, { ttl: lifeOf(session, ttlSeconds) });
  return {
    async validate(token) {
      const hash = hashOf(token);
      const here = local.get(hash);
      if (here !== undefined) return here;
      const session = await cache.find(hash);
      if (session) keep(hash, session);
      return session;
    },
    preload: (session) => keep(session.token, session),
    queries: () => cache.rows.count,
    close: () => cache.close(),
  };
}

/**
 * Memory and Redis by its own drivers, each kind as its documentation has it; in memory it keeps objects, not text, which is faster.
 * It has no bus: the processes do not hear of one another.
 */
export function openBentocache(cell) {
  const { redisUrl, databaseUrl, local, many = LOCAL_ENTRIES, ttlSeconds = TTL_SECONDS } = cell;
  const rows = new Rows(databaseUrl);
  const redis = new Redis(redisUrl);
  const store = bentostore();
  if (local) store.useL1Layer(memoryDriver({ maxItems: Math.max(LOCAL_ENTRIES, Math.ceil(many * 1.1)), serialize: false }));
  store.useL2Layer(redisDriver({ connection: redis }));
  const cache = new BentoCache({ default: 'sessions', ttl: ttlSeconds * 1000, stores: { sessions: store } });
  return {
    validate(token) {
      const hash = hashOf(token);
      return cache.getOrSet({ key: hash, factory: () => rows.find(hash) });
    },
    preload: (session) => cache.set({ key: session.token, value: session, skipL2Write: true }),
    queries: () => rows.count,
    async close() {
      await Promise.all([cache.disconnectAll(), rows.pool.end()]);
    },
  };
}
