// Compiled with `tsc --strict`, never run: what the declarations accept, and what they refuse.

import * as addon from '../index.js';
import type {
  BreakerState, LogLine, OnOutage, PoolStats, RateLimit, RateLimitAlgorithm, RateLimitCheckOptions, RateLimitedError, RateLimitedRequest, RateLimitedResponse, RateLimiter,
  RateLimiterConfig, RateLimitInfo, RateLimitMetrics, RateLimitResult, RateLimitStore, RateLimitStoreOptions, RedisClientWrapper, RedisNativeError,
  Session, SessionCacheMetrics, SessionCacheOptions, SessionWithUser, UserSessionStats, WarmingOptions, WarmingProgress, WarmingResult,
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
same<RateLimitAlgorithm, 'sliding-window' | 'token-bucket' | 'fixed-window'>(true);
same<OnOutage, 'local' | 'allow' | 'deny'>(true);
same<
  Parameters<typeof addon.checkLimit>,
  [key: string, limit: number, windowSeconds: number, options?: RateLimitCheckOptions | undefined]
>(true);
same<ReturnType<typeof addon.checkLimit>, Promise<RateLimitResult>>(true);
same<keyof RateLimitCheckOptions, 'algorithm' | 'cost' | 'onOutage' | 'shadow' | 'name'>(true);
same<RateLimitResult, { readonly allowed: boolean; readonly info: RateLimitInfo }>(true);
same<keyof RateLimitInfo, 'limit' | 'remaining' | 'reset' | 'retryAfter'>(true);
same<RateLimitInfo['retryAfter'], number | undefined>(true);
same<keyof RateLimitStore, 'checkLimit' | 'peek' | 'refund' | 'get' | 'clear'>(true);
same<ReturnType<RateLimitStore['get']>, Promise<RateLimitInfo | null>>(true);
same<ReturnType<RateLimitStore['refund']>, Promise<void>>(true);
same<Parameters<RateLimitStore['clear']>, [key?: string | undefined]>(true);
same<keyof RateLimitStoreOptions, 'name' | 'onOutage' | 'shadow'>(true);
same<ReturnType<typeof addon.getRateLimitStore>, addon.RedisRateLimitStore>(true);
same<ReturnType<typeof addon.clearRateLimits>, Promise<void>>(true);
same<keyof typeof addon.RATE_LIMITS, 'free' | 'pro' | 'enterprise'>(true);
same<keyof RateLimiterConfig, 'requests' | 'window' | 'name' | 'algorithm' | 'onOutage' | 'shadow' | 'error'>(true);
same<ReturnType<typeof addon.createRateLimiter>, RateLimiter>(true);
same<typeof addon.strictRateLimiter, RateLimiter>(true);
same<typeof addon.generousRateLimiter, RateLimiter>(true);
same<ReturnType<RateLimiter>, Promise<void>>(true);
same<Parameters<typeof addon.rateLimitMiddleware>[3], RateLimit | undefined>(true);
same<RateLimitedError['code'], 'ERR_RATE_LIMITED'>(true);
same<RateLimitedError['statusCode'], 429>(true);
same<RateLimitedError['retryAfter'], number>(true);
same<Parameters<typeof addon.checkRateLimit>, [identifier: string, maxAttempts?: number | undefined, windowMs?: number | undefined]>(true);
same<ReturnType<typeof addon.checkRateLimit>, Promise<boolean>>(true);
same<ReturnType<typeof addon.clearRateLimit>, Promise<void>>(true);
same<ReturnType<typeof addon.getRateLimitMetrics>, Record<string, RateLimitMetrics>>(true);
same<keyof RateLimitMetrics, 'allowed' | 'denied' | 'shadowDenied' | 'answeredLocally' | 'answeredInOutage'>(true);
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

/** Studio's own class for what a limiter throws. */
class TooManyRequests extends Error {
  constructor(readonly info: RateLimitInfo) {
    super('Slow down');
  }
}

export async function limit(req: RateLimitedRequest, res: RateLimitedResponse, next: () => Promise<void>): Promise<(number | boolean)[]> {
  const { allowed, info } = await addon.checkLimit('key', 10, 0.5, { algorithm: 'token-bucket', cost: 2, onOutage: 'deny', shadow: true, name: 'a' });
  // @ts-expect-error There is one only if it was denied.
  info.retryAfter.toFixed();
  // @ts-expect-error It may be somebody else's, too.
  info.remaining = 5;
  const stores: RateLimitStore[] = [
    new addon.RedisRateLimitStore(),
    new addon.RedisRateLimitStore({ algorithm: 'fixed-window', name: 'a', onOutage: 'deny', shadow: true }),
    new addon.RedisTokenBucketStore({ name: 'a', onOutage: 'allow' }),
    new addon.InMemoryRateLimitStore({ name: 'a', algorithm: 'fixed-window', shadow: true }),
    addon.getRateLimitStore(),
  ];
  for (const store of stores) {
    await store.peek('key', 10, 60, { cost: 2 });
    await store.refund('key', 10, 60);
    await store.clear('key');
    await store.clear();
  }
  await addon.rateLimitMiddleware(req, res, next);
  await addon.rateLimitMiddleware(req, res, next, addon.RATE_LIMITS.pro);
  await addon.strictRateLimiter({ headers: {}, user: null }, res, () => 5);
  const limiter = addon.createRateLimiter({ requests: 5, window: 60, error: (info) => new TooManyRequests(info) });
  await limiter({ headers: { 'x-forwarded-for': ['a'] }, socket: null, user: { sub: 'a', user_metadata: { tier: 'pro' } } }, { setHeader: () => res }, next);
  const over: boolean = await addon.checkRateLimit('who', 5, 900_000);
  await addon.clearRateLimit('who');
  return [allowed, over, info.limit, addon.getRateLimitMetrics()['default']?.answeredLocally ?? 0];
}

export function secondsOf(error: RedisNativeError | RateLimitedError): number {
  return 'statusCode' in error ? error.retryAfter : 0;
}

export const request: RateLimitedRequest = { headers: { host: undefined, 'x-forwarded-for': ['a', 'b'] } };

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
// @ts-expect-error The window is needed.
addon.checkLimit('key', 10);
// @ts-expect-error There is no such algorithm.
addon.checkLimit('key', 10, 60, { algorithm: 'leaky-bucket' });
// @ts-expect-error The name is misspelled.
addon.checkLimit('key', 10, 60, { costs: 2 });
// @ts-expect-error There is no such thing to do.
addon.checkLimit('key', 10, 60, { onOutage: 'reject' });
// @ts-expect-error A store of buckets has its algorithm.
new addon.RedisTokenBucketStore({ algorithm: 'fixed-window' });
// @ts-expect-error The process has no outage.
new addon.InMemoryRateLimitStore({ onOutage: 'deny' });
// @ts-expect-error A cost is all that a check of a store can have.
addon.getRateLimitStore().checkLimit('key', 10, 60, { name: 'a' });
// @ts-expect-error There may be nothing.
addon.getRateLimitStore().get('key').then((info) => info.limit);
// @ts-expect-error The window is needed.
addon.createRateLimiter({ requests: 5 });
// @ts-expect-error What is thrown is an Error.
addon.createRateLimiter({ requests: 5, window: 60, error: () => 'slow down' });
// @ts-expect-error Nobody gets another limit by writing it there.
addon.RATE_LIMITS.free.requests = 1000;
// @ts-expect-error It goes on by calling something.
addon.strictRateLimiter({ headers: {} }, { setHeader: () => {} });
// @ts-expect-error Without `await` everybody would be over the limit.
if (addon.checkRateLimit('who')) throw new Error('over the limit');
// @ts-expect-error There is no such code.
export const code: RedisNativeError['code'] = 'ERR_OTHER';
