'use strict';

// A thousand checks a second of each algorithm, over ten windows, from three processes: every call that was allowed is
// recorded with the times between which it was decided, and judged without the limiter.

const { startRedis, sleep } = require('./helpers/servers.js');
const { limiters, undisturbed, admissionsOf } = require('./fixtures/limits/cast.js');
const { LAWS, ALGORITHMS, mostWithin, mostAboveRefill, mostPerFixedWindow } = require('./fixtures/limits/verdict.js');
const { report, summary } = require('./fixtures/faults/figures.js');

const WINDOW_SECONDS = process.env.SOAK ? 2 : 0.5;
const WINDOWS = 10;
const PROCESSES = 3;
const PER_SECOND = 1000;
/** A fifth of what is asked for. */
const LIMIT = (PER_SECOND * WINDOW_SECONDS) / 5;
const LAW = { limit: LIMIT, window: WINDOW_SECONDS * 1e6 };
/**
 * Of what it may allow, a limiter that is asked for more all the time allows at least so much, on a busy machine too.
 */
const LEAST_SHARE = 0.6;

let redis;
let processes;
let runs = 0;

beforeAll(async () => {
  redis = await startRedis();
  processes = await limiters(redis, PROCESSES);
});

/**
 * Checks these policies from all processes for so many windows; what was allowed of each, and everything that was
 * seen.
 */
async function traffic(policies, windows) {
  runs += 1;
  const shared = policies.map((policy) => ({
    key: `sustained ${runs}`,
    windowSeconds: WINDOW_SECONDS,
    perSecond: PER_SECOND / PROCESSES,
    ...policy,
  }));
  return undisturbed(processes, async () => {
    await Promise.all(processes.map((one) => one.call('startTraffic', shared)));
    await sleep(windows * WINDOW_SECONDS * 1000);
    const all = await Promise.all(processes.map((one) => one.call('stopTraffic')));
    expect(all.flatMap(({ failures }) => failures)).toEqual([]);
    const begun = Math.min(...all.map(({ begun: [first] }) => first));
    const ended = Math.max(...all.map(({ ended: times }) => times.at(-1)));
    // A try that is repeated must not find the counts of this one.
    await redis.cli('FLUSHALL');
    await sleep(WINDOW_SECONDS * 1000);
    return { all, lastedUs: ended - begun, admissions: admissionsOf(all, policies) };
  });
}

/** What could have been allowed in that time. */
const POSSIBLE = {
  'sliding-window': (windows) => LIMIT * windows,
  'token-bucket': (windows) => LIMIT + LIMIT * windows,
  'fixed-window': (windows) => LIMIT * windows,
};

test(`${PER_SECOND} checks a second over ${WINDOWS} windows: each algorithm allows what it may, and no more`, async () => {
  const policies = ALGORITHMS.map((algorithm) => ({ limit: LIMIT, options: { algorithm } }));
  const { all, lastedUs, admissions, repeated } = await traffic(policies, WINDOWS);
  const windows = lastedUs / LAW.window;
  const asked = all.reduce((total, one) => total + one.asked, 0);
  const waits = all.flatMap(({ begun, ended }) => Array.from(ended, (at, index) => (at - begun[index]) / 1000));
  report('sustained', {
    asked,
    windows: windows.toFixed(2),
    allowed: ALGORITHMS.map((name, index) => `${name} ${admissions[index].length}`).join(', '),
    'most within a window': mostWithin(admissions[0], LAW.window),
    'above the refill': mostAboveRefill(admissions[1], LAW).toFixed(2),
    'of fixed windows': JSON.stringify(mostPerFixedWindow(admissions[2], LAW.window)),
    answers: summary(waits),
    repeated,
  });
  ALGORITHMS.forEach((algorithm, index) => {
    expect({ algorithm, broken: LAWS[algorithm](admissions[index], LAW) }).toEqual({ algorithm, broken: [] });
    expect(admissions[index].length).toBeGreaterThan(LEAST_SHARE * POSSIBLE[algorithm](windows));
  });
  // It was as much as is said.
  expect(asked).toBeGreaterThan(0.8 * ALGORITHMS.length * PER_SECOND * (lastedUs / 1e6));
  expect(windows).toBeGreaterThanOrEqual(WINDOWS - 0.5);
}, 120_000);

/**
 * Limiters that allow more than they should: by another name half of the time, or by a limit that is a tenth higher.
 */
const WRONG = {
  'counts twice as many': { names: ['one', 'another'] },
  'counts a tenth more': { limit: Math.round(LIMIT * 1.1) },
};

test('a limiter that allows more is found by the same check', async () => {
  const wrong = Object.keys(WRONG).flatMap((name) => ALGORITHMS.map((algorithm) => ({ name, algorithm })));
  const policies = wrong.map(({ name, algorithm }, index) => ({
    key: `wrong ${index}`,
    limit: LIMIT,
    perSecond: PER_SECOND / 2 / PROCESSES,
    options: { algorithm },
    ...WRONG[name],
  }));
  const { admissions } = await traffic(policies, 3);
  const found = wrong.map((one, index) => ({ ...one, broken: LAWS[one.algorithm](admissions[index], LAW).length }));
  expect(found).toEqual(wrong.map((one) => ({ ...one, broken: 1 })));
}, 120_000);
