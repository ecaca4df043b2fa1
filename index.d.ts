/**
 * Sessions and Redis for Studio, inside its Node.js process.
 *
 * One engine serves the whole process, however often this module is loaded. It opens at the first call that needs it,
 * from `process.env` as that call's module sees it; loading starts nothing. Pending promises keep the process alive,
 * nothing else does.
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
  /** Neither cache nor Postgres could answer. It never means "not logged in"; see `cause`. */
  | 'ERR_SESSION_STORE'
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

/** Counts since the start or the last reset; `hits + misses + refused = total`. */
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
  /** Tokens that this process revoked or forgot. */
  invalidations: number;
  total: number;
  /** Percentage of hits among hits and misses, with two decimals. */
  hitRate: number;
  /** Life of a copy in seconds. */
  ttl: number;
  /** Hits in the process. This version has no tier there: `0`. */
  localHits: number;
  /** Hits in Redis. */
  redisHits: number;
  /** Queries for a session that went to Postgres. */
  databaseReads: number;
  /** Validations that joined the read of another one. */
  coalesced: number;
}

/** The counts of the session cache. */
export function getSessionCacheMetrics(): SessionCacheMetrics;

/** Starts every count anew. */
export function resetSessionCacheMetrics(): void;

/** Settings of the session cache that can be changed while it runs. What is left out stays as it is. */
export interface SessionCacheOptions {
  /** Off, the cache is neither read nor filled; invalidations go on. Default `SESSION_CACHE_ENABLED`, or `true`. */
  enabled?: boolean;
  /** Life of a copy in whole seconds, 1 to 300. Default `SESSION_CACHE_TTL_SECONDS`, or `300`. */
  ttlSeconds?: number;
  /** The tier in the process. This version has none, so that there is nothing to switch yet. */
  localEnabled?: boolean;
}

/** Changes settings at once, for this process, until `shutdown()`. An option that does not exist is an error. */
export function configureSessionCache(options: SessionCacheOptions): void;

/** What a Redis command takes: text, a number as JavaScript writes it, or bytes. */
export type RedisArgument = string | number | Uint8Array;

/**
 * Redis at `REDIS_URL`. Each method is one command, with a deadline of 1000 ms.
 *
 * Rejects with `ERR_TIMEOUT`, `ERR_CONNECTION`, `ERR_CIRCUIT_OPEN`, `ERR_OVERLOADED` or `ERR_REPLY`.
 */
export interface RedisClient {
  /** Resolves with `PONG`. */
  ping(): Promise<string>;
  /** The value of a key, or `null`. */
  get(key: RedisArgument): Promise<string | null>;
  /** Resolves with `OK`. Without `expirationSeconds`, or with `0`, the key does not expire. */
  set(key: RedisArgument, value: RedisArgument, expirationSeconds?: number): Promise<string>;
  /** Removes keys and resolves with the number of those that were there. */
  del(...keys: RedisArgument[]): Promise<number>;
  /** The server's report, or one section of it. */
  info(section?: string): Promise<string>;
  /** The number of keys. */
  dbsize(): Promise<number>;
  /** True if the server answers a PING. Never rejects because it is away. */
  healthCheck(): Promise<boolean>;
  /** Connections at this moment. */
  getPoolStats(): PoolStats;
}

/** Connections at one moment. */
export interface PoolStats {
  /** Open connections. */
  size: number;
  /** Open connections that have answered everything. */
  available: number;
  /** Commands that wait for an answer. */
  pending: number;
}

/** The client for `REDIS_URL`; `null` if that is not set. */
export function getRedisClient(): RedisClient | null;

/** True if the server at `REDIS_URL` answers a PING; `false` also if that is not set. */
export function checkRedisHealth(): Promise<boolean>;

/** `open`: the server is not asked. `half-open`: one call finds out whether it is back. */
export type BreakerState = 'closed' | 'half-open' | 'open';

/** The breakers of `REDIS_URL` and `DATABASE_URL`. A server that is not configured has a closed one. */
export function getBreakerState(): { redis: BreakerState; postgres: BreakerState };

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
