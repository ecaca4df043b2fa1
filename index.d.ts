/**
 * Sessions, rate limits and Redis for Studio, inside its Node.js process.
 *
 * One engine serves the whole process, however often this module is loaded. It opens at the first call that needs it,
 * from `process.env` as that call's module sees it; loading starts nothing. Pending promises keep the process alive,
 * nothing else does.
 *
 * Loading throws where there is no binary: `MODULE_NOT_FOUND` if the package of the platform is not installed,
 * `ERR_DLOPEN_FAILED` if the system refuses it. The message names the platform, the package and the usual causes.
 *
 * Every error is an `Error` with a stable `code`, see {@link RedisNativeError}; misuse is a `TypeError` or a
 * `RangeError`. Functions that return a promise never throw, they reject.
 */

/** What can be wrong. Messages are for people and may change; codes do not. */
export type RedisNativeErrorCode =
  /** A wrong type, range, empty or oversized argument. */
  | 'ERR_INVALID_ARG'
  /** A bad URL, option or environment variable; the message says which. */
  | 'ERR_INVALID_CONFIG'
  /** `DATABASE_URL` or `REDIS_URL` is needed and not set. */
  | 'ERR_NOT_CONFIGURED'
  /** Too many recent calls failed, so the server was not asked; see `retryAfterMs`. */
  | 'ERR_CIRCUIT_OPEN'
  /** No answer within the deadline. */
  | 'ERR_TIMEOUT'
  /** Too many calls wait for an answer already. */
  | 'ERR_OVERLOADED'
  /** The connection was lost or refused. */
  | 'ERR_CONNECTION'
  /** The server answered with an error; see `reply`. */
  | 'ERR_REPLY'
  /** This client was closed. */
  | 'ERR_CLOSED'
  /** Neither cache nor Postgres could answer. It never means "not logged in"; see `cause`. */
  | 'ERR_SESSION_STORE'
  /** Too many requests; see {@link RateLimitedError}. */
  | 'ERR_RATE_LIMITED'
  /** A bug in this package. */
  | 'ERR_INTERNAL';

/** The shape of every error of this package. */
export interface RedisNativeError extends Error {
  readonly code: RedisNativeErrorCode;
  /** With `ERR_CIRCUIT_OPEN`: milliseconds until the server is asked again. */
  readonly retryAfterMs?: number;
  /** With `ERR_REPLY`: the first word of the server's error, such as `WRONGTYPE`. */
  readonly reply?: string;
  /** With `ERR_SESSION_STORE`: the error of the store that was asked last, if one was asked. */
  readonly cause?: RedisNativeError;
}

/** A session. Times are ISO 8601 with milliseconds and `Z`. */
export interface Session {
  /** UUID. */
  readonly id: string;
  /** UUID. */
  readonly userId: string;
  /** SHA-256 of the bearer token, 64 lower-case hex digits, as stored. */
  readonly token: string;
  readonly expiresAt: string;
  readonly lastActivityAt: string;
  readonly ipAddress?: string;
  readonly userAgent?: string;
  readonly createdAt: string;
}

/** A session and its user. The object is frozen, and may be given to several callers. */
export interface SessionWithUser extends Session {
  readonly email: string;
  readonly firstName: string | null;
  readonly lastName: string | null;
  readonly username: string | null;
}

/**
 * Who a bearer token belongs to, from the cache or from Postgres; `null` is nobody.
 *
 * Valid: not expired, and a user who is neither deleted nor banned, by the database's clock. An empty token, or one of
 * more than 4096 bytes, is nobody's. Redis gets 250 ms, then Postgres is asked. Concurrent calls for one token cost one
 * query.
 *
 * Rejects with `ERR_SESSION_STORE` if neither could answer.
 */
export function validateSessionWithCache(token: string): Promise<SessionWithUser | null>;

/** Like {@link validateSessionWithCache}, from Postgres alone: nothing is read from the cache or left in it. */
export function validateSession(token: string): Promise<SessionWithUser | null>;

/**
 * Ends a session; `false` if there is none with this id. An id that is no UUID is nobody's.
 *
 * Once it resolves, no later {@link validateSessionWithCache} of this process returns the session. The token is not
 * needed; given, its copies are forgotten even where Postgres is away.
 *
 * Rejects with `ERR_SESSION_STORE` if it is not known to have happened; it can be repeated.
 */
export function revokeSessionWithCache(sessionId: string, token?: string | null): Promise<boolean>;

/** Ends the session of a token; otherwise like {@link revokeSessionWithCache}. */
export function revokeSessionByToken(token: string): Promise<boolean>;

/** Ends all sessions of a user and resolves with their number; otherwise like {@link revokeSessionWithCache}. */
export function revokeAllUserSessionsWithCache(userId: string): Promise<number>;

