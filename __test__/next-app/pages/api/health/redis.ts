import type { NextApiRequest, NextApiResponse } from 'next';
import { checkRedisHealth, getBreakerState, getRedisClient, getSessionCacheMetrics } from '@studio/redis-native';
import { release } from '../../../lib/release';

/**
 * `degraded`: everything is answered, but by Postgres and by the process alone. That is no reason to take the server out of
 * service; that Postgres does not answer is.
 */
export default async function health(request: NextApiRequest, response: NextApiResponse) {
  const connected = await checkRedisHealth();
  const breakers = getBreakerState();
  const healthy = connected && breakers.redis === 'closed';
  const status = breakers.postgres !== 'closed' ? 'unhealthy' : healthy ? 'healthy' : 'degraded';
  response.status(status === 'unhealthy' ? 503 : 200).json({
    status,
    pid: process.pid,
    release,
    breakers,
    pool: getRedisClient()?.getPoolStats() ?? null,
    sessions: getSessionCacheMetrics(),
  });
}
