// Compiled, never run: a program that uses the types of the package as Studio does.

import {
  configureSessionCache,
  getBreakerState,
  getRedisClient,
  getSessionCacheMetrics,
  invalidateSessionCache,
  invalidateUserSessions,
  resetSessionCacheMetrics,
  revokeAllUserSessionsWithCache,
  revokeOtherSessions,
  revokeSessionByToken,
  revokeSessionWithCache,
  rotateSession,
  setLogHandler,
  shutdown,
  validateSession,
  validateSessionWithCache,
} from '@studio/redis-native';
import type { Session, SessionWithUser } from '@studio/redis-native';

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
