// The picture of the third table: throughput and main-thread time through Redis, what a call takes that is answered in the
// process, and the requests that a server keeps.

import { chart } from '../chart.mjs';
import { BUSY, CASES, KEYS, keysText } from './cases.mjs';

/** What a peer does in memory takes the place of another one. */
const SERIES = [
  { peers: ['flexible'], label: 'rate-limiter-flexible', colour: 'orange' },
  { peers: ['flexible-blocked', 'flexible-memory'], label: 'the same in memory', colour: 'yellow' },
  { peers: ['express'], label: 'express-rate-limit', colour: 'purple' },
  { peers: ['gcra'], label: 'this: GCRA', colour: 'blue' },
  { peers: ['sliding'], label: 'this: sliding window', colour: 'green' },
  { peers: ['fixed'], label: 'this: fixed window', colour: 'grey' },
];
const THROUGHPUT = { measure: 'throughput', axis: 'thousand calls a second', scale: 1 / 1000 };
const MAIN_THREAD = { measure: 'mainThread', axis: 'microseconds a call', scale: 1 };
const AWAITED = { measure: 'awaited', axis: 'microseconds a call', scale: 1 };

const labelOf = {
  allowed: ({ keys }) => keysText(keys),
  busy: () => `limit ${BUSY.points.toLocaleString('en-US')}`,
  denied: () => 'denied, one key',
  process: ({ outcome, keys }) => `${outcome}, ${keysText(keys)}`,
  http: ({ clients }) => (clients === 1 ? 'one client' : `${clients.toLocaleString('en-US')} clients`),
};

export function picture(rows) {
  const series = SERIES.filter(({ peers }) => rows.some(({ peer }) => peers.includes(peer)));
  const medianOf = (id, peers, measure) => rows.find((row) => row.case === id && peers.includes(row.peer))?.[measure]?.median;
  const scaled = (value, scale) => (value === undefined ? undefined : value * scale);
  const group = (each, quiet, valueOf) => ({ label: labelOf[each.set](each), quiet, values: series.map(({ peers }) => valueOf(each.id, peers)) });
  const plot = (ids, quietOf, { measure, axis, scale }, only = () => true) => ({
    axis,
    groups: ids
      .map((id) => CASES.find((each) => each.id === id))
      .filter(({ id }) => rows.some((row) => row.case === id))
      .map((each) => group(each, quietOf(each), (id, peers) => (peers.every(only) ? scaled(medianOf(id, peers, measure), scale) : undefined))),
  });
  const inFlight = ({ inFlight: count }) => `${count} in flight`;
  const here = ({ place }) => (place === 'process' ? 'in the process' : 'known to be denied');
  const remote = [`allowed-${KEYS}-50`, `allowed-${KEYS}-500`, 'busy-50', 'allowed-1-50', 'allowed-1-500'];
  // Next to what asks Redis, the others could not be seen.
  const asksRedis = ['flexible', 'express'];
  const inProcess = ['denied-1-1', `process-allowed-${KEYS}`, `process-denied-${KEYS}`];
  const kept = {
    axis: 'percent of requests a second',
    groups: CASES.filter(({ id, set }) => set === 'http' && rows.some((row) => row.case === id && row.peer === 'none')).map((each) =>
      group(each, `${each.inFlight} connections`, (id, peers) => scaled(medianOf(id, peers, 'throughput'), 100 / medianOf(id, ['none'], 'throughput'))),
    ),
  };
  const panels = [
    { title: 'Through Redis: throughput (more is better)', plots: [plot(remote, inFlight, THROUGHPUT)] },
    { title: 'Through Redis: main-thread time (less is better)', plots: [plot(remote, inFlight, MAIN_THREAD)] },
    { title: 'Answered in the process, one at a time (less is better)', plots: [plot(inProcess, here, AWAITED, (peer) => !asksRedis.includes(peer))] },
    { title: 'A server behind a limiter: requests kept (more is better)', plots: [kept] },
  ];
  return chart({
    title: 'Rate limits: throughput, main-thread time, time of a call in the process, requests kept',
    series,
    panels: panels.map(({ title, plots }) => ({ title, plots: plots.filter(({ groups }) => groups.length > 0) })).filter(({ plots }) => plots.length > 0),
  });
}
