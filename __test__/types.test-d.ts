// Compiled with `tsc --strict`, never run: what the declarations accept, and what they refuse.

import * as addon from '../index.js';
import type {
  BreakerState, LogLine, PoolStats, RedisClientWrapper, RedisNativeError, Session, SessionCacheMetrics, SessionCacheOptions, SessionWithUser,
  UserSessionStats, WarmingOptions, WarmingProgress, WarmingResult,
} from '../index.js';

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
const same = <A, B>(_: Same<A, B>): void => {};

same<ReturnType<typeof addon.validateSessionWithCache>, Promise<SessionWithUser | null>>(true);
same<ReturnType<typeof addon.validateSession>, Promise<SessionWithUser | null>>(true);
same<ReturnType<typeof addon.revokeSessionWithCache>, Promise<boolean>>(true);
same<ReturnType<typeof addon.revokeSessionByToken>, Promise<boolean>>(true);
same<ReturnType<typeof addon.revokeAllUserSessionsWithCache>, Promise<number>>(true);
same<ReturnType<typeof addon.revokeOtherSessions>, Promise<number>>(true);
same<Parameters<typeof addon.rotateSession>, [token: string, newToken: string, expiresAt: Date]>(true);
same<ReturnType<typeof addon.rotateSession>, Promise<boolean>>(true);
same<ReturnType<typeof addon.invalidateSessionCache>, Promise<void>>(true);
same<ReturnType<typeof addon.invalidateUserSessions>, Promise<number>>(true);
same<Parameters<typeof addon.getUserSessions>, [userId: string]>(true);
same<ReturnType<typeof addon.getUserSessions>, Promise<Session[]>>(true);
same<ReturnType<typeof addon.getUserSessionStats>, Promise<UserSessionStats>>(true);
same<UserSessionStats, { totalActive: number; oldestSession: string | null; newestSession: string | null; devicesCount: number }>(true);
same<ReturnType<typeof addon.cleanupExpiredSessions>, Promise<number>>(true);
same<Parameters<typeof addon.cleanupExpiredSessions>, []>(true);
same<Parameters<typeof addon.cleanupInactiveSessions>, [days?: number | undefined]>(true);
same<ReturnType<typeof addon.cleanupInactiveSessions>, Promise<number>>(true);
same<Parameters<typeof addon.warmSessionCache>, [options?: WarmingOptions | undefined]>(true);
same<ReturnType<typeof addon.warmSessionCache>, Promise<WarmingResult>>(true);
same<WarmingResult['status'], 'completed' | 'stopped' | 'failed'>(true);
same<keyof WarmingResult, 'success' | 'total' | 'warmed' | 'failed' | 'durationMs' | 'status'>(true);
same<keyof WarmingProgress, 'total' | 'warmed' | 'failed'>(true);
same<ReturnType<typeof addon.installTriggers>, Promise<string>>(true);
same<ReturnType<typeof addon.uninstallTriggers>, Promise<string>>(true);
same<ReturnType<typeof addon.sessionCacheHealthCheck>, Promise<boolean>>(true);
same<ReturnType<typeof addon.getSessionCachePoolStats>, PoolStats | null>(true);
same<ReturnType<typeof addon.getSessionCacheMetrics>, SessionCacheMetrics>(true);
same<SessionCacheMetrics['localEntries'], number>(true);
same<
  keyof SessionCacheMetrics['notBelieved'],
  'otherLife' | 'ended' | 'otherVersion' | 'olderThanNews' | 'unsealed' | 'unreadable' | 'overtaken'
>(true);
same<SessionCacheMetrics['invalidationsBy'], { calls: number; redis: number; postgres: number }>(true);
same<keyof SessionCacheOptions, 'enabled' | 'ttlSeconds' | 'localEnabled'>(true);
same<typeof addon.sessionCache.validateSession, typeof addon.validateSessionWithCache>(true);
same<typeof addon.sessionCache.revokeSession, typeof addon.revokeSessionWithCache>(true);
same<typeof addon.sessionCache.getPoolStats, typeof addon.getSessionCachePoolStats>(true);
same<typeof addon.sessionCache.warmSession, (token: string) => Promise<boolean>>(true);
same<typeof addon.sessionCache.close, typeof addon.shutdown>(true);
same<
  keyof typeof addon.sessionCache,
  | 'validateSession'
  | 'revokeSession'
  | 'revokeAllUserSessions'
  | 'invalidateSession'
  | 'invalidateUserSessions'
  | 'warmSession'
  | 'getMetrics'
  | 'resetMetrics'
  | 'healthCheck'
  | 'getPoolStats'
  | 'close'