/** Ends all sessions of a user but one; otherwise like {@link revokeAllUserSessionsWithCache}. */
export function revokeOtherSessions(userId: string, exceptSessionId: string): Promise<number>;

/**
 * Gives a valid session a new token and a new end; `false` if `token` has none. The old token is dead once it resolves.
 *
 * `newToken` has 1 to 4096 bytes, `expiresAt` is in the future. Rejects like {@link revokeSessionWithCache}.
 */
export function rotateSession(token: string, newToken: string, expiresAt: Date): Promise<boolean>;

/** Forgets the copies of a session without ending it, such as after a change of its user. */
export function invalidateSessionCache(token: string): Promise<void>;

/** Forgets the copies of all sessions of a user without ending them, and resolves with their number. */
export function invalidateUserSessions(userId: string): Promise<number>;

/** The sessions of a user that have not expired, newest activity first. */
export function getUserSessions(userId: string): Promise<Session[]>;

/** What {@link getUserSessionStats} tells of a user's sessions that have not expired. */
export interface UserSessionStats {
  totalActive: number;
  /** When the oldest of them was made, or `null` if there is none. */
  oldestSession: string | null;
  /** When the newest of them was made, or `null` if there is none. */
  newestSession: string | null;
  /** Different pairs of address and user agent. */
  devicesCount: number;
}

/** How many sessions a user has, and since when. */
export function getUserSessionStats(userId: string): Promise<UserSessionStats>;

/** Deletes sessions that have expired, some at a time, and resolves with their number. */
export function cleanupExpiredSessions(): Promise<number>;

/**
 * Deletes sessions without activity for so many days (a whole number from 1 to 3650), some at a time, forgets their copies, and
 * resolves with their number. What this process knows of their activity is written first.
 *
 * Rejects with `ERR_SESSION_STORE` where activity cannot be written (a trigger of the table makes every update fail): it would
 * delete sessions that are in use.
 */
export function cleanupInactiveSessions(days?: number): Promise<number>;

/** How far {@link warmSessionCache} is. */
export interface WarmingProgress {
  /** Sessions that were found. */
  total: number;
  warmed: number;
  failed: number;
}

export interface WarmingOptions {
  /** Sessions at most, 1 to 100000. Default `1000`. */
  limit?: number;
  /** Only sessions with activity in so many hours, 1 to 8760. Default `24`. */
  recentHours?: number;
  /** Stops it after the batch that is under way. */
  signal?: AbortSignal;
  /** Called after every batch. What it throws is logged. */
  onProgress?: (progress: WarmingProgress) => void;
}

export interface WarmingResult extends WarmingProgress {
  /** True unless it failed or was stopped. */
  success: boolean;
  durationMs: number;
  /** `failed`: Postgres or Redis stopped answering. What was warmed until then stays. */
  status: 'completed' | 'stopped' | 'failed';
}

/**
 * Leaves copies of sessions in Redis before they are asked for, those with the newest activity first, 100 at a time. Other calls
 * are served meanwhile.
 *
 * Without Redis, or with the cache switched off, there is nothing to warm: `total` is `0`.
 */
export function warmSessionCache(options?: WarmingOptions): Promise<WarmingResult>;

/**
 * Counts since the start or the last reset; `hits + misses + refused = total` and `localHits + redisHits = hits`. A validation
 * that rejects counts among `misses`.
 */
export interface SessionCacheMetrics {
  enabled: boolean;
  /** Answered by a copy. */
  hits: number;
  /** Asked Postgres, or joined a call that did. */
  misses: number;
  /** Answered "nobody" without asking Postgres. */
  refused: number;
  /** Failures of a store, whether or not the other one could answer. */
  errors: number;
  /** Tokens that calls of this process revoked or forgot. */
  invalidations: number;
  total: number;
  /** Percentage of hits among hits and misses, with two decimals. */
  hitRate: number;
  /** Life of a copy in seconds. */
  ttl: number;
  /** Hits in the process. */
  localHits: number;
  /** Hits in Redis. */
  redisHits: number;
  /** Queries for a session that went to Postgres. */
  databaseReads: number;
  /** Validations that joined the read of another one. */
  coalesced: number;
  /** Sessions that the process holds now. */
  localEntries: number;
  /** Entries of Redis that were read and not believed, by reason. */
  notBelieved: {
    /** Written in another life of the server: before a restart, a failover, a restored snapshot. */
    otherLife: number;
    /** Its end had come. */
    ended: number;
    /** Of another format version. */
    otherVersion: number;
    /** From before news of Postgres that this process may have missed. */
    olderThanNews: number;
    /** Sealed by no secret of `SESSION_CACHE_SECRET`, or not at all. */
    unsealed: number;
    /** No session, or another token's. */
    unreadable: number;
    /** Something happened to the key while it was read; it was read again. */
    overtaken: number;
  };
  /** Tokens that had to be forgotten, by who said so. */
  invalidationsBy: {
    /** Calls of this process: the same as `invalidations`. */
    calls: number;
    /** Writes to the key that Redis told of, fills included. */
    redis: number;
    /** Postgres: other processes, or the triggers. */
    postgres: number;
  };
}

