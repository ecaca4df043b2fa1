// The server of the second table: one Redis of its own for all cells, filled once.

import { RedisServer, ensureInstalled } from '../../../scripts/services.mjs';
import { fill } from './data.mjs';

export class Servers {
  static async start() {
    if (!(await ensureInstalled()).redisServer) throw new Error('The benchmark needs a redis-server on this machine.');
    const servers = new this();
    servers.redis = await RedisServer.start();
    await servers.prepare();
    return servers;
  }

  prepare() {
    return fill(this.redis.url);
  }

  /** Of the cells. Every client is told the server by its options, so that ours need not warn of what is missing here. */
  get environment() {
    return { STUDIO_REDIS_LOG: 'error' };
  }

  get forCells() {
    return { redisUrl: this.redis.url };
  }

  around(measureCell) {
    return measureCell();
  }

  async versions() {
    const info = await this.redis.cli('INFO', 'server');
    return [`Redis ${/redis_version:(\S+)/.exec(info)?.[1] ?? '?'}`];
  }

  async stop() {
    await this.redis.stop();
  }
}
