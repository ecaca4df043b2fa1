'use strict';

// The face of the package. It hands its own realm to the native side, which can see neither the `process.env` nor the
// error classes of a worker or of Jest, and it spreads rest parameters, which native functions cannot have.
let native;
try {
  native = require('./binding.js');
} catch (error) {
  throw require('./no-binary.js')(error);
}

const done = Promise.resolve();

/** The answer to a check: objects that have their shape from the beginning are made fastest here. */
function limitResult(allowed, limit, remaining, reset, retryAfter) {
  if (retryAfter === undefined) return { allowed, info: { limit, remaining, reset } };
  return { allowed, info: { limit, remaining, reset, retryAfter } };
}

const [
  RedisClientWrapper,
  validateSessionWithCache,
  checkLimit,
  RedisRateLimitStore,
  RedisTokenBucketStore,
  InMemoryRateLimitStore,
] = native.attach({
  env: process.env,
  Error,
  TypeError,
  RangeError,
  parse: JSON.parse,
  soon: (work) => void done.then(work),
  limit: limitResult,
  limited: (allowed, limit, remaining, reset, retryAfter) =>
    Promise.resolve(limitResult(allowed, limit, remaining, reset, retryAfter)),
});

RedisClientWrapper.prototype.scanIterator = async function* scanIterator(pattern, count) {
  let [cursor, keys] = await this.scan('0', pattern, count);
  yield* keys;
  while (cursor !== '0') {
    [cursor, keys] = await this.scan(cursor, pattern, count);
    yield* keys;
  }
};

/** Sets the headers that the native side has decided on, and goes on, or throws what it or Studio has made. */
async function pass(admission, res, next, error) {
  const decided = await admission;
  const [text, denied, info] = typeof decided === 'string' ? [decided] : decided;
  text.split('\n').forEach((value, at) => res.setHeader(headers[at], value));
  if (denied) throw error ? error(info) : denied;
  await next();
}

const headers = native.rateLimitHeaders();
const admitByTier = native.admissionByTier();
function createRateLimiter(config) {
  const [admit, error] = native.createAdmission(config);
  return (req, res, next) => pass(admit(req, res, next), res, next, error);
}

// One statement each: that is what lets `import { shutdown }` work from ES modules.
exports.validateSessionWithCache = validateSessionWithCache;
exports.validateSession = native.validateSession;
exports.revokeSessionWithCache = native.revokeSessionWithCache;
exports.revokeSessionByToken = native.revokeSessionByToken;
exports.revokeAllUserSessionsWithCache = native.revokeAllUserSessionsWithCache;
exports.revokeOtherSessions = native.revokeOtherSessions;
exports.rotateSession = native.rotateSession;
exports.invalidateSessionCache = native.invalidateSessionCache;
exports.invalidateUserSessions = native.invalidateUserSessions;
exports.getSessionCacheMetrics = native.getSessionCacheMetrics;
exports.resetSessionCacheMetrics = native.resetSessionCacheMetrics;
exports.configureSessionCache = native.configureSessionCache;
exports.getUserSessions = native.getUserSessions;
exports.getUserSessionStats = native.getUserSessionStats;
exports.cleanupExpiredSessions = native.cleanupExpiredSessions;
exports.cleanupInactiveSessions = native.cleanupInactiveSessions;
exports.warmSessionCache = native.warmSessionCache;
exports.sessionCacheHealthCheck = native.sessionCacheHealthCheck;
exports.getSessionCachePoolStats = native.getSessionCachePoolStats;
exports.sessionCache = Object.freeze({
  validateSession: validateSessionWithCache,
  revokeSession: native.revokeSessionWithCache,
  revokeAllUserSessions: native.revokeAllUserSessionsWithCache,
  invalidateSession: native.invalidateSessionCache,
  invalidateUserSessions: native.invalidateUserSessions,
  warmSession: native.warmSession,
  getMetrics: native.getSessionCacheMetrics,
  resetMetrics: native.resetSessionCacheMetrics,
  healthCheck: native.sessionCacheHealthCheck,
  getPoolStats: native.getSessionCachePoolStats,
  close: native.shutdown,
});
exports.checkLimit = checkLimit;
exports.RedisRateLimitStore = RedisRateLimitStore;
exports.RedisTokenBucketStore = RedisTokenBucketStore;
exports.InMemoryRateLimitStore = InMemoryRateLimitStore;
const store = new RedisRateLimitStore();
exports.getRateLimitStore = () => store;
exports.clearRateLimits = native.clearRateLimits;
exports.RATE_LIMITS = native.rateLimits();
exports.rateLimitMiddleware = (req, res, next, customLimit) =>
  pass(admitByTier(req, res, next, customLimit), res, next);
exports.createRateLimiter = createRateLimiter;
exports.strictRateLimiter = createRateLimiter({ requests: 10, window: 60, name: 'strict' });
exports.generousRateLimiter = createRateLimiter({ requests: 10_000, window: 60, name: 'generous' });
exports.checkRateLimit = native.checkRateLimit;
exports.clearRateLimit = native.clearRateLimit;
exports.getRateLimitMetrics = native.getRateLimitMetrics;
exports.installTriggers = native.installTriggers;
exports.uninstallTriggers = native.uninstallTriggers;
exports.RedisClientWrapper = RedisClientWrapper;
exports.Tier = Object.freeze({ FREE: 'free', STARTER: 'starter', PRO: 'pro', ENTERPRISE: 'enterprise' });
exports.createRedisClient = (projectId, options) => new RedisClientWrapper(projectId, options);
exports.getRedisClient = native.getRedisClient;
exports.closeRedisClient = native.closeRedisClient;
exports.checkRedisHealth = native.checkRedisHealth;
exports.getBreakerState = native.getBreakerState;
exports.onBreakerChange = (handler) => {
  const number = native.onBreakerChange(handler);
  return () => native.offBreakerChange(number);
};
exports.setLogHandler = native.setLogHandler;
exports.shutdown = native.shutdown;
