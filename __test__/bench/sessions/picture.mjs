// The picture of the first table: throughput and main-thread time. Warm and cold have scales of their own, because a
// cache is an order of magnitude.

import { chart } from '../chart.mjs';
import { CASES } from './cases.mjs';

const SERIES = [
  { peer: 'postgres', label: 'Postgres by pg', colour: 'grey' },
  { peer: 'cache-aside', label: 'cache-aside on ioredis + pg', colour: 'orange' },
  { peer: 'addon', label: 'this package', colour: 'blue' },
];
const PANELS = [
  { measure: 'throughput', title: 'Throughput (more is better)', axis: 'thousand calls a second', scale: 1 / 1000 },
  { measure: 'mainThread', title: 'Main-thread time (less is better)', axis: 'microseconds a call', scale: 1 },
];

export function picture(rows) {
  const cases = CASES.filter(({ id }) => rows.some((row) => row.case === id));
  const halves = [cases.filter(({ set }) => set !== 'cold'), cases.filter(({ set }) => set === 'cold')].filter(({ length }) => length > 0);
  const of = (id, peer) => rows.find((row) => row.case === id && row.peer === peer);
  const plots = ({ measure, axis, scale }) =>
    halves.map((half) => ({
      axis,
      groups: half.map(({ id, set, inFlight }) => ({
        label: set === 'hot' ? 'warm, one token' : set,
        quiet: `${inFlight} in flight`,
        values: SERIES.map(({ peer }) => of(id, peer) && of(id, peer)[measure].median * scale),
      })),
    }));
  return chart({
    title: 'Session validation: throughput and main-thread time a call',
    series: SERIES,
    panels: PANELS.map((each) => ({ title: each.title, plots: plots(each) })),
  });
}
