// The picture of the first table: what a hot call takes, and throughput and main-thread time of the others. Redis hits and
// cold calls have scales of their own, because a cache is an order of magnitude.

import { chart } from '../chart.mjs';
import { CASES } from './cases.mjs';

const SERIES = [
  { peer: 'postgres', label: 'Postgres by pg', colour: 'grey' },
  { peer: 'cache-aside', label: 'cache-aside on ioredis', colour: 'orange' },
  { peer: 'lru', label: 'lru-cache by SHA-256', colour: 'yellow' },
  { peer: 'bentocache', label: 'bentocache', colour: 'purple' },
  { peer: 'addon', label: 'this package', colour: 'blue' },
];
const REMOTE = [
  { measure: 'throughput', title: 'Beyond the process: throughput (more is better)', axis: 'thousand calls a second', scale: 1 / 1000 },
  { measure: 'mainThread', title: 'Beyond the process: main-thread time (less is better)', axis: 'microseconds a call', scale: 1 },
];
const HOT = 'Hot, answered in the process (less is better)';

const labels = {
  hot: '1,000 sessions',
  million: 'a million',
  redis: 'Redis hit',
  'one-token': 'one token',
  cold: 'cold',
};

export function picture(rows) {
  const series = SERIES.filter(({ peer }) => rows.some((row) => row.peer === peer));
  const here = (...sets) => CASES.filter(({ id, set }) => sets.includes(set) && rows.some((row) => row.case === id));
  const value = (id, peer, measure) => rows.find((row) => row.case === id && row.peer === peer)?.[measure]?.median;
  const plot = (cases, { measure, axis, scale = 1 }) => ({
    axis,
    groups: cases.map(({ id, set, inFlight }) => ({
      label: labels[set],
      quiet: `${inFlight} in flight`,
      values: series.map(({ peer }) => {
        const found = value(id, peer, measure);
        return found === undefined ? undefined : found * scale;
      }),
    })),
  });
  const panel = (title, plots) => ({ title, plots: plots.filter(({ groups }) => groups.length > 0) });
  const alone = here('hot', 'million').filter(({ inFlight }) => inFlight === 1);
  const panels = [
    panel(HOT, [
      plot(here('hot', 'million'), { measure: 'awaited', axis: 'microseconds a call' }),
      plot(alone, { measure: 'p99', axis: 'p99, microseconds' }),
    ]),
    ...REMOTE.map((each) => panel(each.title, [plot(here('redis', 'one-token'), each), plot(here('cold'), each)])),
  ];
  return chart({
    title: 'Session validation: time of a hot call, throughput and main-thread time',
    series,
    panels: panels.filter(({ plots }) => plots.length > 0),
  });
}
