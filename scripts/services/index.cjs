'use strict';

// Throw-away Redis and Postgres for tests, demo and benchmarks. CommonJS, because Jest can not import ES modules
// from a test; `../services.mjs` is the same for ES modules, and the command line. It must load without node_modules: what
// is built of several servers (`cluster.cjs`, `sentinel.cjs`) needs a client, and is required by itself.

const { ensureBrowser, ensureInstalled } = require('./install.cjs');
const { RedisServer } = require('./redis.cjs');
const { makeCertificates } = require('./certificates.cjs');
const { PostgresServer, applySchema, query } = require('./postgres.cjs');

const toStderr = (line) => process.stderr.write(`${line}\n`);

/**
 * Starts what is wanted and not named by REDIS_URL or DATABASE_URL in `env`. Without Redis on the machine it goes on
 * without: `redisUrl` is then null.
 */
async function startServices({ redis = true, postgres = true, env = process.env, log = toStderr } = {}) {
  const services = {
    redis: null,
    postgres: null,
    redisUrl: (redis && env.REDIS_URL) || null,
    databaseUrl: (postgres && env.DATABASE_URL) || null,
    async stop() {
      await Promise.all([this.redis?.stop(), this.postgres?.stop()]);
    },
  };
  const startRedis = async () => {
    if (!redis || services.redisUrl || !(await ensureInstalled({ log })).redisServer) return;
    services.redis = await RedisServer.start();
    services.redisUrl = services.redis.url;
  };
  const startPostgres = async () => {
    if (!postgres) return;
    if (services.databaseUrl) {
      const [{ known }] = await query(services.databaseUrl, ["SELECT to_regclass('platform.user_sessions') AS known"]);
      if (!known) await applySchema(services.databaseUrl);
      return;
    }
    services.postgres = await PostgresServer.start();
    services.databaseUrl = services.postgres.url;
  };
  const results = await Promise.allSettled([startRedis(), startPostgres()]);
  const failed = results.find(({ status }) => status === 'rejected');
  if (failed) {
    await services.stop();
    throw failed.reason;
  }
  return services;
}

module.exports = {
  ensureBrowser,
  ensureInstalled,
  makeCertificates,
  RedisServer,
  PostgresServer,
  startServices,
};
