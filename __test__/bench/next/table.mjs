// The fourth table: a route of a Next.js server that validates a session, against the same with a cache-aside.

import { CASES, PEERS } from './cases.mjs';
import { page } from './page.mjs';
import { picture } from './picture.mjs';
import { Servers } from './servers.mjs';
import { targets } from './targets.mjs';

export const table = {
  id: 'next',
  cases: CASES,
  peers: PEERS,
  packages: ['ioredis', 'pg', 'autocannon'],
  /** Beside those of every table. */
  measures: [],
  scales: {
    full: { rounds: 3, seconds: 3, warmUpMs: 2000 },
    quick: { rounds: 1, seconds: 0.5, warmUpMs: 500 },
  },
  /** What a cell takes beside its warm-up and its measured time. */
  secondsAround: 0.5,
  start: () => Servers.start(),
  progress: ({ cpu }) => `process ${cpu.toFixed(1)} us`,
  footprint: () => null,
  page: ({ results, ...rest }) => page({ ...rest, results, targets: targets(results) }),
  picture,
};