>(true);
same<ReturnType<typeof addon.getRedisClient>, RedisClientWrapper | null>(true);
same<ReturnType<typeof addon.checkRedisHealth>, Promise<boolean>>(true);
same<ReturnType<typeof addon.getBreakerState>, { redis: BreakerState; postgres: BreakerState }>(true);
same<BreakerState, 'closed' | 'half-open' | 'open'>(true);
same<SessionWithUser['ipAddress'], string | undefined>(true);
same<SessionWithUser['username'], string | null>(true);
// @ts-expect-error The proof that `same` can tell.
same<SessionWithUser, Session>(true);

export async function use(token: string): Promise<string> {
  const session = await addon.validateSessionWithCache(token);
  // @ts-expect-error It may be nobody.
  session.id;
  if (session === null) return 'nobody';
  // @ts-expect-error It is frozen.
  session.userId = token;
  const texts: string[] = [session.id, session.userId, session.token, session.expiresAt, session.lastActivityAt, session.createdAt, session.email];
  // @ts-expect-error It may be absent.
  texts.push(session.userAgent);
  await addon.revokeSessionWithCache(session.id);
  await addon.revokeSessionWithCache(session.id, token);
  await addon.rotateSession(token, 'new', new Date(session.expiresAt));
  await addon.shutdown();
  await addon.shutdown(100);
  return texts.join();
}

export async function redis(client: RedisClientWrapper): Promise<void> {
  const stats: PoolStats = client.getPoolStats();
  const numbers: number[] = [stats.size, stats.available, stats.pending, await client.del('a', 'b'), await client.dbsize()];
  const texts: (string | null)[] = [await client.get('a'), await client.set('a', 'b', 5), await client.ping(), await client.info('server')];
  console.log(numbers, texts, await client.healthCheck());
}

export async function keep(userId: string, signal: AbortSignal): Promise<string[]> {
  const [session] = await addon.getUserSessions(userId);
  // @ts-expect-error It has nothing of its user.
  session?.email;
  const { oldestSession } = await addon.getUserSessionStats(userId);
  // @ts-expect-error There may be none.
  oldestSession.length;
  const numbers: number[] = [await addon.cleanupExpiredSessions(), await addon.cleanupInactiveSessions(), await addon.cleanupInactiveSessions(7)];
  const warmed = await addon.warmSessionCache({ limit: 10, recentHours: 1, signal, onProgress: ({ total, warmed, failed }) => numbers.push(total, warmed, failed) });
  await addon.warmSessionCache();
  await addon.warmSessionCache({});
  const texts: string[] = [warmed.status, await addon.installTriggers(), await addon.uninstallTriggers({ dryRun: true }), await addon.installTriggers({})];
  return [...texts, ...numbers.map(String)];
}

addon.configureSessionCache({});
addon.configureSessionCache({ enabled: false, ttlSeconds: 60, localEnabled: true });
addon.setLogHandler(null);
addon.setLogHandler((line: LogLine) => console.log(line.level, line.message?.length, line['server']));

export function codeOf(error: RedisNativeError): 'later' | 'wrong' {
  const wait: number | undefined = error.retryAfterMs;
  return error.code === 'ERR_CIRCUIT_OPEN' && wait !== undefined ? 'later' : 'wrong';
}

// @ts-expect-error A token is a string.
addon.validateSessionWithCache(undefined);
// @ts-expect-error A token is a string.
addon.validateSession(1);
// @ts-expect-error The user is needed.
addon.revokeOtherSessions('id');
// @ts-expect-error A time is a Date.
addon.rotateSession('old', 'new', '2099-01-01');
// @ts-expect-error The name is misspelled.
addon.configureSessionCache({ enable: false });
// @ts-expect-error Seconds are a number.
addon.configureSessionCache({ ttlSeconds: '60' });
// @ts-expect-error The options are needed.
addon.configureSessionCache();
// @ts-expect-error The user is needed.
addon.getUserSessions();
// @ts-expect-error Days are a number.
addon.cleanupInactiveSessions('30');
// @ts-expect-error The name is misspelled.
addon.warmSessionCache({ hours: 24 });
// @ts-expect-error A controller is no signal.
addon.warmSessionCache({ signal: new AbortController() });
// @ts-expect-error A handler is a function.
addon.warmSessionCache({ onProgress: 'log' });
// @ts-expect-error The name is misspelled.
addon.installTriggers({ dry: true });
// @ts-expect-error A switch is a boolean.
addon.uninstallTriggers({ dryRun: 1 });
// @ts-expect-error Nothing of it can be replaced.
addon.sessionCache.validateSession = addon.validateSession;
// @ts-expect-error A session is not believed from the caller.
addon.sessionCache.warmSession('token', {});
// @ts-expect-error There may be no Redis.
addon.getSessionCachePoolStats().size;
// @ts-expect-error A handler is a function or null.
addon.setLogHandler();
// @ts-expect-error The client may be null.
addon.getRedisClient().ping();
// @ts-expect-error There is no such code.
export const code: RedisNativeError['code'] = 'ERR_OTHER';
