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
  const panel = (measure, inFlight) => {
    const cases = CASES.filter((each) => each.inFlight === inFlight && rows.some((row) => row.case === each.id));
    const plots = HALVES.map((sets) => ({
      axis: measure.axis,
      groups: cases
        .filter(({ set }) => sets.includes(set))
        .map(({ id, short }) => ({ label: short, values: series.map(({ peer }) => value(id, peer, measure)) })),
    }));
    return {
      title: `${measure.title}, ${inFlight} in flight (${measure.better})`,
      plots: plots.filter(({ groups }) => groups.length > 0),
    };
  };
  const panels = MEASURES.flatMap((measure) => [50, 500].map((inFlight) => panel(measure, inFlight)));
  return chart({
    title: 'Redis commands: throughput and main-thread time a call',
    series,
    panels: panels.filter(({ plots }) => plots.length > 0),
  });
}
