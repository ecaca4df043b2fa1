// The second table: the Redis client against others.

import { CASES } from './cases.mjs';
import { page } from './page.mjs';
import { PEERS } from './peers.mjs';
import { picture } from './picture.mjs';
import { Servers } from './servers.mjs';
import { targets } from './targets.mjs';

export const table = {
  id: 'redis',
  cases: CASES,
  peers: PEERS,
  packages: ['ioredis', 'redis', '@valkey/valkey-glide'],
  /** Beside those of every table. */
  measures: [],
  /**
   * Many short cells: 690 of them take about 10 minutes. The warm-up is as long as what is measured, because V8 has
   * compiled the clients that are JavaScript only then: with 0.1 s they are up to a fifth slower.
   */
  scales: {
    full: { rounds: 5, seconds: 0.3, warmUpMs: 300 },
    quick: { rounds: 1, seconds: 0.1, warmUpMs: 50 },
  },
  /** What a cell takes beside its warm-up and its measured time. */
  secondsAround: 0.25,
  start: () => Servers.start(),
  progress: ({ cpu }) => `process ${cpu.toFixed(1)} us`,
  footprint: () => null,
  page: ({ results, ...rest }) => page({ ...rest, results, targets: targets(results) }),
  picture,
};
