'use strict';

// The face of the package. It hands its own realm to the native side, which can see neither the `process.env` nor the
// error classes of a worker or of Jest, and it spreads rest parameters, which native functions cannot have.
const native = require('./binding.js');

native.attach({ env: process.env, Error, TypeError, RangeError, parse: JSON.parse });

const redis = Object.freeze({
  ping: () => native.redisCommand(['PING']),
  get: (key) => native.redisCommand(['GET', key]),
  set: native.redisSet,
  del: (...keys) => native.redisCommand(['DEL', ...keys]),
  info: (...section) => native.redisCommand(['INFO', ...section]),
  dbsize: () => native.redisCommand(['DBSIZE']),
  healthCheck: native.checkRedisHealth,
  getPoolStats: native.getRedisPoolStats,
});

// One statement each: that is what lets `import { shutdown }` work from ES modules.
exports.validateSessionWithCache = native.validateSessionWithCache;
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
exports.getRedisClient = () => (native.isRedisConfigured() ? redis : null);
exports.checkRedisHealth = native.checkRedisHealth;
exports.getBreakerState = native.getBreakerState;
exports.setLogHandler = native.setLogHandler;
exports.shutdown = native.shutdown;
