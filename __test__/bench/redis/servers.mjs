// The servers of the second table: a Redis of its own for all cells, another one behind TLS, and a Cluster of three, all
// filled once with the same.

import { RedisServer, ensureInstalled } from '../../../scripts/services.mjs';
import { makeCertificates } from '../../../scripts/services/certificates.cjs';
import { RedisCluster } from '../../../scripts/services/cluster.cjs';
import { makeFolder, removeFolder } from '../../../scripts/services/keeping.cjs';
import { HASHES, LARGE_VALUES, SMALL_VALUES } from './data.mjs';
import { openRedis } from './ioredis.mjs';

/** Writes everything; key by key, because the keys are anywhere in a Cluster. */
async function fill(servers) {
  const redis = openRedis(servers);
  try {
    for (const { keys, valueFor } of [SMALL_VALUES, LARGE_VALUES]) {
      await Promise.all(keys.map((key, number) => redis.set(key, valueFor(number))));
    }
    await Promise.all(HASHES.keys.map((key, number) => redis.hset(key, HASHES.valueFor(number))));
  } finally {
    await redis.quit();
  }
}

export class Servers {
  static async start() {
    if (!(await ensureInstalled()).redisServer) throw new Error('The benchmark needs a redis-server on this machine.');
    const servers = new this();
    servers.redis = await RedisServer.start();
    await servers.prepare();
    return servers;
  }

  async prepare() {
    this.folder = await makeFolder('certificates');
    this.certificates = makeCertificates(this.folder);
    this.encrypted = await RedisServer.start({ tls: { certificates: this.certificates, protocols: 'TLSv1.3' } });
    this.cluster = await RedisCluster.start({ primaries: 3 });
    for (const through of ['plain', 'tls', 'cluster']) await fill({ ...this.forCells, through });
  }

  /** Of the cells. Every client is told the server by its options, so that ours need not warn of what is missing here. */
  get environment() {
    return { STUDIO_REDIS_LOG: 'error', ...(this.certificates && { REDIS_CA_CERT: this.certificates.ca.certBase64 }) };
  }

  get forCells() {
    return {
      redisUrl: this.redis.url,
      tlsUrl: this.encrypted?.url,
      clusterUrls: this.cluster?.nodes.map(({ server }) => server.url),
      ca: this.certificates?.ca.cert,
    };
  }

  around(measureCell) {
    return measureCell();
  }

  async versions() {
    const info = await this.redis.cli('INFO', 'server');
    return [`Redis ${/redis_version:(\S+)/.exec(info)?.[1] ?? '?'}`];
  }

  async stop() {
    await Promise.all([this.redis.stop(), this.encrypted?.stop(), this.cluster?.stop()]);
    if (this.folder) await removeFolder(this.folder);
  }
}
