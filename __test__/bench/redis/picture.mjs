// The picture of the second table: throughput and main-thread time with many calls in flight. Calls of many commands
// have a scale of their own.

import { chart } from '../chart.mjs';
import { CASES } from './cases.mjs';

const SERIES = [
  { peer: 'ioredis', label: 'ioredis', colour: 'orange' },
  { peer: 'ioredis-auto', label: 'ioredis, auto-pipelining', colour: 'yellow' },
  { peer: 'node-redis', label: 'node-redis', colour: 'green' },
  { peer: 'glide', label: 'valkey-glide', colour: 'purple' },
  { peer: 'ours', label: 'this package', colour: 'blue' },
];
const HALVES = [
  ['get', 'set', 'hgetall', 'incr'],
  ['mget', 'pipeline'],
];
const THROUGH = ['get', 'get-tls', 'get-cluster'];
const MANY = [50, 500];
const MEASURES = [
  { measure: 'throughput', title: 'Throughput', better: 'more is better', axis: 'thousand calls a second', scale: 1 / 1000 },
  { measure: 'mainThread', title: 'Main-thread time', better: 'less is better', axis: 'microseconds a call', scale: 1 },
];

export function picture(rows) {
  const series = SERIES.filter(({ peer }) => rows.some((row) => row.peer === peer));
  const value = (id, peer, { measure, scale }) => {
    const row = rows.find((each) => each.case === id && each.peer === peer);
    return row && row[measure].median * scale;
  };
  const plot = (measure, sets, inFlight, more) => ({
    axis: measure.axis,
    groups: CASES.filter((each) => each.inFlight === inFlight && sets.includes(each.set))
      .filter(({ id }) => rows.some((row) => row.case === id))
      .map(({ id, short }) => ({ label: short, ...more, values: series.map(({ peer }) => value(id, peer, measure)) })),
  });
  const panel = (measure, title, plots) => ({
    title: `${measure.title}, ${title} (${measure.better})`,
    plots: plots.filter(({ groups }) => groups.length > 0),
  });
  const panels = MEASURES.flatMap((measure) => [
    ...MANY.map((inFlight) => panel(measure, `${inFlight} in flight`, HALVES.map((sets) => plot(measure, sets, inFlight)))),
    panel(measure, 'plain, through TLS and from a Cluster', MANY.map((inFlight) => plot(measure, THROUGH, inFlight, { quiet: `${inFlight} in flight` }))),
  ]);
  return chart({
    title: 'Redis commands: throughput and main-thread time a call',
    series,
    panels: panels.filter(({ plots }) => plots.length > 0),
  });
}