/** The counts of the session cache. */
export function getSessionCacheMetrics(): SessionCacheMetrics;

/** Starts every count anew. */
export function resetSessionCacheMetrics(): void;

/** Settings of the session cache that can be changed while it runs. What is left out stays as it is. */
export interface SessionCacheOptions {
  /**
   * Off, every validation asks Postgres; invalidations go on. On again, copies from before are not used. Default
   * `SESSION_CACHE_ENABLED`, or `true`.
   */
  enabled?: boolean;
  /** Life of copies that are made from now on, in whole seconds, 1 to 300. Default `SESSION_CACHE_TTL_SECONDS`, or `300`. */
  ttlSeconds?: number;
  /** The tier in the process. Switching it off empties it. Default `SESSION_CACHE_LOCAL_ENABLED`, or `true`. */
  localEnabled?: boolean;
}

/** Changes settings at once, for this process, until `shutdown()`. An option that does not exist is an error. */
export function configureSessionCache(options: SessionCacheOptions): void;

/** True if the session cache's own connection to Redis answers within 1000 ms; `false` without `REDIS_URL`. */
export function sessionCacheHealthCheck(): Promise<boolean>;

/** The session cache's own connection to Redis; `null` without `REDIS_URL`. */
export function getSessionCachePoolStats(): PoolStats | null;

/** The session cache as one object, with the names that Studio uses. */
export declare const sessionCache: {
  readonly validateSession: typeof validateSessionWithCache;
  readonly revokeSession: typeof revokeSessionWithCache;
  readonly revokeAllUserSessions: typeof revokeAllUserSessionsWithCache;
  readonly invalidateSession: typeof invalidateSessionCache;
  readonly invalidateUserSessions: typeof invalidateUserSessions;
  /** Leaves a copy of one session in Redis; `false` if there is no such session, or none could be left. */
  readonly warmSession: (token: string) => Promise<boolean>;
  readonly getMetrics: typeof getSessionCacheMetrics;
  readonly resetMetrics: typeof resetSessionCacheMetrics;
  readonly healthCheck: typeof sessionCacheHealthCheck;
  readonly getPoolStats: typeof getSessionCachePoolStats;
  /** {@link shutdown}: the session cache has no connections apart from the process's. */
  readonly close: typeof shutdown;
};

/**
 * Installs triggers in Postgres by which every process hears of writes to the tables by anyone: deleted sessions, a changed
 * token, user or end, TRUNCATE; of users a changed email, name, username, ban or deletion. May be called again. Resolves with the
 * SQL that was executed (`sql/session_events.sql` of this package); with `dryRun` it is only shown.
 *
 * The role of `DATABASE_URL` has to own the tables. Rejects with `ERR_SESSION_STORE`.
 */
export function installTriggers(options?: { dryRun?: boolean }): Promise<string>;

/** Removes what {@link installTriggers} made. Resolves with the SQL. */
export function uninstallTriggers(options?: { dryRun?: boolean }): Promise<string>;

/** How calls are counted against a limit. All of them decide in one step on the server, by its clock, in microseconds. */
export type RateLimitAlgorithm =
  /**
   * Exact: at no moment more than the limit within the window that ends there. Redis keeps some 15 bytes for each admitted call
   * of a window, so that `limit` is at most 100,000; from 1,000 on `token-bucket` is the better choice.
   */
  | 'sliding-window'
  /** GCRA: at most `limit` at once, and one more each `window / limit`. 170 bytes a key, whatever the limit. */
  | 'token-bucket'
  /** At most `limit` from the first call until `window` later. Up to twice that may come around the end of a window. */
  | 'fixed-window';

/** What is done while Redis does not answer. */
export type OnOutage =
  /** Decide by what this process has counted: its share of the limit holds in each process. */
  | 'local'
  /** Allow every call. It is counted all the same. */
  | 'allow'
  /** Deny every call. */
  | 'deny';

/** What a caller is told of a limit. */
export interface RateLimitInfo {
  readonly limit: number;
  /** How many calls of cost 1 would still be allowed now. */
  readonly remaining: number;
  /** When all of the limit is there again, in Unix seconds, rounded up. */
  readonly reset: number;
  /**
   * If denied, or let pass by shadow mode only: after so many whole seconds, rounded up, this call is allowed if nobody else
   * comes.
   */
  readonly retryAfter?: number;
}

/** The answer to one check. It may be given to several callers, and is frozen then. */
export interface RateLimitResult {
  readonly allowed: boolean;
  readonly info: RateLimitInfo;
}

