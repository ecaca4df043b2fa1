'use strict';

// Redis goes away in every way that a Redis can, under 500 validations a second. Nobody is logged out, nobody comes
// back, nobody waits for long, and the breaker opens and closes again by itself. The cases run side by side, each with
// a Redis and a process of its own, because each waits for the 15 to 18 s that a breaker stays open.

const { startRedis, startPostgres, startProxy, sleep, until } = require('./helpers/servers.js');
const { Database } = require('./helpers/database.js');
const { through } = require('./fixtures/faults/taps.js');
const { actor, warmUp, connectionsOf, kept } = require('./fixtures/faults/cast.js');
const { summary, report } = require('./fixtures/faults/figures.js');

const PER_SECOND = 500;
const FAULT_MS = process.env.SOAK ? 30_000 : 3000;
const SHARE_OF_REDIS_MS = 250;
/** For the query of Postgres and a busy machine: a bound that a hang exceeds, not a measurement. */
const MARGIN_MS = 1000;
/** The breaker stays open for 15 to 18 s, and perhaps once more after a probe in the last moment of the fault. */
const RECOVERY_MS = 60_000;

let postgres;
const databases = [];

beforeAll(async () => {
  postgres = await startPostgres();
});

afterAll(() => Promise.all(databases.map((database) => database.end())));

/** A database for one case, because notifications reach all who use the same one. */
async function openDatabase() {
  const database = new Database(await postgres.createDatabase());
  databases.push(database);
  return database;
}

/** Each way: what breaks Redis and what mends it, and whether the network does that. */
const WAYS = {
  'frozen (SIGSTOP)': { fault: ({ redis }) => redis.freeze(), cure: ({ redis }) => redis.thaw() },
  'killed and started again': { fault: ({ redis }) => redis.kill(), cure: ({ redis }) => redis.restart() },
  'cut off by the network': { network: true, fault: ({ proxy }) => proxy.cut(), cure: ({ proxy }) => proxy.restore() },
  'silent behind the network': {
    network: true,
    fault: ({ proxy }) => proxy.freeze(),
    cure: ({ proxy }) => proxy.thaw(),
  },
  'slowed to a byte a write': {
    network: true,
    fault: ({ proxy }) => proxy.slow({ bytesPerWrite: 1, delayMs: 1 }),
    cure: ({ proxy }) => proxy.slow(),
  },
};

/** Sessions that are cached: some that stay, some that end under the fault, some that ended before, and strangers. */
async function population(database, one) {
  const sessions = await database.createSessions(80);
  await one.call(
    'validateAll',
    sessions.map(({ token }) => token),
  );
  const [ended, valid] = [sessions.slice(0, 15), sessions.slice(15)];
  for (const { id, token } of ended) expect(await one.call('revokeSessionWithCache', id, token)).toBe(true);
  const strangers = Array.from({ length: 5 }, (_, number) => ({ token: `stranger ${number}`, id: null }));
  return [
    ...valid.map(({ id, token }) => ({ id, token })),
    ...ended.map(({ token }) => ({ token, id: null })),
    ...strangers,
  ];
}

