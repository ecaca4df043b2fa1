'use strict';

// Redis goes away while limits are checked all the time, and comes back: nothing is rejected, nobody waits, and
// nobody gets a second quota. The cases run side by side, each with servers and processes of its own, because they
// wait for the 15 to 18 s that a breaker stays open.

const { until } = require('./helpers/servers.js');
const { allowedOf, redisAndProcess } = require('./fixtures/limits/cast.js');
const { WAYS, POLICIES, LONGEST_MS, Outage } = require('./fixtures/limits/outage.js');
const { ALGORITHMS } = require('./fixtures/limits/verdict.js');
const { summary } = require('./fixtures/faults/figures.js');

/** What the contract promises once the breaker is open. */
const AT_ONCE_MS = 2;
/**
 * The processes of several cases share two cores with their servers and with Jest, and an answer is seen when its
 * process gets its turn: the 99th percentile measures the machine. Waiting for Redis would cost 100 ms each.
 */
const BUSY_MS = 50;

/** What holds whatever the way; the admissions of each policy. */
function judge(outage) {
  const waits = outage.waits();
  const admitted = outage.admitted();
  outage.report(admitted, waits);
  for (const { asked, failures, begun } of outage.seen) {
    expect(failures).toEqual([]);
    expect(begun.length).toBe(asked);
  }
  expect(outage.missed).toBeGreaterThan(0);
  expect(Math.max(...waits.all)).toBeLessThan(LONGEST_MS);
  if (WAYS[outage.way].opens) {
    expect(waits.open.length).toBeGreaterThan(500);
    expect(summary(waits.open).p50).toBeLessThan(AT_ONCE_MS);
    expect(summary(waits.open).p99).toBeLessThan(BUSY_MS);
  }
  return admitted;
}

/** Nobody got more than this. */
function expectAtMost(key, most, seen) {
  expect({ key, most, tooMany: Math.max(0, seen - most) }).toEqual({ key, most, tooMany: 0 });
}

/** A Redis that goes away in one of these ways, and comes back, while one process checks all the time. */
async function outage(way) {
  const seen = await (await Outage.open(way)).run();
  await seen.close();
  const seconds = (seen.marks.end - seen.marks.fault) / 1e6;
  for (const { key, name, algorithm, limit, refilled, underWay, most, total, ...since } of judge(seen)) {
    expectAtMost(key, 2 * limit, most);
    if (name === 'short') {
      // It is served all the time, a limit a second.
      expect(since.fault).toBeGreaterThan((limit * seconds) / 2);
      expect(since.back).toBeGreaterThan(limit / 2);
      // The others may give it twice around the end of a window, or at a burst, by their own laws.
      if (algorithm === 'sliding-window') expectAtMost(key, limit + underWay, most);
    } else {
      // Neither stopped nor begun anew: the only process knows of all calls.
      expect(total).toBeGreaterThanOrEqual(limit);
      expectAtMost(key, Math.ceil(limit + refilled) + underWay, total);
    }
    // Used up long before.
    if (name === 'victim') expectAtMost(key, Math.ceil(refilled), since.fault);
  }
}

const TITLE = 'Redis %s under traffic: no rejection, no waiting, no second quota, and all recovers';

// As many run at once as Jest allows; the longest first.
test.concurrent.each(Object.keys(WAYS).filter((way) => WAYS[way].opens))(TITLE, outage, 180_000);

test.concurrent(
  'three processes that share a limit among them in an outage allow no more than twice the limit all together',
  async () => {
    const short = POLICIES.filter(({ options }) => options.name !== 'victim').map((policy) => ({
      ...policy,
      // A third of it is a whole number.
      limit: policy.options.name === 'short' ? 60 : 240,
      perSecond: policy.perSecond / 2,
    }));
    const outage = await Outage.open('killed and started again empty', {
      processes: 3,
      policies: short,
      env: { RATE_LIMIT_INSTANCE_SHARE: '0.3333' },
    });
    await outage.run();
    await outage.close();
    // Bursts of the others come on top of what is given back, which of three processes only one knows.
    for (const { key, algorithm, limit, most } of judge(outage)) {
      expectAtMost(key, (algorithm === 'sliding-window' ? 2 : 3) * limit, most);
    }
  },
  180_000,
);

test.concurrent.each(Object.keys(WAYS).filter((way) => !WAYS[way].opens))(TITLE, outage, 180_000);

test.concurrent(
  'who has used up a limit stays denied while Redis is away, and where it comes back empty for one window more',
  async () => {
    const { redis, one } = await redisAndProcess();
    const windowSeconds = 8;
    const victims = ALGORITHMS.map((algorithm) => ({
      key: `victim ${algorithm}`,
      limit: 10,
      windowSeconds: 600,
      options: { algorithm },
    }));
    const briefly = { key: 'victim of a short window', limit: 10, windowSeconds, options: {} };
    for (const victim of victims) expect(await allowedOf(one, 20, victim)).toBe(10);
    await redis.kill();
    for (const victim of victims) expect(await allowedOf(one, 20, victim)).toBe(0);
    // Counted in the outage alone.
    expect(await allowedOf(one, 20, briefly)).toBe(10);
    const usedUp = Date.now();
    await redis.restart();
    await one.call('connected');
    for (const victim of victims) expect(await allowedOf(one, 20, victim)).toBe(0);
    if (Date.now() < usedUp + windowSeconds * 900) expect(await allowedOf(one, 20, briefly)).toBe(0);
    // After one window Redis decides alone.
    await until(async () => (await allowedOf(one, 1, briefly)) === 1, {
      what: 'the end of the window',
      deadlineMs: 30_000,
    });
    await one.kill();
  },
  120_000,
);