/** How a check may differ from others. */
export interface RateLimitCheckOptions {
  /** Default `'sliding-window'`. */
  algorithm?: RateLimitAlgorithm;
  /** For how many calls it counts, 1 to `limit`. Default `1`. */
  cost?: number;
  /** Default `'local'`. */
  onOutage?: OnOutage;
  /** Counts, and says what it would do in {@link getRateLimitMetrics}, but allows every call. Default `false`. */
  shadow?: boolean;
  /** Whose count and metrics these are: 1 to 64 of `A-Z a-z 0-9 . _ / -`. Default `'default'`. */
  name?: string;
}

/**
 * Counts a call against a limit and says whether it is allowed.
 *
 * A key has one count for each name and algorithm. Checked against several limits, each window holds for all calls of the key,
 * whatever limit allowed them; a bucket takes over the time until it is full. A key has 1 to 4096 bytes; of one with more than
 * 256, the SHA-256 is used. `limit` is a whole number from 1 to 1,000,000,000, the window
 * lasts from 0.001 s to 31 days.
 *
 * Redis gets 100 ms. Without it, this process decides (see {@link OnOutage}), and never rejects for that reason; when it is
 * back, both must allow for one window. What Redis denied is denied here without asking it for at most one second more.
 */
export function checkLimit(
  key: string,
  limit: number,
  windowSeconds: number,
  options?: RateLimitCheckOptions,
): Promise<RateLimitResult>;

/** Settings of a store. */
export interface RateLimitStoreOptions {
  /** Stores of different name do not share counts. Default `'default'`. */
  name?: string;
  /** Default `'local'`. */
  onOutage?: OnOutage;
  /** Default `false`. */
  shadow?: boolean;
}

/** Counts of one kind. All stores of a process with the same class and name are one and the same. */
export interface RateLimitStore {
  /** Like {@link checkLimit}. */
  checkLimit(key: string, limit: number, windowSeconds: number, options?: { cost?: number }): Promise<RateLimitResult>;
  /** What `checkLimit` would answer, without counting anything. */
  peek(key: string, limit: number, windowSeconds: number, options?: { cost?: number }): Promise<RateLimitResult>;
  /** Takes calls back that were counted, such as one that failed for another reason: the latest, `cost` of them. */
  refund(key: string, limit: number, windowSeconds: number, options?: { cost?: number }): Promise<void>;
  /** How a key stands against the limit that it was last checked against; `null` if nothing is counted. */
  get(key: string): Promise<RateLimitInfo | null>;
  /**
   * Forgets what was counted for a key, or for all keys of this store. Other processes notice within a second; those that had
   * to decide without Redis, within a window after it is back. Where Redis is away, only this process forgets, which is logged.
   */
  clear(key?: string): Promise<void>;
}

/** Counts in Redis; sliding windows, unless it is told otherwise. */
export declare class RedisRateLimitStore implements RateLimitStore {
  constructor(options?: RateLimitStoreOptions & { algorithm?: RateLimitAlgorithm });
  checkLimit: RateLimitStore['checkLimit'];
  peek: RateLimitStore['peek'];
  refund: RateLimitStore['refund'];
  get: RateLimitStore['get'];
  clear: RateLimitStore['clear'];
}

/** Token buckets in Redis. */
export declare class RedisTokenBucketStore implements RateLimitStore {
  constructor(options?: RateLimitStoreOptions);
  checkLimit: RateLimitStore['checkLimit'];
  peek: RateLimitStore['peek'];
  refund: RateLimitStore['refund'];
  get: RateLimitStore['get'];
  clear: RateLimitStore['clear'];
}

/**
 * Counts of this process alone; sliding windows, unless it is told otherwise. `RATE_LIMIT_LOCAL_KEYS` keys have one of their own; beyond
 * that new ones share counts, so that none is ever lower than the truth.
 */
export declare class InMemoryRateLimitStore implements RateLimitStore {
  constructor(options?: Pick<RateLimitStoreOptions, 'name' | 'shadow'> & { algorithm?: RateLimitAlgorithm });
  checkLimit: RateLimitStore['checkLimit'];
  peek: RateLimitStore['peek'];
  refund: RateLimitStore['refund'];
  get: RateLimitStore['get'];
  clear: RateLimitStore['clear'];
}

/** The store of {@link checkLimit} without options. */
export function getRateLimitStore(): RedisRateLimitStore;

/** Forgets every count of every limit, in Redis and in this process. See {@link RateLimitStore.clear}. */
export function clearRateLimits(): Promise<void>;

/** Calls in so many seconds. */
export interface RateLimit {
  readonly requests: number;
  readonly window: number;
}

