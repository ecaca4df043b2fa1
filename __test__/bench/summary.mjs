// From the numbers of all rounds to what is reported: medians with their range, ratios, and targets.

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

export const spreadOf = (values) => ({ median: median(values), min: Math.min(...values), max: Math.max(...values) });

const MEASURES = ['throughput', 'p50', 'p99', 'mainThread', 'loop', 'cpu'];

/** `cells` are results with their `round`, `peer` and `case`; the rows come in the order of the cases, then of the peers. */
export function summarize(table, cells) {
  const rows = [];
  for (const { id } of table.cases) {
    for (const peer of Object.keys(table.peers)) {
      const rounds = cells.filter((cell) => cell.case === id && cell.peer === peer);
      if (rounds.length === 0) continue;
      const row = { case: id, peer };
      for (const measure of [...MEASURES, ...table.measures]) {
        row[measure] = (rounds[0][measure] ?? null) === null ? null : spreadOf(rounds.map((cell) => cell[measure]));
      }
      row.failed = rounds.reduce((sum, cell) => sum + cell.failed, 0);
      row.failure = rounds.find((cell) => cell.failure)?.failure ?? null;
      rows.push(row);
    }
  }
  return rows;
}

/** `null` of nothing. */
export const medianOf = (values) => (values.length > 0 ? median(values) : null);

/** The median over the rounds; `null` where it was not measured. */
export function measured(cells, measure, id, peer) {
  const values = cells.filter((cell) => cell.case === id && cell.peer === peer).map((cell) => cell[measure] ?? null);
  return values.includes(null) ? null : medianOf(values);
}

/**
 * How many times the number of `theirs` that of `ours` is: the median over rounds of neighbours in time, because a machine
 * that slows down half-way slows both. `null` where one of them was not measured.
 */
export function ratio(cells, measure, id, ours, theirs) {
  const values = [];
  for (const our of cells.filter((cell) => cell.peer === ours && cell.case === id)) {
    const their = cells.find((cell) => cell.peer === theirs && cell.case === id && cell.round === our.round);
    if (their) values.push(our[measure] / their[measure]);
  }
  return medianOf(values);
}

/** A target with what was measured; `met` is null where nothing was. */
export const target = (text, value, met, unit, digits) => ({
  text,
  measured: value === null ? 'not measured' : `${value.toFixed(digits)}${unit}`,
  met: value === null ? null : met(value),
});
