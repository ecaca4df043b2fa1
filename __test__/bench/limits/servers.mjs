// The server of the third table: one Redis of its own, which each cell finds empty.

import { Servers as RedisAlone } from '../redis/servers.mjs';

const ATTEMPTS = 3;

export class Servers extends RedisAlone {
  prepare() {}

  /** Limits are asked for without naming a server. */
  get environment() {
    return { ...super.environment, REDIS_URL: this.redis.url };
  }

  /** A cell that went on without Redis says nothing of it, and is measured again. */
  async around(measureCell, { title, peer }) {
    for (let attempt = 1; ; attempt += 1) {
      await this.redis.cli('FLUSHALL');
      const { withoutRedis, ...result } = await measureCell();
      if (!withoutRedis) return result;
      if (attempt === ATTEMPTS) throw new Error(`${withoutRedis}, in each of ${ATTEMPTS} attempts`);
      console.log(`${title}, ${peer}: measured again, because ${withoutRedis}.`);
    }
  }
}
