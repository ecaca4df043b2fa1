// What is measured: calls against a limit that are allowed or denied, how many at once, and of how many keys. Those through
// Redis are `optional`: on a machine that has no time for Redis there may be nothing to measure.

/** Where nothing is said of them: more keys than calls in flight, so that no two calls in flight share a key. */
export const KEYS = 1000;
export const MOST_KEYS = 100_000;

/** Each key is called so often that a sliding window has much to remember, and not so often that calls are denied. */
export const BUSY = { keys: 300, points: 1000, seconds: 1 };

export const CONNECTIONS = 50;
export const CLIENTS = 1000;

/** The algorithms of this package, as peers. */
export const ALGORITHMS = [
  { peer: 'gcra', title: 'GCRA' },
  { peer: 'sliding', title: 'sliding window' },
  { peer: 'fixed', title: 'fixed window' },
];

/** What every call fits in, for the ways of counting that have no bound that matters. */
const ROOM = { points: 1_000_000_000, seconds: 3600 };

/**
 * The most that a sliding window may have. One key alone would exceed it in a longer time, and in the process many
 * together would be more than it keeps.
 */
const slidingRoom = ({ place, keys }) => {
  if (place === 'process') return { points: 100_000, seconds: 0.01 };
  return { points: 100_000, seconds: keys === 1 ? 0.1 : 60 };
};

/** Of `RATE_LIMITS` the largest, which many clients together do not reach here; one client would. */
const apiRoom = ({ clients }) => (clients === 1 ? { points: 100_000, seconds: 1 } : { points: 10_000, seconds: 60 });

/** The limit that a cell calls with: `points` in so many `seconds`. */
export function limitOf({ peer, set, outcome, place, keys, clients }) {
  if (set === 'busy') return BUSY;
  if (outcome === 'denied') return { points: 1, seconds: 3600 };
  if (peer !== 'sliding') return ROOM;
  return set === 'http' ? apiRoom({ clients }) : slidingRoom({ place, keys });
}

const inEnglish = (count) => count.toLocaleString('en-US');
export const keysText = (count) => (count === 1 ? 'one key' : `${inEnglish(count)} keys`);

/** About how many keys are called once in a second, before anything is measured. */
const FILLED_A_SECOND = 30_000;
const filling = ({ keys }) => ({ secondsMore: () => keys / FILLED_A_SECOND });

const throughRedis = (outcome, keys, inFlight) => ({
  id: `${outcome}-${keys}-${inFlight}`,
  set: outcome,
  outcome,
  place: 'redis',
  optional: true,
  keys,
  inFlight,
  title: `${outcome}, ${keysText(keys)}, ${inFlight} in flight`,
  ...filling({ keys }),
});

const inProcess = (outcome, keys) => ({
  id: `process-${outcome}-${keys}`,
  set: 'process',
  outcome,
  place: 'process',
  keys,
  inFlight: 1,
  title: `${outcome} in the process, ${keysText(keys)}`,
});

const busy = (inFlight) => ({
  id: `busy-${inFlight}`,
  set: 'busy',
  place: 'redis',
  optional: true,
  keys: BUSY.keys,
  inFlight,
  title: `limit of ${inEnglish(BUSY.points)} a second, ${BUSY.keys} keys, ${inFlight} in flight`,
  secondsMore: () => BUSY.seconds,
  // For as long as a window lasts, so that the oldest calls leave it while the newest come.
  settings: ({ warmUpMs }) => ({ warmUpMs: Math.max(warmUpMs, BUSY.seconds * 1100) }),
});

const http = (clients) => ({
  id: `http-${clients}`,
  set: 'http',
  place: 'redis',
  optional: true,
  clients,
  inFlight: CONNECTIONS,
  title: `HTTP, ${clients === 1 ? 'one client' : `${inEnglish(clients)} clients`}, ${CONNECTIONS} connections`,
  secondsMore: ({ loadMs }) => (loadMs * 1.5) / 1000,
  settings: ({ loadMs }) => ({ warmUpMs: loadMs / 2, measuredMs: loadMs }),
});

const OUTCOMES = ['allowed', 'denied'];
const KEY_COUNTS = [1, KEYS, MOST_KEYS];

export const CASES = [
  ...OUTCOMES.flatMap((outcome) =>
    KEY_COUNTS.flatMap((keys) => [1, 50, 500].map((inFlight) => throughRedis(outcome, keys, inFlight))),
  ),
  ...[50, 500].map(busy),
  ...OUTCOMES.flatMap((outcome) => KEY_COUNTS.map((keys) => inProcess(outcome, keys))),
  ...[1, CLIENTS].map(http),
];
