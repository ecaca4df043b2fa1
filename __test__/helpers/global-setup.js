'use strict';

const { startServices } = require('../../scripts/services/index.cjs');

/** The servers that all test files share, unless REDIS_URL and DATABASE_URL name some. */
module.exports = async () => {
  const services = await startServices();
  if (services.redisUrl) process.env.REDIS_URL = services.redisUrl;
  process.env.DATABASE_URL = services.databaseUrl;
  globalThis.sharedServices = services;
};