async function underTraffic(way) {
  const { fault, cure, network } = WAYS[way];
  const redis = await startRedis();
  const proxy = network && (await startProxy(redis.port));
  const database = await openDatabase();
  const one = await actor({ redis: network ? { url: through(redis.url, proxy) } : redis, postgres: database });
  await warmUp(database, one);
  const entries = await population(database, one);
  const breakerIs = async (state) => (await one.call('getBreakerState')).redis === state;

  await one.call('startTraffic', { entries, perSecond: PER_SECOND });
  await sleep(1500);
  const begun = Date.now();
  await one.call('phase', 'fault');
  await fault({ redis, proxy });
  await until(() => breakerIs('open'), { what: 'the opening of the breaker' });
  const openedMs = Date.now() - begun;
  // Only now, because a revocation that Redis has not confirmed keeps the others from waiting for Redis.
  const revocations = await Promise.all(Array.from({ length: 5 }, (_, index) => one.call('revokeEntry', index)));
  await sleep(Math.max(0, begun + FAULT_MS - Date.now()));

  await one.call('phase', 'cure');
  const cured = Date.now();
  await cure({ redis, proxy });
  await until(() => breakerIs('closed'), { what: 'the closing of the breaker', deadlineMs: RECOVERY_MS });
  const recoveredMs = Date.now() - cured;
  // Redis is read again once everything is delivered, which the same probe may not yet have done.
  const hits = async () => (await one.call('getSessionCacheMetrics')).redisHits;
  const atRecovery = await hits();
  await until(async () => (await hits()) > atRecovery, { what: 'the next hit in Redis' });
  await one.call('phase', 'after');
  await sleep(1500);
  const seconds = (Date.now() - begun) / 1000 + 1.5;
  const seen = await one.call('stopTraffic');
  const connections = await connectionsOf(redis, one);
  const left = await Promise.all(entries.slice(0, 5).map((entry) => kept(redis, entry)));
  await one.kill();
  return { seen, revocations, openedMs, recoveredMs, seconds, connections, left };
}

test.concurrent.each(Object.keys(WAYS))(
  'Redis %s at 500 validations a second: none fails, each is right, none waits, the breaker opens and closes',
  async (way) => {
    const { seen, revocations, openedMs, recoveredMs, seconds, connections, left } = await underTraffic(way);
    report(way, { ...seen.phases, 'open after': `${openedMs} ms`, 'closed again after': `${recoveredMs} ms` });
    expect(seen).toMatchObject({ failed: 0, failures: [], wrong: [] });
    expect(revocations).toEqual([true, true, true, true, true]);
    expect(left).not.toContain('copy');
    for (const { max } of Object.values(seen.phases)) expect(max).toBeLessThan(SHARE_OF_REDIS_MS + MARGIN_MS);
    for (const name of ['before', 'fault', 'after']) expect(seen.phases[name].count).toBeGreaterThan(PER_SECOND / 2);
    expect(seen.asked).toBeGreaterThan(seconds * PER_SECOND * 0.8);
    // The session lane and the one for commands; what was lost is not left open.
    expect(connections).toBeLessThanOrEqual(2);
  },
  180_000,
);

test('a frozen Redis takes 250 ms of a validation, not its whole deadline', async () => {
  const [redis, database] = await Promise.all([startRedis(), openDatabase()]);
  const one = await actor({ redis, postgres: database });
  await warmUp(database, one);
  const sessions = await database.createSessions(5);
  redis.freeze();
  const waits = [];
  // Fewer than the ten calls that the breaker needs to open.
  for (const { id, token } of sessions) {
    const { value, ms } = await one.call('timed', 'validateSessionWithCache', token);
    expect(value).toMatchObject({ id });
    waits.push(ms);
  }
  const { p50 } = summary(waits);
  report('one at a time behind a frozen Redis', { wait: summary(waits) });
  expect(p50).toBeGreaterThanOrEqual(SHARE_OF_REDIS_MS - 10);
  expect(p50).toBeLessThan(SHARE_OF_REDIS_MS + 350);
  expect(await one.call('getBreakerState')).toMatchObject({ redis: 'closed' });
  await one.kill();
});

test('a Redis that was never there: sessions are validated and revoked all the same', async () => {
  const [redis, database] = await Promise.all([startRedis(), openDatabase()]);
  await redis.kill();
  const one = await actor({ redis, postgres: database });
  const session = await database.createSession();
  for (let call = 0; call < 30; call += 1) {
    expect(await one.call('validateSessionWithCache', session.token)).toMatchObject({ id: session.id });
  }
  expect(await one.call('getBreakerState')).toMatchObject({ redis: 'open' });
  expect(await one.call('revokeSessionWithCache', session.id)).toBe(true);
  expect(await one.call('validateSessionWithCache', session.token)).toBeNull();
  await one.kill();
});