/** The limits of {@link rateLimitMiddleware} by the tier of the user. */
export declare const RATE_LIMITS: {
  readonly free: RateLimit;
  readonly pro: RateLimit;
  readonly enterprise: RateLimit;
};

/** What a limiter reads of a request: that of `node:http`, of Next.js and of Express. */
export interface RateLimitedRequest {
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly socket?: { readonly remoteAddress?: string | undefined } | null | undefined;
  readonly user?:
    | {
        readonly sub?: string | undefined;
        readonly id?: string | undefined;
        readonly user_metadata?: { readonly tier?: string | undefined } | null | undefined;
      }
    | null
    | undefined;
}

/** What a limiter does to a response. */
export interface RateLimitedResponse {
  setHeader(name: string, value: string): unknown;
}

/**
 * Counts a request, sets the headers `RateLimit`, `RateLimit-Policy`, `RateLimit-Limit`, `-Remaining` and `-Reset`, the same three
 * with `X-`, and calls `next`, for which it waits. Denied, it also sets `Retry-After` and rejects: {@link RateLimitedError}.
 *
 * Counted by `user.sub`, or else `user.id`, or else the client's address: an IPv4 address, or the /64 of an IPv6 address, taken from
 * `X-Forwarded-For` as `RATE_LIMIT_TRUSTED_PROXY_HOPS` says.
 */
export type RateLimiter = (
  req: RateLimitedRequest,
  res: RateLimitedResponse,
  next: () => unknown,
) => Promise<void>;

/** With `ERR_RATE_LIMITED`. */
export interface RateLimitedError extends RedisNativeError {
  readonly code: 'ERR_RATE_LIMITED';
  readonly statusCode: 429;
  /** Whole seconds. */
  readonly retryAfter: number;
}

export interface RateLimiterConfig {
  /** A whole number from 1. */
  requests: number;
  /** Seconds. */
  window: number;
  /** Limiters of different name do not share counts. Default made of the numbers: `'10/60'`. */
  name?: string;
  /** Default `'sliding-window'`. */
  algorithm?: RateLimitAlgorithm;
  /** Default `'local'`. */
  onOutage?: OnOutage;
  /** Default `false`. */
  shadow?: boolean;
  /** Makes what is thrown when a request is denied. Default {@link RateLimitedError}. */
  error?: (info: RateLimitInfo) => Error;
}

/** A limiter for requests. A wrong configuration throws at once. */
export function createRateLimiter(config: RateLimiterConfig): RateLimiter;

/** A limiter by the tier of the user, see {@link RATE_LIMITS}; `free` for whoever has none. Its name is `api`. */
export function rateLimitMiddleware(
  req: RateLimitedRequest,
  res: RateLimitedResponse,
  next: () => unknown,
  customLimit?: RateLimit,
): Promise<void>;

/** 10 requests in 60 s. */
export const strictRateLimiter: RateLimiter;

/** 10000 requests in 60 s. */
export const generousRateLimiter: RateLimiter;

/**
 * Counts an attempt to sign in; `true` if it is over the limit. What identifies an attempt is up to the caller, such as address and
 * name together. Unlike Studio's own function it returns a promise: without `await` everybody would be over the limit.
 *
 * @param maxAttempts Default `5`.
 * @param windowMs Milliseconds, 1 to 31 days. Default `900000`.
 */
export function checkRateLimit(identifier: string, maxAttempts?: number, windowMs?: number): Promise<boolean>;

/** Forgets the attempts to sign in, such as after one that succeeded. */
export function clearRateLimit(identifier: string): Promise<void>;

/** Counts since the start of what limits of one name decided. */
export interface RateLimitMetrics {
  /** Allowed calls, those in shadow mode included. */
  allowed: number;
  denied: number;
  /** Allowed in shadow mode only. */
  shadowDenied: number;
  /** Denied without asking Redis: it had just denied the same, or this process does, within a window after an outage. */
  answeredLocally: number;
  /** Decided without Redis, because it did not answer. */
  answeredInOutage: number;
}

/** The counts of each name that was used. Beyond 1000 names, the others are counted together, as `(others)`. */
export function getRateLimitMetrics(): Record<string, RateLimitMetrics>;

/** What a Redis command takes: text, a number as JavaScript writes it, or bytes. */
export type RedisArgument = string | number | Uint8Array;

/** How many connections a pool may have, by the plan of the project that it is for. */
export declare const Tier: {
  /** 2 to 5 connections. */
  readonly FREE: 'free';
  /** 5 to 10 connections. */
  readonly STARTER: 'starter';
  /** 10 to 50 connections. */
  readonly PRO: 'pro';
  /** 20 to 100 connections. */
  readonly ENTERPRISE: 'enterprise';
};
export type Tier = (typeof Tier)[keyof typeof Tier];

