// What the client has to reach, against ioredis in the same run.

import { ratio, target } from '../summary.mjs';
import { CASES } from './cases.mjs';

/** Every case at 50 or 500 in flight; a cell with rejected calls counts as not reached. */
function slowest(cells) {
  const text = "at 50 and 500 in flight: no throughput below ioredis'";
  const compared = CASES.filter(({ inFlight }) => inFlight > 1)
    .map(({ id, title }) => ({ id, title, times: ratio(cells, 'throughput', id, 'ours', 'ioredis') }))
    .filter(({ times }) => times !== null)
    .sort((a, b) => a.times - b.times);
  if (compared.length === 0) return { text, measured: 'not measured', met: null };
  const rejected = compared.find(({ id }) => cells.some((cell) => cell.case === id && cell.peer === 'ours' && cell.failed > 0));
  if (rejected) return { text, measured: `calls were rejected (${rejected.title})`, met: false };
  const below = compared.filter(({ times }) => times < 1);
  const named = below.length > 0 ? below : compared.slice(0, 1);
  return {
    text,
    measured: `${below.length > 0 ? '' : 'lowest '}${named.map(({ title, times }) => `${times.toFixed(2)}x (${title})`).join(', ')}`,
    met: below.length === 0,
  };
}

export function targets(cells) {
  const against = (measure, id, peer = 'ioredis') => ratio(cells, measure, id, 'ours', peer);
  const atLeast = (text, value, least) => target(text, value, (times) => times >= least, 'x', 2);
  const atMost = (text, value, most) => target(text, value, (times) => times <= most, 'x', 2);
  return [
    atLeast("GET, 50 in flight: throughput at least 2x ioredis'", against('throughput', 'get-50'), 2),
    atLeast("GET, 500 in flight: throughput at least 4x ioredis'", against('throughput', 'get-500'), 4),
    atLeast('GET, 500 in flight: throughput at least 2.5x that with auto-pipelining', against('throughput', 'get-500', 'ioredis-auto'), 2.5),
    atMost("GET, 50 in flight: main-thread time at most 0.25x ioredis'", against('mainThread', 'get-50'), 0.25),
    atMost("GET, 500 in flight: main-thread time at most 0.25x ioredis'", against('mainThread', 'get-500'), 0.25),
    atMost("GET, 1 in flight: p50 at most 1.25x ioredis'", against('p50', 'get-1'), 1.25),
    atLeast("GET through TLS, 50 in flight: throughput at least 2x ioredis'", against('throughput', 'get-tls-50'), 2),
    atLeast("GET from a Cluster, 50 in flight: throughput at least 2x ioredis.Cluster's", against('throughput', 'get-cluster-50'), 2),
    slowest(cells),
  ];
}
