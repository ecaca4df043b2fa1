// What limits have to reach, against others in the same run where that is possible.

import { measured, ratio, target } from '../summary.mjs';
import { ALGORITHMS, BUSY, CLIENTS, KEYS, keysText } from './cases.mjs';

const inEnglish = (count) => count.toLocaleString('en-US');

/** What counts is the algorithm that is furthest from the target, which is named. */
function ofAll(text, valueOf, furthest, met, unit) {
  const values = ALGORITHMS.map(({ peer, title }) => ({ title, value: valueOf(peer) })).filter(({ value }) => value !== null);
  if (values.length === 0) return target(text, null, met, unit, 2);
  const { title, value } = values.sort((a, b) => furthest(a.value, b.value))[0];
  return target(text, value, met, `${unit} (${title})`, 2);
}

const lowest = (a, b) => a - b;
const highest = (a, b) => b - a;

/** As others are: a cell with rejected calls does not count as reached. */
function sound(cells, { text, measured: value, met }, ids) {
  const rejected = cells.find((cell) => ids.includes(cell.case) && ALGORITHMS.some(({ peer }) => peer === cell.peer) && cell.failed > 0);
  return rejected ? { text, measured: `${value}, calls were rejected`, met: false } : { text, measured: value, met };
}

/** Denied calls are answered in the process, which is not what the busy case is about. */
function mostlyAllowed(cells, { text, measured: value, met }, id, peer) {
  const denied = measured(cells, 'denied', id, peer);
  return denied > 1 ? { text, measured: `${value}, but ${denied.toFixed(0)} % were denied`, met: false } : { text, measured: value, met };
}

export function targets(cells) {
  const against = (id, peer, other = 'flexible') => ratio(cells, 'throughput', id, peer, other);
  const atLeast = (least) => (value) => value >= least;
  const atMost = (most) => (value) => value <= most;
  const kept = (id, peer) => {
    const times = against(id, peer, 'none');
    return times === null ? null : times * 100;
  };
  const [gcra, busy, hot, denied, process] = [`allowed-${KEYS}-50`, 'busy-50', 'allowed-1-500', 'denied-1-1', `process-allowed-${KEYS}`];
  const http = (clients, text) => {
    const id = `http-${clients}`;
    return sound(cells, target(`HTTP, ${text}: at least 90 % of the requests a second kept`, kept(id, 'sliding'), atLeast(90), ' %', 1), [id]);
  };
  return [
    sound(
      cells,
      target(`GCRA, ${keysText(KEYS)}, 50 in flight: throughput at least 2x rate-limiter-flexible's`, against(gcra, 'gcra'), atLeast(2), 'x', 2),
      [gcra],
    ),
    sound(
      cells,
      mostlyAllowed(
        cells,
        target(
          `sliding window, limit of ${inEnglish(BUSY.points)}, 50 in flight: throughput at least 1.5x rate-limiter-flexible's`,
          against(busy, 'sliding'),
          atLeast(1.5),
          'x',
          2,
        ),
        busy,
        'sliding',
      ),
      [busy],
    ),
    sound(
      cells,
      ofAll("one hot key, 500 in flight: throughput at least 5x rate-limiter-flexible's", (peer) => against(hot, peer), lowest, atLeast(5), 'x'),
      [hot],
    ),
    ofAll('a denied key: p50 at most 0.6 us, awaited', (peer) => measured(cells, 'p50', denied, peer), highest, atMost(0.6), ' us'),
    ofAll(
      `in the process, ${keysText(KEYS)}: a call at most 0.8 us, awaited`,
      (peer) => measured(cells, 'awaited', process, peer),
      highest,
      atMost(0.8),
      ' us',
    ),
    http(1, 'one client'),
    http(CLIENTS, `${inEnglish(CLIENTS)} clients`),
  ];
}
