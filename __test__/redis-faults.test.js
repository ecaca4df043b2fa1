'use strict';

// Redis goes away in every way that a Redis can, or the link that tells a process what to forget, or the process itself
// stands still; under 1,000 validations a second, most of them answered in the process. Nobody is logged out, nobody comes
// back, nobody waits for long, and all recovers by itself. The cases run side by side, each with a Redis and processes of
// its own, because some wait for the 15 to 18 s that a breaker stays open.

const { readFileSync } = require('node:fs');
const { startRedis, startPostgres, sleep, until } = require('./helpers/servers.js');
const { Database } = require('./helpers/database.js');
const { actor, warmUp, connected, connectionsOf } = require('./fixtures/faults/cast.js');
const { now } = require('./fixtures/faults/clock.js');
const { TOLD_BY_REDIS_ALONE } = require('./fixtures/faults/endings.js');
const { Scene, expectRight, UNPROVEN_LINK_MS } = require('./fixtures/faults/scene.js');
const { summary, report } = require('./fixtures/faults/figures.js');

/** Longer than a link may be silent. */
const FAULT_MS = process.env.SOAK ? 30_000 : 4000;
const LANE_FAULT_MS = process.env.SOAK ? 30_000 : 7000;
const STOPPED_MS = 10_000;
const SHARE_OF_REDIS_MS = 250;
/** For the query of Postgres and a busy machine: a bound that a hang exceeds, not a measurement. */
const MARGIN_MS = 2000;
/** The breaker stays open for 15 to 18 s, and perhaps once more after a probe in the last moment of the fault. */
const RECOVERY_MS = 60_000;

let postgres;
const databases = [];

beforeAll(async () => {
  // For the connections of some twenty-five processes.
  postgres = await startPostgres({ settings: { max_connections: '500' } });
});

afterAll(() => Promise.all(databases.map((database) => database.end())));

/** A database for one case, because notifications reach all who use the same one. */
async function openDatabase() {
  const database = new Database(await postgres.createDatabase());
  databases.push(database);
  return database;
}

/** In no phase did anybody wait longer than for Redis' share and then for Postgres, or as the process stood. */
function expectNoWait({ phases }, stoodMs = 0) {
  const longest = phases.flatMap((one) => Object.entries(one).map(([phase, { max }]) => ({ phase, max })));
  expect(longest.filter(({ max }) => max > SHARE_OF_REDIS_MS + MARGIN_MS + stoodMs)).toEqual([]);
}

/** Saves a snapshot, goes on long enough for sessions to be ended that are in it, and crashes. */
async function crashAfterSnapshot(redis) {
  await redis.cli('SAVE');
  await sleep(2000);
  await redis.kill();
}

/**
 * Each way: what breaks Redis and what mends it, and whether the network does that. An ending that Redis does not confirm
 * keeps a process from asking Redis at all; so where the breaker is to open by itself, endings begin after it.
 */
const WAYS = {
  'frozen (SIGSTOP)': { opens: true, fault: ({ redis }) => redis.freeze(), cure: ({ redis }) => redis.thaw() },
  'slowed to a byte a write': {
    opens: true,
    network: true,
    fault: ({ writes }) => writes.proxy.slow({ bytesPerWrite: 1, delayMs: 1 }),
    cure: ({ writes }) => writes.proxy.slow(),
  },
  'killed and started again empty': {
    processes: 2,
    fault: ({ redis }) => redis.kill(),
    cure: ({ redis }) => redis.restart(),
  },
  'killed and started again from a snapshot': {
    processes: 2,
    fault: ({ redis }) => crashAfterSnapshot(redis),
    cure: ({ redis }) => redis.restart(),
  },
  // The copies stay, and those of sessions that these processes ended could not be removed.
  'cut off by the network': {
    network: true,
    fault: ({ writes }) => writes.proxy.cut(),
    cure: ({ writes }) => writes.proxy.restore(),
  },
  'silent behind the network': {
    network: true,
    fault: ({ writes }) => writes.proxy.freeze(),
    cure: ({ writes }) => writes.proxy.thaw(),
  },
};

/** One case. */
async function outage(way) {
  const { fault, cure, network, processes, opens } = WAYS[way];
  const scene = await Scene.open({ postgres, processes, tapped: { redis: network } });
  await scene.begin({ endings: !opens });
  const begun = Date.now();
  await scene.phase('fault');
  await fault(scene);
  const figures = {};
  if (opens) {
    await until(() => scene.breakersAre('open'), { what: 'the opening of the breaker' });
    figures['breaker open after'] = `${Date.now() - begun} ms`;
    await scene.beginEndings();
  }
  await scene.beginOwn();
  await sleep(Math.max(1000, begun + FAULT_MS - Date.now()));

  await scene.phase('cure');
  const cured = Date.now();
  await cure(scene);
  await until(() => scene.breakersAre('closed'), { what: 'the closing of the breaker', deadlineMs: RECOVERY_MS });
  await scene.localAgain({ deadlineMs: RECOVERY_MS });
  figures['hot again after'] = `${Date.now() - cured} ms`;
  const outcome = await scene.end(`Redis ${way}`, figures);
  const connections = await Promise.all(scene.witnesses.map((one) => connectionsOf(scene.redis, one)));
  await scene.close();
  expectRight(outcome);
  expectNoWait(outcome);
  // The session lane and the one for commands; what was lost is not left open.
  expect(Math.max(...connections)).toBeLessThanOrEqual(2);
}

