// The picture of the fourth table: throughput and main-thread time of the route.

import { chart } from '../chart.mjs';
import { CASES, CONNECTIONS } from './cases.mjs';

const SERIES = [
  { peer: 'none', label: 'no session asked for', colour: 'grey' },
  { peer: 'cache-aside', label: 'cache-aside', colour: 'orange' },
  { peer: 'addon', label: 'this package', colour: 'blue' },
];
const LABELS = { process: 'in the process', redis: 'in Redis alone' };

export function picture(rows) {
  const plot = (measure, axis, scale) => ({
    axis,
    groups: CASES.filter(({ id }) => rows.some((row) => row.case === id)).map(({ id }) => ({
      label: LABELS[id],
      quiet: `${CONNECTIONS} connections`,
      values: SERIES.map(({ peer }) => {
        const value = rows.find((row) => row.case === id && row.peer === peer)?.[measure]?.median;
        return value === undefined ? undefined : value * scale;
      }),
    })),
  });
  return chart({
    title: 'A validated route in Next.js on one processor',
    series: SERIES,
    panels: [
      { title: 'Throughput (more is better)', plots: [plot('throughput', 'thousand requests a second', 1 / 1000)] },
      { title: 'Main-thread time (less is better)', plots: [plot('mainThread', 'microseconds a request', 1)] },
    ],
  });
}
