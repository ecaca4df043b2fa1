// What sessions have to reach, against others in the same run where that is possible.

import { measured, medianOf, ratio, target } from '../summary.mjs';
import { CACHED_SESSIONS, SESSIONS_A_USER, STEADY } from './cases.mjs';

const MEGABYTE = 1_000_000;
const inEnglish = (count) => count.toLocaleString('en-US');

/** Rounds with what a revocation took in milliseconds; only those where so many were really there, which is what the case is about. */
const revoking = (cells, measure, cached) =>
  cells
    .filter((cell) => cell.case === `revoke-${cached}` && cell.cachedLocally >= 0.99 * cached)
    .map((cell) => ({ round: cell.round, value: cell[measure] / 1000 }));

/** The median of what `some` have by what `others` have in the same round. */
function byRound(some, others) {
  const values = some.flatMap(({ round, value }) => others.filter((other) => other.round === round).map((other) => value / other.value));
  return medianOf(values);
}

export function targets(cells, { binary, require }) {
  const ours = (measure, id) => measured(cells, measure, id, 'addon');
  const against = (measure, id, peer) => ratio(cells, measure, id, 'addon', peer);
  const atMost = (text, value, most, unit, digits) => target(text, value, (each) => each <= most, unit, digits);
  const longest = medianOf(revoking(cells, 'p99', 100_000).map(({ value }) => value));
  const grown = byRound(revoking(cells, 'p50', 100_000), revoking(cells, 'p50', CACHED_SESSIONS));
  const size = binary ? binary.bytes / MEGABYTE : null;
  const loading = require ? require.addon.median : null;
  return [
    atMost(`hot, ${inEnglish(CACHED_SESSIONS)} sessions: a call at most 0.5 us, awaited`, ours('awaited', 'hot-1'), 0.5, ' us', 2),
    atMost(`hot, ${inEnglish(CACHED_SESSIONS)} sessions: p99 at most 3 us`, ours('p99', 'hot-1'), 3, ' us', 2),
    target("hot: a call takes less than lru-cache's by SHA-256", against('awaited', 'hot-1', 'lru'), (times) => times < 1, 'x', 2),
    atMost('hot among a million: a call at most 2.5 us, awaited', ours('awaited', 'million'), 2.5, ' us', 2),
    atMost('memory of a session in the process at most 700 bytes', ours('nativeBytes', 'million'), 700, ' bytes', 0),
    atMost('Redis hit, 1 in flight: p50 at most 1.3x a bare GET by this client', against('p50', 'redis-1', 'addon-get'), 1.3, 'x', 2),
    target(
      "Redis hit, 50 in flight: throughput at least 1.3x cache-aside's",
      against('throughput', 'redis-50', 'cache-aside'),
      (value) => value >= 1.3,
      'x',
      2,
    ),
    atMost("Redis hit, 50 in flight: main-thread time at most 0.5x cache-aside's", against('mainThread', 'redis-50', 'cache-aside'), 0.5, 'x', 2),
    atMost(`${SESSIONS_A_USER} sessions revoked, ${inEnglish(100_000)} others cached: p99 at most 10 ms`, longest, 10, ' ms', 1),
    atMost(`the same by that with ${inEnglish(CACHED_SESSIONS)} others cached: p50 at most 1.3x`, grown, 1.3, 'x', 2),
    // None at all would be activity that is lost.
    target('activity: at most 1 statement in 1,000 validations', ours('updates', 'steady'), (value) => value > 0 && value <= 1, '', 2),
    atMost(
      `${inEnglish(STEADY.sessions)} sessions, ${inEnglish(STEADY.callsASecond)} validations a second: at most 1.2 queries to Postgres a session in the life of a copy`,
      ours('reads', 'steady'),
      1.2,
      '',
      2,
    ),
    atMost('stripped `.node` at most 10 MB', size, 10, ' MB', 1),
    atMost('`require` at most 20 ms', loading, 20, ' ms', 1),
  ];
}
