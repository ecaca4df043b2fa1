// The first table: session validation against what one would write without this package.

import { requireTime, binarySize } from '../footprint.mjs';
import { CASES } from './cases.mjs';
import { page } from './page.mjs';
import { PEERS } from './peers.mjs';
import { picture } from './picture.mjs';
import { Servers } from './servers.mjs';
import { targets } from './targets.mjs';

async function footprint({ peers, scale, addon, root }) {
  if (!peers.includes('addon')) return { binary: null, require: null };
  const require = {
    count: scale.requires,
    addon: await requireTime([addon], { count: scale.requires, cwd: root }),
    peers: await requireTime(['ioredis', 'pg'], { count: scale.requires, cwd: root }),
  };
  return { binary: binarySize(addon), require };
}

/** What a cell says of itself in one line, beside its throughput. */
function progress({ queries, awaited, local, bytes, nativeBytes, reads, updates, cachedLocally }) {
  const parts = [
    [queries, (value) => `${value.toFixed(2)} queries`],
    [awaited, (value) => `${value.toFixed(3)} us awaited`],
    [local, (value) => `${value.toFixed(1)} % in the process`],
    [bytes, (value) => `${value.toFixed(0)} bytes a session, ${nativeBytes.toFixed(0)} of them native`],
    [reads, (value) => `${value.toFixed(2)} queries a session and life`],
    [updates, (value) => `${value.toFixed(2)} updates a thousand`],
    [cachedLocally, (value) => `${value} in the process`],
  ];
  return parts
    .filter(([value]) => (value ?? null) !== null)
    .map(([value, text]) => text(value))
    .join(', ');
}

export const table = {
  id: 'sessions',
  cases: CASES,
  peers: PEERS,
  packages: ['ioredis', 'pg', 'lru-cache', 'bentocache'],
  /** Beside those of every table. */
  measures: ['queries', 'stampede', 'awaited', 'local', 'bytes', 'nativeBytes', 'reads', 'updates', 'cachedLocally'],
  /**
   * `sessions`: enough for a cold cell at full speed, so that it rarely ends early. `many`: what the process holds in the largest
   * case. `ttlSeconds`: the life of a copy in the case that goes on for two of them.
   */
  scales: {
    full: { rounds: 3, seconds: 1.6, warmUpMs: 600, sessions: 50_000, requires: 20, many: 1_000_000, ttlSeconds: 10 },
    quick: { rounds: 1, seconds: 0.3, warmUpMs: 150, sessions: 8000, requires: 5, many: 200_000, ttlSeconds: 2 },
  },
  /** What a cell takes beside its warm-up and its measured time. */
  secondsAround: 0.8,
  start: (scale) => Servers.start(scale),
  progress,
  footprint,
  page: ({ results, ...rest }) => page({ ...rest, targets: targets(results, rest.footprint) }),
  picture,
};
