'use strict';

const { startServices } = require('../../scripts/services/index.cjs');

/**
 * The servers that test files share: those that REDIS_URL and DATABASE_URL name, or some of our own. Each further worker
 * of Jest, if there is one, has others, so that no file shares them with one that runs beside it; see shared-servers.js.
 */
module.exports = async ({ maxWorkers } = { maxWorkers: 1 }) => {
  const others = Array.from({ length: maxWorkers - 1 }, () => startServices({ env: {} }));
  const sets = await Promise.all([startServices(), ...others]);
  globalThis.sharedServices = { stop: () => Promise.all(sets.map((services) => services.stop())) };
  const urls = sets.map(({ redisUrl, databaseUrl }) => ({
    ...(redisUrl && { REDIS_URL: redisUrl }),
    DATABASE_URL: databaseUrl,
  }));
  Object.assign(process.env, urls[0], { SHARED_SERVERS: JSON.stringify(urls) });
};
