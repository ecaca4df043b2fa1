'use strict';

// Redis goes away for a moment in every way that a Redis can, or the link that tells a process what to forget, or the
// process itself stands still; under 1,000 validations a second, most of them answered in the process. Nobody is logged
// out, nobody comes back, nobody waits for long, and all recovers by itself. The cases run side by side, each with a Redis
// and processes of its own. What is away for longer: outages.test.js.

const { startRedis, startPostgres, sleep } = require('./helpers/servers.js');
const { Database } = require('./helpers/database.js');
const { actor, warmUp, connected } = require('./fixtures/faults/cast.js');
const { TOLD_BY_REDIS_ALONE } = require('./fixtures/faults/endings.js');
const { Scene, expectRight, standstill, STOPPED_MS, UNPROVEN_LINK_MS } = require('./fixtures/faults/scene.js');
const {
  REDIS_WAYS,
  redisOutage,
  expectNoWait,
  FAULT_MS,
  RECOVERY_MS,
  SHARE_OF_REDIS_MS,
} = require('./fixtures/faults/outage.js');
const { summary, report } = require('./fixtures/faults/figures.js');

const SOAK = Boolean(process.env.SOAK);
const LANE_FAULT_MS = SOAK ? 30_000 : 7000;
/** Ways that need no breaker; all of them with SOAK=1. */
const WAYS = Object.keys(REDIS_WAYS).filter((way) => !REDIS_WAYS[way].opens && (SOAK || !REDIS_WAYS[way].rare));

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

test.concurrent(
  'a process stopped for 10 s and continued: its first call knows of what was ended meanwhile',
  async () => {
    const scene = await Scene.open({ postgres, processes: 2 });
    const outcome = await standstill(scene, 'process stopped and continued');
    expectNoWait(outcome, STOPPED_MS);
  },
  180_000,
);

test.concurrent.each(SOAK ? ['toClient', 'both'] : ['both'])(
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

test.concurrent.each(WAYS)(
  'Redis %s: none fails, each is right, none waits, and all recovers',
  (way) => redisOutage(postgres, way),
  180_000,
);

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
