import type { NextApiRequest, NextApiResponse } from 'next';
import { checkRedisHealth, getBreakerState, getRedisClient, getSessionCacheMetrics } from '@studio/redis-native';
import { release } from '../../../lib/release';

/** `degraded`: everything is answered, but by Postgres and by the process alone. */
export default async function health(request: NextApiRequest, response: NextApiResponse) {
  const connected = await checkRedisHealth();
  const status = connected && getBreakerState().redis === 'closed' ? 'healthy' : 'degraded';
  response.status(status === 'healthy' ? 200 : 503).json({
    status,
    pid: process.pid,
    release,
    breakers: getBreakerState(),
    pool: getRedisClient()?.getPoolStats() ?? null,
    sessions: getSessionCacheMetrics(),
  });
}