/** Which server a client is for, and how many connections it may have. */
export interface ConnectionOptions {
  /**
   * Percent-encoded credentials; the database as `/3` or `?db=3`.
   * - `redis://host:6379`, `valkey://`, `unix:/run/redis.sock`; `rediss://` or `valkeys://` for TLS
   * - `redis-sentinel://host1:26379,host2:26379/0?master=mymaster`, with `sentinelUsername` and `sentinelPassword` where the
   *   sentinels want others than the servers; `rediss-sentinel://` for TLS to both
   * - `redis-cluster://host1:6379,host2:6379`; `rediss-cluster://` for TLS
   */
  connectionString: string;
  /** Default `'free'`. */
  tier?: Tier;
  /** Instead of the tier's sizes: whole numbers from 1 to 1000. */
  config?: { minPoolSize?: number; maxPoolSize?: number };
  /**
   * `'replica'`: what reads keys is asked of replicas, whose answers may be older than the last write, and of the primary where
   * no replica answers within 250 ms. Cursors, scripts, transactions and all else are the primary's. Default `'primary'`.
   */
  readFrom?: 'primary' | 'replica';
}

/** Field and value of each entry of a hash, or key and value of several keys. */
export type RedisRecord = Record<string, RedisArgument>;

/** The end of a range of scores: a number, infinity included, or Redis' own way to write one, such as `'(1'`. */
export type RedisScore = number | string;

/** A subscription. It keeps the process alive until it ends: by `unsubscribe()`, `close()` or `shutdown()`. */
export interface Subscription {
  /** The channel or pattern. */
  readonly channel: string;
  /** Messages that were thrown away, because 1000 waited for the handler already. The first loss is logged, too. */
  readonly dropped: number;
  /** Ends it. No message is handed out from the call on. May be called more than once. */
  unsubscribe(): Promise<void>;
}

/**
 * A client of one Redis server. It has no connection of its own: clients that agree in server, database and credentials
 * share one pool, and all clients of a server share one breaker.
 *
 * Each method is one command of Redis, with a deadline of 1000 ms. Replies have the shapes of ioredis. Commands of one tick
 * leave together and are executed in their order, but for those that block and a script that the server does not know yet;
 * beyond a tick, `await` what has to come first. A command is sent a second time only if it never left, or if it only reads
 * and its connection was lost.
 *
 * Rejects with `ERR_TIMEOUT`, `ERR_CONNECTION`, `ERR_CIRCUIT_OPEN`, `ERR_OVERLOADED`, `ERR_REPLY` or `ERR_CLOSED`.
 */
export declare class RedisClientWrapper {
  /** The same as {@link createRedisClient}. A third argument, which Studio used to pass, is accepted and not used. */
  constructor(projectId: string, options: ConnectionOptions, connectionManager?: unknown);

  /** The value of a key, or `null`. */
  get(key: RedisArgument): Promise<string | null>;
  /** Resolves with `OK`. Without `expirationSeconds`, or with `0`, the key does not expire. */
  set(key: RedisArgument, value: RedisArgument, expirationSeconds?: number): Promise<'OK'>;
  /** Removes keys and resolves with the number of those that were there. */
  del(...keys: RedisArgument[]): Promise<number>;
  /** How many of the keys are there; a key that is named twice counts twice. */
  exists(...keys: RedisArgument[]): Promise<number>;
  /** The values of keys, `null` for what is not there or no string. */
  mget(...keys: RedisArgument[]): Promise<(string | null)[]>;
  /** Sets several keys at once. */
  mset(record: RedisRecord): Promise<'OK'>;
  incr(key: RedisArgument): Promise<number>;
  incrby(key: RedisArgument, increment: number | string): Promise<number>;
  decr(key: RedisArgument): Promise<number>;
  decrby(key: RedisArgument, decrement: number | string): Promise<number>;

  /** `1` if the key is there and will now expire, else `0`. */
  expire(key: RedisArgument, seconds: number | string): Promise<number>;
  /** Seconds until a key expires; `-1` if it does not, `-2` if it is not there. */
  ttl(key: RedisArgument): Promise<number>;
  /** One step through the keys: the cursor of the next step, `'0'` after the last, and some keys. */
  scan(cursor: number | string, pattern?: string, count?: number): Promise<[cursor: string, keys: string[]]>;
  /** Every key that matches, at once. The server does nothing else meanwhile; {@link scanIterator} is kinder. */
  keys(pattern: string): Promise<string[]>;
  /** Every key that matches, a few at a time. A key may come more than once. `count` is a hint for the size of a step. */
  scanIterator(pattern?: string, count?: number): AsyncGenerator<string, void, void>;

