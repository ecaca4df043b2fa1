// Who is measured. Each peer opens with its cell, which has the URLs of both servers, and answers `validate(token)` with a
// session of the shape of `SessionWithUser`, or null. `queries()` counts the queries to Postgres so far; null where the
// peer does not count, and the server's own count is taken instead.

import { createRequire } from 'node:module';
import { CASES } from './cases.mjs';
import { openBentocache, openCacheAside, openLru, openPostgres } from './caches.mjs';

const require = createRequire(import.meta.url);

function openAddon({ addon }, method) {
  const sessions = require(addon);
  const metrics = () => sessions.getSessionCacheMetrics();
  return {
    validate: sessions[method],
    revokeAll: sessions.revokeAllUserSessionsWithCache,
    queries: () => (method === 'validateSession' ? null : metrics().databaseReads),
    localHits: () => metrics().localHits,
    localEntries: () => metrics().localEntries ?? 0,
    close: () => sessions.shutdown(),
  };
}

/** What its Redis client takes for a GET of as much text, without a session cache. */
function openGet({ addon, redisUrl }) {
  const { createRedisClient, validateSession, shutdown } = require(addon);
  const client = createRedisClient('bench', { connectionString: redisUrl });
  const keyOf = ({ hash }) => `bare:${hash}`;
  let asked = 0;
  return {
    async leave(sessions) {
      for (const each of sessions) await client.set(keyOf(each), JSON.stringify(await validateSession(each.token)));
      asked += sessions.length;
    },
    call: (session) => client.get(keyOf(session)),
    right: (text, { hash }) => text?.includes(hash),
    queries: () => asked,
    close: () => shutdown(),
  };
}

const casesOf = (...names) => CASES.filter(({ id, set }) => names.includes(id) || names.includes(set)).map(({ id }) => id);

/** `only` limits a peer to the cases that say something about it; `addon` marks those that need the addon. */
export const PEERS = {
  postgres: { title: 'Postgres by `pg`', open: openPostgres, only: casesOf('redis', 'cold', 'one-token') },
  'cache-aside': {
    title: 'cache-aside on `ioredis` + `pg`',
    open: openCacheAside,
    only: casesOf('redis', 'cold', 'one-token', 'steady'),
  },
  'cache-aside-auto': {
    title: 'the same with `enableAutoPipelining`',
    open: (cell) => openCacheAside(cell, { enableAutoPipelining: true }),
    only: casesOf('redis-50', 'redis-500'),
  },
  lru: {
    title: '`lru-cache` by SHA-256, in front of `ioredis` + `pg`',
    open: openLru,
    only: casesOf('hot', 'cold', 'million'),
  },
  bentocache: {
    title: '`bentocache` on `ioredis`, in front of `pg`',
    open: openBentocache,
    only: casesOf('hot', 'redis', 'cold', 'one-token', 'million'),
  },
  'addon-postgres': {
    title: 'this package, `validateSession` (Postgres alone)',
    open: (cell) => openAddon(cell, 'validateSession'),
    only: casesOf('cold'),
    addon: true,
  },
  'addon-get': {
    title: "this package's Redis client, a bare GET",
    open: openGet,
    only: casesOf('redis-1'),
    addon: true,
  },
  addon: { title: '**this package**', open: (cell) => openAddon(cell, 'validateSessionWithCache'), addon: true },
};
