// The third table: rate limits against other limiters.

import { CASES } from './cases.mjs';
import { page } from './page.mjs';
import { PEERS } from './peers.mjs';
import { picture } from './picture.mjs';
import { Servers } from './servers.mjs';
import { targets } from './targets.mjs';

/** What a cell says of itself in one line, beside its throughput. */
function progress({ cpu, awaited, local, asked, denied }) {
  const parts = [
    [awaited, (value) => `${value.toFixed(3)} us awaited`],
    [local, (value) => `${value.toFixed(1)} % in the process`],
    [asked, (value) => `${value.toFixed(1)} % scripts`],
    [denied, (value) => `${value.toFixed(1)} % denied`],
  ];
  const told = parts.filter(([value]) => (value ?? null) !== null).map(([value, text]) => text(value));
  return [`process ${cpu.toFixed(1)} us`, ...told].join(', ');
}

export const table = {
  id: 'limits',
  cases: CASES,
  peers: PEERS,
  packages: ['rate-limiter-flexible', 'rate-limit-redis', 'express-rate-limit', 'ioredis', 'autocannon'],
  /** Beside those of every table. */
  measures: ['awaited', 'local', 'asked', 'denied'],
  /** `loadMs`: how long a server is under load, which takes longer to settle. */
  scales: {
    full: { rounds: 3, seconds: 0.4, warmUpMs: 300, loadMs: 3000 },
    quick: { rounds: 1, seconds: 0.1, warmUpMs: 50, loadMs: 500 },
  },
  /** What a cell takes beside its warm-up and its measured time. */
  secondsAround: 0.3,
  start: () => Servers.start(),
  progress,
  footprint: () => null,
  page: ({ results, ...rest }) => page({ ...rest, results, targets: targets(results) }),
  picture,
};