const NAME = 'Redis %s: none fails, each is right, none waits, and all recovers';
const [LONG, SHORT] = [true, false].map((long) => Object.keys(WAYS).filter((way) => Boolean(WAYS[way].opens) === long));

// So many cases run at once as Jest allows; the longest first.
test.concurrent.each(LONG)(NAME, outage, 180_000);

test.concurrent(
  'a process stopped for 10 s and continued: its first call knows of what was ended meanwhile',
  async () => {
    const scene = await Scene.open({ postgres, processes: 2 });
    const [one] = scene.witnesses;
    await scene.begin();
    await scene.phase('fault');
    one.freeze();
    const stat = () => readFileSync(`/proc/${one.pid}/stat`, 'utf8').split(') ')[1][0];
    // Where there is no /proc, some time is enough.
    await (process.platform === 'linux' ? until(() => stat() === 'T', { what: 'the stop' }) : sleep(200));
    const stopped = now();
    await sleep(STOPPED_MS);
    const continued = now();
    one.thaw();
    await scene.localAgain({ deadlineMs: RECOVERY_MS });
    const outcome = await scene.end('process stopped and continued');
    await scene.close();
    expectRight(outcome);
    const meanwhile = outcome.late.filter(({ resolved }) => resolved > stopped && resolved < continued);
    expect(meanwhile.length).toBeGreaterThan(10);
    // Of the stopped one. The other had to be told, like any other process.
    expect(meanwhile.filter(({ name, ms }) => name === 'process 1' && ms > 0)).toEqual([]);
    expectNoWait(outcome, STOPPED_MS);
  },
  180_000,
);

test.concurrent.each(['toClient', 'both'])(
  'the session lane alone frozen (%s): the tier in the process is passed over within 3 s',
  async (direction) => {
    // Only the push on this very lane could tell of these endings.
    const ways = [TOLD_BY_REDIS_ALONE];
    const scene = await Scene.open({ postgres, tapped: { redis: true }, triggers: false, ways });
    await scene.begin();
    await scene.phase('fault');
    const frozen = scene.writes.connectionsOf('sessions');
    for (const lane of frozen) lane.freeze(direction);
    await sleep(LANE_FAULT_MS);
    // What is stuck in a lane that was given up arrives late, and must mean nothing.
    for (const lane of frozen) lane.thaw();
    await scene.localAgain({ deadlineMs: RECOVERY_MS });
    const outcome = await scene.end(`session lane frozen (${direction})`);
    await scene.close();
    expect(frozen).toHaveLength(1);
    expectRight(outcome, { withinMs: UNPROVEN_LINK_MS });
    expectNoWait(outcome);
  },
  180_000,
);

test.concurrent.each(SHORT)(NAME, outage, 180_000);

/** Each way: what happens again and again while the fault lasts. The server as such lives. */
const DISTURBANCES = {
  'emptied by FLUSHALL': { processes: 2, disturb: ({ redis }) => redis.cli('FLUSHALL') },
  'cuts the session lane (CLIENT KILL)': {
    async disturb({ redis, witnesses: [one] }) {
      await connected(redis, one);
      const lane = (await redis.cli('CLIENT', 'LIST'))
        .split('\n')
        .find((line) => line.includes(`name=studio-redis-native:${one.pid}:sessions `));
      await redis.cli('CLIENT', 'KILL', 'ID', /\bid=(\d+)/.exec(lane)[1]);
    },
  },
};

test.concurrent.each(Object.keys(DISTURBANCES))(
  'Redis %s again and again: none fails, each is right, none waits',
  async (way) => {
    const { disturb, processes } = DISTURBANCES[way];
    const scene = await Scene.open({ postgres, processes });
    await scene.begin();
    await scene.beginOwn();
    await scene.phase('fault');
    const begun = Date.now();
    let times = 0;
    for (; Date.now() < begun + FAULT_MS; times += 1) {
      await disturb(scene);
      await sleep(400);
    }
    await scene.localAgain({ deadlineMs: RECOVERY_MS });
    const outcome = await scene.end(`Redis ${way}`, { times });
    await scene.close();
    expectRight(outcome);
    expectNoWait(outcome);
  },
  180_000,
);

test.concurrent('a frozen Redis takes 250 ms of a validation, not its whole deadline', async () => {
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

test.concurrent('a Redis that was never there: sessions are validated and revoked all the same', async () => {
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
