'use strict';

// What the tests of limits stand on: one call too many is not overlooked, and nothing is blamed that may have been
// right.

const { LAWS, ALGORITHMS, mostPerFixedWindow } = require('./fixtures/limits/verdict.js');

const MS = 1000;
const LIMIT = { limit: 10, window: 500 * MS };

/** Admissions that were decided at these milliseconds, give or take `unsure`. */
const at = (times, unsure = 0.5) => times.map((ms) => ({ begun: (ms - unsure) * MS, ended: (ms + unsure) * MS }));

/** `count` of them, one every `everyMs`. */
const series = (count, everyMs, fromMs = 0) => Array.from({ length: count }, (_, index) => fromMs + index * everyMs);

test('what keeps the limit is right', () => {
  // As fast as each algorithm allows, over many windows, whose calls overlap.
  const windows = [0, 501, 1002, 1503, 2004].flatMap((from) => series(10, 1, from));
  expect(LAWS['sliding-window'](at(windows), LIMIT)).toEqual([]);
  expect(LAWS['fixed-window'](at(windows), LIMIT)).toEqual([]);
  expect(LAWS['token-bucket'](at([...series(10, 1), ...series(50, 50, 50)]), LIMIT)).toEqual([]);
  for (const algorithm of ALGORITHMS) expect(LAWS[algorithm]([], LIMIT)).toEqual([]);
});

test('twice the limit around the end of a window is right for a fixed window alone', () => {
  const around = [0, ...series(9, 1, 490), ...series(10, 1, 502)];
  expect(LAWS['fixed-window'](at(around), LIMIT)).toEqual([]);
  expect(LAWS['sliding-window'](at(around), LIMIT)).toEqual(['19 within one window for a limit of 10']);
  expect(LAWS['token-bucket'](at(around), LIMIT)).toHaveLength(1);
});

test.each(ALGORITHMS)('%s: one too many is found, at once and after windows that were right', (algorithm) => {
  expect(LAWS[algorithm](at(series(11, 1)), LIMIT)).toHaveLength(1);
  const late = [...series(10, 1), ...series(10, 1, 1000), ...series(11, 1, 2000)];
  expect(LAWS[algorithm](at(late), LIMIT)).toHaveLength(1);
});

test.each(ALGORITHMS)('%s: what may have been right is not blamed', (algorithm) => {
  // The eleventh was answered after the window may have ended, or the bucket refilled.
  const late = [...at(series(10, 1)), { begun: 20 * MS, ended: 520 * MS }];
  expect(LAWS[algorithm](late, LIMIT)).toEqual([]);
  // All of them took so long that they may have been decided in different windows.
  expect(LAWS[algorithm](at(series(20, 1, 600), 300), LIMIT)).toEqual([]);
});

test('twice as many in each of ten windows is found in each algorithm, however unsure the windows become', () => {
  const doubled = series(10, 503).flatMap((from) => series(20, 2, from));
  for (const algorithm of ALGORITHMS) expect(LAWS[algorithm](at(doubled, 4), LIMIT)).toHaveLength(1);
  // What may belong to either of two windows is not counted, and so one can be lost.
  expect(mostPerFixedWindow(at(doubled, 4), LIMIT.window).windows).toBeGreaterThanOrEqual(8);
});
