// Who is measured. Each peer opens with the URLs of both servers and answers `validate(token)` with a session of the
// shape of `SessionWithUser`, or null. `queries()` counts the queries to Postgres so far; null where the peer does not
// count, and the server's own count is taken instead.

import { createHash } from 'node:crypto';
import { createRequire } from 'node:module';
import { Redis } from 'ioredis';
import pg from 'pg';

const require = createRequire(import.meta.url);

/** Connections to Postgres of every peer; the addon's default is the same. */
const POOL_SIZE = 10;
const TTL_SECONDS = 300;

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

const hashOf = (token) => createHash('sha256').update(token).digest('hex');

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

/** No cache at all. */
function openPostgres({ databaseUrl }) {
  const rows = new Rows(databaseUrl);
  return {
    validate: (token) => rows.find(hashOf(token)),
    queries: () => rows.count,
    close: () => rows.pool.end(),
  };
}

/** The cache that one writes in an hour: read, else query and leave a copy. */
function openCacheAside({ redisUrl, databaseUrl }, options = {}) {
  const redis = new Redis(redisUrl, options);
  const rows = new Rows(databaseUrl);
  // A Redis hash has no null.
  const toHash = (session) => Object.fromEntries(Object.entries(session).filter(([, value]) => value !== null));
  const nobody = { ipAddress: null, userAgent: null, firstName: null, lastName: null, username: null };
  return {
    async validate(token) {
      const hash = hashOf(token);
      const key = `session:${hash}`;
      const copy = await redis.hgetall(key);
      if (copy.token === hash && Date.parse(copy.expiresAt) > Date.now()) return { ...nobody, ...copy };
      const session = await rows.find(hash);
      if (session) {
        const life = Math.floor((Date.parse(session.expiresAt) - Date.now()) / 1000);
        await redis.multi().hset(key, toHash(session)).expire(key, Math.min(TTL_SECONDS, life)).exec();
      }
      return session;
    },
    queries: () => rows.count,
    async close() {
      await Promise.all([redis.quit(), rows.pool.end()]);
    },
  };
}

function openAddon({ addon }, method) {
  const sessions = require(addon);
  const validate = sessions[method];
  return {
    validate,
    queries: () => (method === 'validateSession' ? null : sessions.getSessionCacheMetrics().databaseReads),
    close: () => sessions.shutdown(),
  };
}

/** `only` limits a peer to the cases that say something about it; `addon` marks those that need the addon. */
export const PEERS = {
  postgres: { title: 'Postgres by `pg`', open: openPostgres },
  'cache-aside': { title: 'cache-aside on `ioredis` + `pg`', open: openCacheAside },
  'cache-aside-auto': {
    title: 'the same with `enableAutoPipelining`',
    open: (urls) => openCacheAside(urls, { enableAutoPipelining: true }),
    only: ['warm-50', 'warm-500'],
  },
  'addon-postgres': {
    title: 'this package, `validateSession` (Postgres alone)',
    open: (urls) => openAddon(urls, 'validateSession'),
    only: ['cold-1', 'cold-50', 'cold-500'],
    addon: true,
  },
  addon: { title: '**this package**', open: (urls) => openAddon(urls, 'validateSessionWithCache'), addon: true },
};
