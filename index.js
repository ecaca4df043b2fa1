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

module.exports = {
  validateSessionWithCache: native.validateSessionWithCache,
  validateSession: native.validateSession,
  revokeSessionWithCache: native.revokeSessionWithCache,
  revokeSessionByToken: native.revokeSessionByToken,
  revokeAllUserSessionsWithCache: native.revokeAllUserSessionsWithCache,
  revokeOtherSessions: native.revokeOtherSessions,
  rotateSession: native.rotateSession,
  invalidateSessionCache: native.invalidateSessionCache,
  invalidateUserSessions: native.invalidateUserSessions,
  getSessionCacheMetrics: native.getSessionCacheMetrics,
  resetSessionCacheMetrics: native.resetSessionCacheMetrics,
  configureSessionCache: native.configureSessionCache,
  getRedisClient: () => (native.isRedisConfigured() ? redis : null),
  checkRedisHealth: native.checkRedisHealth,
  getBreakerState: native.getBreakerState,
  setLogHandler: native.setLogHandler,
  shutdown: native.shutdown,
};
