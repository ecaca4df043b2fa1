// The report of `GET /api/health/redis`.

import studio from '../index.js';

const { checkRedisHealth, getBreakerState, getRedisClient, getSessionCacheMetrics } = studio;

const KEY = `health-check:${process.pid}`;

/** `unhealthy`: Redis does not answer. `degraded`: sessions are validated, but not (or not yet again) from Redis. */
export async function health() {
  const redis = getRedisClient();
  const connected = await checkRedisHealth();
  const { enabled, hits, misses, errors: failed, total, hitRate, ttl } = getSessionCacheMetrics();
  const report = {
    status: 'healthy',
    timestamp: new Date().toISOString(),
    redis: { connected, version: null, uptime: null, usedMemory: null, totalKeys: null },
    sessionCache: {
      enabled,
      healthy: enabled && connected && getBreakerState().redis === 'closed',
      metrics: { hits, misses, errors: failed, total, hitRate, ttl },
      pool: redis?.getPoolStats() ?? { size: 0, available: 0, pending: 0 },
    },
    performance: { ping: null, set: null, get: null },
    errors: [],
  };
  if (!redis) report.errors.push('REDIS_URL is not set: every session is read from Postgres.');
  else if (!connected) report.errors.push('Redis does not answer: every session is read from Postgres.');
  else await measure(redis, report).catch((error) => report.errors.push(error.message));

  if (redis && !connected) report.status = 'unhealthy';
  else if (!report.sessionCache.healthy || report.errors.length > 0) report.status = 'degraded';
  return report;
}

async function measure(redis, { redis: facts, performance: times }) {
  const info = Object.fromEntries((await redis.info()).split('\r\n').map((line) => line.split(':', 2)));
  facts.version = info.redis_version;
  facts.uptime = Number(info.uptime_in_seconds);
  facts.usedMemory = info.used_memory_human;
  facts.totalKeys = await redis.dbsize();
  times.ping = await milliseconds(() => redis.ping());
  times.set = await milliseconds(() => redis.set(KEY, 'ok', 10));
  times.get = await milliseconds(() => redis.get(KEY));
}

async function milliseconds(work) {
  const began = performance.now();
  await work();
  return Number((performance.now() - began).toFixed(2));
}
