// Compiled, never run: a program that uses the types of the package as Studio does.

import {
  cleanupExpiredSessions,
  cleanupInactiveSessions,
  configureSessionCache,
  getBreakerState,
  getRedisClient,
  getSessionCacheMetrics,
  getSessionCachePoolStats,
  getUserSessions,
  getUserSessionStats,
  installTriggers,
  invalidateSessionCache,
  invalidateUserSessions,
  resetSessionCacheMetrics,
  revokeAllUserSessionsWithCache,
  revokeOtherSessions,
  revokeSessionByToken,
  revokeSessionWithCache,
  rotateSession,
  sessionCache,
  sessionCacheHealthCheck,
  setLogHandler,
  shutdown,
  uninstallTriggers,
  validateSession,
  validateSessionWithCache,
  warmSessionCache,
} from '@studio/redis-native';
import type { Session, SessionWithUser, UserSessionStats, WarmingResult } from '@studio/redis-native';

/** What runs at the start and at night. */
export async function upkeep(userId: string, token: string, signal: AbortSignal): Promise<string> {
  const sql: string = await installTriggers({ dryRun: true });
  const result: WarmingResult = await warmSessionCache({ limit: 5000, recentHours: 12, signal, onProgress: ({ warmed, total }) => console.log(warmed, total) });
  const warmed: boolean = await sessionCache.warmSession(token);
  const sessions: Session[] = await getUserSessions(userId);
  const stats: UserSessionStats = await getUserSessionStats(userId);
  const deleted: number = (await cleanupExpiredSessions()) + (await cleanupInactiveSessions(90));
  const healthy: boolean = (await sessionCacheHealthCheck()) && (getSessionCachePoolStats()?.size ?? 0) > 0;
  const found: SessionWithUser | null = await sessionCache.validateSession(token);
  await uninstallTriggers();
  await sessionCache.close();
  return [sql, result.status, warmed, sessions.length, stats.oldestSession, deleted, healthy, found?.email].join();
}

export async function use(token: string): Promise<string> {
  const found: SessionWithUser | null = await validateSessionWithCache(token);
  const direct: SessionWithUser | null = await validateSession(token);
  if (found === null || direct === null) return 'nobody';
  const session: Session = found;
  const name: string | null = found.firstName ?? found.lastName ?? found.username;
  const where: string | undefined = session.ipAddress ?? session.userAgent;

  const revoked: boolean = await revokeSessionWithCache(session.id);
  const again: boolean = await revokeSessionWithCache(session.id, token);
  const byToken: boolean = await revokeSessionByToken(token);
  const all: number = await revokeAllUserSessionsWithCache(session.userId);
  const others: number = await revokeOtherSessions(session.userId, session.id);
  const rotated: boolean = await rotateSession(token, `${token}2`, new Date(session.expiresAt));
  await invalidateSessionCache(token);
  const forgotten: number = await invalidateUserSessions(session.userId);

  configureSessionCache({ enabled: true, ttlSeconds: 60 });
  const { enabled, hits, hitRate, databaseReads } = getSessionCacheMetrics();
  const counts: [boolean, number, number, number] = [enabled, hits, hitRate, databaseReads];
  resetSessionCacheMetrics();
  const { redis, postgres } = getBreakerState();
  const open: boolean = redis === 'open' || postgres === 'half-open';
  setLogHandler((entry) => void entry);
  setLogHandler(null);
  const client = getRedisClient();
  const pong: unknown = await client?.ping();
  await shutdown();
  await shutdown(1000);

  // @ts-expect-error: a token is a string
  await validateSessionWithCache(1);
  // @ts-expect-error: there is no such option
  configureSessionCache({ ttl: 60 });

  return [
    found.email,
    name,
    where,
    revoked,
    again,
    byToken,
    all,
    others,
    rotated,
    forgotten,
    counts,
    open,
    pong,
  ].join();
}
