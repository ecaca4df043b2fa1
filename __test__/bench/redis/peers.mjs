// Who is measured: each peer opens with the URL of Redis, and is used in the way that its documentation recommends for
// speed. `through` says where its calls go, and `ca` is whose certificates it accepts. `entry` reads one reply of a
// pipeline and `field` one field of a hash, because the peers' shapes differ. A peer is imported only where it is measured.

import { createRequire } from 'node:module';
import { CASES } from './cases.mjs';

const require = createRequire(import.meta.url);

/** What ioredis and this package have in common. */
const pairs = { entry: (replies, index) => replies[index][1], field: (hash, name) => hash[name], fields: (hash) => Object.keys(hash).length };

async function openIoredis(cell, options) {
  const { openRedis } = await import('./ioredis.mjs');
  const redis = openRedis(cell, options);
  return {
    ...pairs,
    get: (key) => redis.get(key),
    set: (key, value) => redis.set(key, value),
    hgetall: (key) => redis.hgetall(key),
    incr: (key) => redis.incr(key),
    mget: (keys) => redis.mget(keys),
    pipeline(keys) {
      const batch = redis.pipeline();
      for (const key of keys) batch.get(key);
      return batch.exec();
    },
    close: () => redis.quit(),
  };
}

async function openNodeRedis({ redisUrl, tlsUrl, clusterUrls, ca, through }) {
  const { createClient, createCluster } = await import('redis');
  const open = {
    tls: () => createClient({ url: tlsUrl, socket: { ca } }),
    cluster: () => createCluster({ rootNodes: clusterUrls.map((url) => ({ url })) }),
    plain: () => createClient({ url: redisUrl }),
  };
  const redis = open[through]();
  await redis.connect();
  return {
    entry: (replies, index) => replies[index],
    field: (hash, name) => hash[name],
    fields: (hash) => Object.keys(hash).length,
    get: (key) => redis.get(key),
    set: (key, value) => redis.set(key, value),
    hgetall: (key) => redis.hGetAll(key),
    incr: (key) => redis.incr(key),
    mget: (keys) => redis.mGet(keys),
    pipeline(keys) {
      const batch = redis.multi();
      for (const key of keys) batch.get(key);
      return batch.execAsPipeline();
    },
    close: () => redis.close(),
  };
}

async function openGlide({ redisUrl, tlsUrl, clusterUrls, ca, through }) {
  const { Batch, GlideClient, GlideClusterClient, Logger } = await import('@valkey/valkey-glide');
  Logger.setLoggerConfig('off');
  const addresses = (...urls) => urls.map((url) => ({ host: new URL(url).hostname, port: Number(new URL(url).port) }));
  // Its default deadline of 250 ms is shorter than 500 pipelines in flight may take here.
  const options = { requestTimeout: 5000 };
  const advancedConfiguration = { tlsAdvancedConfiguration: { rootCertificates: ca } };
  const open = {
    tls: () => GlideClient.createClient({ ...options, addresses: addresses(tlsUrl), useTLS: true, advancedConfiguration }),
    cluster: () => GlideClusterClient.createClient({ ...options, addresses: addresses(...clusterUrls) }),
    plain: () => GlideClient.createClient({ ...options, addresses: addresses(redisUrl) }),
  };
  const redis = await open[through]();
  return {
    entry: (replies, index) => replies[index],
    field: (hash, name) => hash.find(({ field }) => field === name)?.value,
    fields: (hash) => hash.length,
    get: (key) => redis.get(key),
    set: (key, value) => redis.set(key, value),
    hgetall: (key) => redis.hgetall(key),
    incr: (key) => redis.incr(key),
    mget: (keys) => redis.mget(keys),
    pipeline(keys) {
      const batch = new Batch(false);
      for (const key of keys) batch.get(key);
      return redis.exec(batch, true);
    },
    close: () => redis.close(),
  };
}

/** Told of `ca` by its environment. */
function openOurs({ redisUrl, tlsUrl, clusterUrls, through, addon }) {
  const { createRedisClient, shutdown } = require(addon);
  const urls = {
    tls: tlsUrl,
    cluster: `redis-cluster://${clusterUrls.map((url) => new URL(url).host).join(',')}`,
    plain: redisUrl,
  };
  const redis = createRedisClient('bench', { connectionString: urls[through] });
  return {
    ...pairs,
    get: (key) => redis.get(key),
    set: (key, value) => redis.set(key, value),
    hgetall: (key) => redis.hgetall(key),
    incr: (key) => redis.incr(key),
    mget: (keys) => redis.mget(...keys),
    pipeline(keys) {
      const batch = redis.pipeline();
      for (const key of keys) batch.get(key);
      return batch.exec();
    },
    async close() {
      await redis.close();
      await shutdown();
    },
  };
}

/** `only` limits a peer to the cases that say something about it; `addon` marks the one that needs the addon. */
export const PEERS = {
  ioredis: { title: '`ioredis`', open: openIoredis },
  'ioredis-auto': {
    title: '`ioredis`, `enableAutoPipelining`',
    open: (urls) => openIoredis(urls, { enableAutoPipelining: true }),
    // Alone there is nothing to join, and a pipeline is one already.
    only: CASES.filter(({ set, inFlight }) => inFlight > 1 && set !== 'pipeline').map(({ id }) => id),
  },
  'node-redis': { title: '`redis` (node-redis)', open: openNodeRedis },
  glide: { title: '`@valkey/valkey-glide`', open: openGlide },
  ours: { title: '**this package**', open: openOurs, addon: true },
};
