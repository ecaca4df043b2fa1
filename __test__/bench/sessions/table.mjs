// The first table: session validation against what one would write without this package.

import { requireTime, binarySize } from '../footprint.mjs';
import { ratio, target } from '../summary.mjs';
import { CASES } from './cases.mjs';
import { page } from './page.mjs';
import { PEERS } from './peers.mjs';
import { picture } from './picture.mjs';
import { Servers } from './servers.mjs';

const MEGABYTE = 1_000_000;

async function footprint({ peers, scale, addon, root }) {
  if (!peers.includes('addon')) return { binary: null, require: null };
  const require = {
    count: scale.requires,
    addon: await requireTime([addon], { count: scale.requires, cwd: root }),
    peers: await requireTime(['ioredis', 'pg'], { count: scale.requires, cwd: root }),
  };
  return { binary: binarySize(addon), require };
}

function targets(cells, { binary, require }) {
  const against = (measure) => ratio(cells, measure, 'warm-50', 'addon', 'cache-aside');
  const size = binary ? binary.bytes / MEGABYTE : null;
  const loading = require ? require.addon.median : null;
  return [
    target("warm, 50 in flight: throughput at least 1.3x cache-aside's", against('throughput'), (value) => value >= 1.3, 'x', 2),
    target("warm, 50 in flight: main-thread time at most 0.5x cache-aside's", against('mainThread'), (value) => value <= 0.5, 'x', 2),
    target('stripped `.node` at most 10 MB', size, (value) => value <= 10, ' MB', 1),
    target('`require` at most 20 ms', loading, (value) => value <= 20, ' ms', 1),
  ];
}

export const table = {
  id: 'sessions',
  cases: CASES,
  peers: PEERS,
  packages: ['ioredis', 'pg'],
  /** Beside those of every table. */
  measures: ['queries', 'stampede'],
  /** Sessions: enough for a cold cell at full speed, so that it rarely ends early. */
  scales: {
    full: { rounds: 3, seconds: 3, warmUpMs: 600, sessions: 50_000, requires: 20 },
    quick: { rounds: 1, seconds: 0.3, warmUpMs: 150, sessions: 8000, requires: 5 },
  },
  /** What a cell takes beside its warm-up and its measured time. */
  secondsAround: 0.6,
  start: ({ sessions }) => Servers.start(sessions),
  progress: ({ queries }) => `${queries.toFixed(2)} queries`,
  footprint,
  page: ({ results, ...rest }) => page({ ...rest, targets: targets(results, rest.footprint) }),
  picture,
};
