// From the numbers of all rounds to what is reported: medians with their range, and the targets.

import { CASES } from './cases.mjs';
import { PEERS } from './peers.mjs';

const MEASURES = ['throughput', 'p50', 'p99', 'mainThread', 'loop', 'cpu', 'queries'];
const MEGABYTE = 1_000_000;

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

const spread = (values) => ({ median: median(values), min: Math.min(...values), max: Math.max(...values) });

/** `cells` are results with their `round`, `peer` and `case`; the rows come in the order of CASES, then of PEERS. */
export function summarize(cells) {
  const rows = [];
  for (const { id } of CASES) {
    for (const peer of Object.keys(PEERS)) {
      const rounds = cells.filter((cell) => cell.case === id && cell.peer === peer);
      if (rounds.length === 0) continue;
      const row = { case: id, peer };
      for (const measure of MEASURES) row[measure] = spread(rounds.map((cell) => cell[measure]));
      row.stampede = rounds[0].stampede === null ? null : median(rounds.map((cell) => cell.stampede));
      row.failed = rounds.reduce((sum, cell) => sum + cell.failed, 0);
      row.failure = rounds.find((cell) => cell.failure)?.failure ?? null;
      rows.push(row);
    }
  }
  return rows;
}

/**
 * How many times the other peer's number ours is: the median over rounds of neighbours in time, because a machine that
 * slows down half-way slows both.
 */
function ratio(cells, measure, id) {
  const values = [];
  for (const ours of cells.filter((cell) => cell.peer === 'addon' && cell.case === id)) {
    const theirs = cells.find((cell) => cell.peer === 'cache-aside' && cell.case === id && cell.round === ours.round);
    if (theirs) values.push(ours[measure] / theirs[measure]);
  }
  return values.length > 0 ? median(values) : null;
}

/** Each target with what was measured; `met` is null where nothing was. */
export function targets(cells, { binary, require }) {
  const rate = ratio(cells, 'throughput', 'warm-50');
  const mainThread = ratio(cells, 'mainThread', 'warm-50');
  const target = (text, value, met, unit, digits) => ({
    text,
    measured: value === null ? 'not measured' : `${value.toFixed(digits)}${unit}`,
    met: value === null ? null : met(value),
  });
  const size = binary ? binary.bytes / MEGABYTE : null;
  const loading = require ? require.addon.median : null;
  return [
    target("warm, 50 in flight: throughput at least 1.3x cache-aside's", rate, (value) => value >= 1.3, 'x', 2),
    target("warm, 50 in flight: main-thread time at most 0.5x cache-aside's", mainThread, (value) => value <= 0.5, 'x', 2),
    target('stripped `.node` at most 10 MB', size, (value) => value <= 10, ' MB', 1),
    target('`require` at most 20 ms', loading, (value) => value <= 20, ' ms', 1),
  ];
}
