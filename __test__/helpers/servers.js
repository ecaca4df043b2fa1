'use strict';

// Servers of a test file's own, for faults that the other files must not feel. They end after all tests of the file.

const { RedisServer, PostgresServer, ensureInstalled } = require('../../scripts/services/index.cjs');
const { RedisCluster } = require('../../scripts/services/cluster.cjs');
const { SentinelDeployment } = require('../../scripts/services/sentinel.cjs');
const { freePort, sleep, until } = require('../../scripts/services/net.cjs');
const { Proxy } = require('./proxy.js');
const { FakeRedis } = require('./fake-redis.js');

const started = [];

function track(server, end) {
  started.push(() => end.call(server));
  return server;
}

/** A Redis of one's own; see `RedisServer.start` for the options. */
const startRedis = async (options) => {
  const server = await RedisServer.start(options);
  return track(server, server.stop);
};

/** A Postgres of one's own with Studio's schema; see `PostgresServer.start` for the options. */
const startPostgres = async (options) => {
  const server = await PostgresServer.start(options);
  // At once, because nobody will read what an orderly end takes seconds to write.
  return track(server, async () => {
    await server.process.end();
    await server.stop();
  });
};

/** A primary, replicas and sentinels of one's own; see `SentinelDeployment.start` for the options. */
const startSentinels = async (options) => {
  const deployment = await SentinelDeployment.start(options);
  return track(deployment, deployment.stop);
};

/** A Redis Cluster of one's own; see `RedisCluster.start` for the options. */
const startCluster = async (options) => {
  const cluster = await RedisCluster.start(options);
  return track(cluster, cluster.stop);
};

/** A proxy in front of a port; see proxy.js. */
const startProxy = async (targetPort) => {
  const proxy = await Proxy.start(targetPort);
  return track(proxy, proxy.close);
};

/** A server that misbehaves as a Redis; see fake-redis.js. */
const startFakeRedis = async () => {
  const server = await FakeRedis.start();
  return track(server, server.close);
};

/** Ends everything that was started here. */
async function endServers() {
  await Promise.all(started.splice(0).map((end) => end()));
}

if (typeof afterAll === 'function') afterAll(endServers);

module.exports = {
  startRedis,
  startPostgres,
  startSentinels,
  startCluster,
  startProxy,
  startFakeRedis,
  endServers,
  ensureInstalled,
  freePort,
  sleep,
  until,
};