  /** How many fields are new. */
  hset(key: RedisArgument, field: RedisArgument, value: RedisArgument): Promise<number>;
  hset(key: RedisArgument, record: RedisRecord): Promise<number>;
  hget(key: RedisArgument, field: RedisArgument): Promise<string | null>;
  /** All fields and values; `{}` if the key is not there. */
  hgetall(key: RedisArgument): Promise<Record<string, string>>;
  hdel(key: RedisArgument, ...fields: RedisArgument[]): Promise<number>;
  hexists(key: RedisArgument, field: RedisArgument): Promise<number>;

  /** The length of the list after it. */
  lpush(key: RedisArgument, ...values: RedisArgument[]): Promise<number>;
  /** The length of the list after it. */
  rpush(key: RedisArgument, ...values: RedisArgument[]): Promise<number>;
  lpop(key: RedisArgument): Promise<string | null>;
  rpop(key: RedisArgument): Promise<string | null>;
  /** From `start` to `stop`, both included; negative ones count from the end. */
  lrange(key: RedisArgument, start: number | string, stop: number | string): Promise<string[]>;
  llen(key: RedisArgument): Promise<number>;
  /**
   * Waits for an element, on a connection of its own; `null` after `timeoutSeconds`, which may be a fraction. `0` waits for
   * ever. `close()` and `shutdown()` end it with `ERR_CLOSED`.
   */
  blpop(key: RedisArgument, timeoutSeconds: number): Promise<[key: string, value: string] | null>;
  /** Like {@link blpop}, from the other end. */
  brpop(key: RedisArgument, timeoutSeconds: number): Promise<[key: string, value: string] | null>;

  sadd(key: RedisArgument, ...members: RedisArgument[]): Promise<number>;
  srem(key: RedisArgument, ...members: RedisArgument[]): Promise<number>;
  smembers(key: RedisArgument): Promise<string[]>;
  sismember(key: RedisArgument, member: RedisArgument): Promise<number>;

  /** Score and member by turns, after options such as `'NX'`; with `'INCR'` the new score. */
  zadd(key: RedisArgument, ...scoreMember: RedisArgument[]): Promise<number | string | null>;
  /** Members by rank; with scores: member and score by turns. */
  zrange(
    key: RedisArgument,
    start: RedisScore,
    stop: RedisScore,
    withScores?: boolean | 'WITHSCORES',
  ): Promise<string[]>;
  /** Members by score; with scores: member and score by turns. */
  zrangebyscore(
    key: RedisArgument,
    min: RedisScore,
    max: RedisScore,
    withScores?: boolean | 'WITHSCORES',
  ): Promise<string[]>;
  zremrangebyscore(key: RedisArgument, min: RedisScore, max: RedisScore): Promise<number>;
  zcard(key: RedisArgument): Promise<number>;
  zrem(key: RedisArgument, ...members: RedisArgument[]): Promise<number>;
  /** The score as Redis writes it, or `null`. */
  zscore(key: RedisArgument, member: RedisArgument): Promise<string | null>;

  /** How many subscribers of the server got the message. */
  publish(channel: RedisArgument, message: RedisArgument): Promise<number>;
  /**
   * Calls `handler` for each message of a channel, in their order, once the server has confirmed. Survives reconnects; what is
   * published while the server is not reached is lost, as always with Redis. What a handler throws is logged.
   */
  subscribe(channel: string, handler: (message: string, channel: string) => void): Promise<Subscription>;
  /** Like {@link subscribe}, for every channel that matches a pattern such as `news.*`. */
  psubscribe(
    pattern: string,
    handler: (message: string, channel: string, pattern: string) => void,
  ): Promise<Subscription>;

  /**
   * Runs a Lua script. It travels as its SHA-1; where the server does not know it yet, which takes no time, it is sent whole,
   * as a second command with a deadline of its own.
   */
  eval(script: string, keys: readonly RedisArgument[], args: readonly RedisArgument[]): Promise<unknown>;

  /** Commands that go out as one write. Others may be executed between them. */
  pipeline(): RedisBatch;
  /** Commands that are executed as one transaction. */
  multi(): RedisBatch;

  /**
   * Any other command. What changes the state of a connection, which is shared, is refused with `ERR_INVALID_ARG`; what
   * blocks gets a connection of its own.
   */
  call(command: string, ...args: RedisArgument[]): Promise<unknown>;
  /** Like {@link call}, with a `Buffer` for each string of the reply. */
  callBuffer(command: string, ...args: RedisArgument[]): Promise<unknown>;

  /** Resolves with `PONG`. */
  ping(): Promise<string>;
  /** The server's report, or one section of it. */
  info(section?: string): Promise<string>;
  /** The number of keys. */
  dbsize(): Promise<number>;
  /** Parameters that match, name and value by turns. */
  config(action: 'GET', parameter: string): Promise<string[]>;
  config(action: 'SET', parameter: string, value: RedisArgument): Promise<'OK'>;
  /** Removes every key of the database. */
  flushdb(): Promise<'OK'>;
  /** Removes every key of the server. */
  flushall(): Promise<'OK'>;

  /**
   * Ends this client for good: its subscriptions and blocking commands end, later calls reject with `ERR_CLOSED`. The last
   * client of a pool ends the pool, and with it what is unanswered there.
   */
  close(): Promise<void>;
  /** True if the server answers a PING. Never rejects because it is away. */
  healthCheck(): Promise<boolean>;
  /** The connections of this client's pool at this moment. */
  getPoolStats(): PoolStats;
  /** The breaker of this client's server. */
  getBreakerState(): BreakerState;
}

/**
 * Commands that travel together: `client.pipeline().incr('a').get('b').exec()`. At most 10,000. A wrong argument throws at the
 * method that it is given to.
 */
export interface RedisBatch extends RedisBatchCommands {
  /** How many commands there are. */
  readonly length: number;
  /**
   * Sends them; once. Each command has its error or its reply, in order. Rejects as a whole, like a single command, if the
   * server does not answer; a transaction also with `ERR_REPLY` (`EXECABORT`) if one of its commands cannot be queued.
   */
  exec(): Promise<[error: RedisNativeError | null, reply: unknown][]>;
}

type RedisCommandName = Exclude<
  keyof RedisClientWrapper,
  | 'scanIterator'
  | 'blpop'
  | 'brpop'
  | 'subscribe'
  | 'psubscribe'
  | 'pipeline'
  | 'multi'
  | 'callBuffer'
  | 'close'
  | 'healthCheck'
  | 'getPoolStats'
  | 'getBreakerState'
>;

/** The commands of {@link RedisClientWrapper} that a batch can have, with the same arguments. */
export type RedisBatchCommands = {
  [Name in RedisCommandName]: (...args: Parameters<RedisClientWrapper[Name]>) => RedisBatch;
};

/** Connections at one moment. On one connection many commands travel at once, so that nobody waits for a free one. */
export interface PoolStats {
  /** Open connections: those of the pool, and those that block or listen. */
  size: number;
  /** Open connections of the pool that have answered everything. */
  available: number;
  /** Commands that wait for an answer. */
  pending: number;
}

/**
 * A client for any server. Making one connects nothing, the first command does.
 *
 * @param projectId Whose client it is; for people who read a log. It does not separate pools.
 */
export function createRedisClient(projectId: string, options: ConnectionOptions): RedisClientWrapper;

/** The client for `REDIS_URL`, 2 to 10 connections, the same at each call; `null` if that is not set. */
export function getRedisClient(): RedisClientWrapper | null;

/** Closes the client of {@link getRedisClient}, which then makes a new one. Sessions and rate limits are not affected. */
export function closeRedisClient(): Promise<void>;

/** True if the server at `REDIS_URL` answers a PING; `false` also if that is not set. */
export function checkRedisHealth(): Promise<boolean>;

/** `open`: the server is not asked. `half-open`: one call finds out whether it is back. */
export type BreakerState = 'closed' | 'half-open' | 'open';

/** The breakers of `REDIS_URL` and `DATABASE_URL`. A server that is not configured has a closed one. */
export function getBreakerState(): { redis: BreakerState; postgres: BreakerState };

/** A breaker that has changed its state. */
export interface BreakerChange {
  /** The kind of server, and where it is: `Redis at localhost:6379`, `Postgres at localhost:5432`. */
  readonly server: string;
  readonly state: BreakerState;
}

/**
 * Calls `handler` at each change of any breaker of the process. It keeps nothing alive; what it throws is logged.
 *
 * @returns A function that ends it.
 */
export function onBreakerChange(handler: (change: BreakerChange) => void): () => void;

/** One event of the log, with the fields of its own beside these. It holds no token and no password. */
export interface LogLine {
  /** ISO 8601. */
  timestamp: string;
  level: 'ERROR' | 'WARN' | 'INFO' | 'DEBUG' | 'TRACE';
  target: string;
  message?: string;
  [field: string]: unknown;
}

/**
 * Sends the log of the process to a function, which gets one call a line; `null` sends it to standard error again.
 *
 * The last call counts, in whichever thread. Lines keep nothing alive: the process may exit before the last ones are
 * handed over. At most 1000 wait; beyond it they are dropped, and their number is logged. What the function throws is
 * ignored. Which lines there are is set by `STUDIO_REDIS_LOG`, a tracing filter. Default `warn`.
 */
export function setLogHandler(handler: ((line: LogLine) => void) | null): void;

/**
 * Finishes what is under way, delivers invalidations that are due, and closes every connection; within `timeoutMs`
 * even if servers are away. May be called at any time and more than once; the next call of anything opens the engine again.
 *
 * @param timeoutMs Whole milliseconds. Default `5000`.
 */
export function shutdown(timeoutMs?: number): Promise<void>;
