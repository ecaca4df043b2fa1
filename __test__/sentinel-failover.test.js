'use strict';

// Another primary while sessions are validated and ended, limits are checked and commands run, in two processes: nobody is
// turned away, nobody who was signed out comes back, nobody gets a second quota, and no connection to the old one stays. The
// cases run side by side, each with servers and processes of its own, because they mostly wait for sentinels.

const { startPostgres, startRedis, sleep, until } = require('./helpers/servers.js');
const { Database } = require('./helpers/database.js');
const { actor, warmUp, cached, kept, keeps } = require('./fixtures/faults/cast.js');
const { report } = require('./fixtures/faults/figures.js');
const { from, validate } = require('./fixtures/sessions/steps.js');
const { openRedis } = require('./fixtures/functional/redis.js');
const { sessionLink } = require('./fixtures/sessions/servers.js');
const { Turnover } = require('./fixtures/sentinel/turnover.js');

/** A sentinel makes an old primary a replica 8 s after it came back; until then it may be promoted as it is. */
const BETWEEN_MS = 1500;

let postgres;

beforeAll(async () => {
  postgres = await startPostgres({ settings: { max_connections: '500' } });
});

/** Freezes the primary until it has a successor; then it goes on, and takes itself for the primary. */
async function freezeUntilSucceeded(deployment) {
  const former = await deployment.primary();
  former.freeze();
  const next = await deployment.primary({ but: former });
  former.thaw();
  return next;
}

/** Back to the first one, which has slept through all that happened, and never was a replica. */
async function thereAndBack(deployment) {
  const first = await deployment.primary();
  first.freeze();
  const second = await deployment.primary({ but: first });
  await sleep(BETWEEN_MS);
  first.thaw();
  await until(() => deployment.sees(first), { what: 'sentinels that see it again', everyMs: 50 });
  await second.kill();
  await deployment.primary({ but: second });
  expect(await first.cli('ROLE')).toMatch(/^master/);
  return first;
}

const WAYS = {
  'by plan': { change: (deployment) => deployment.failover() },
  'because it was killed': {
    delivers: true,
    async change(deployment) {
      const former = await deployment.primary();
      await former.kill();
      return deployment.primary({ but: former });
    },
  },
  'because it froze, and goes on later': { change: freezeUntilSucceeded },
  'because it froze, and again because that one was killed: back to the first': { replicas: 1, change: thereAndBack },
};

test.concurrent.each(Object.keys(WAYS))(
  'another primary %s',
  async (way) => {
    const { change, replicas = 2, delivers } = WAYS[way];
    const turnover = await Turnover.open({ postgres, replicas });
    await turnover.run(`another primary ${way}`, change);
    await turnover.judge();
    if (delivers) await turnover.judgeDelivery();
    await turnover.close();
  },
  180_000,
);

test.concurrent(
  'a plain primary that becomes a replica in its place is noticed by its own word, and so is its return',
  async () => {
    const [one, other] = await Promise.all([startRedis(), startRedis()]);
    const database = new Database(await postgres.createDatabase());
    await other.cli('REPLICAOF', '127.0.0.1', one.port);
    const reader = await actor({ redis: one, postgres: database });
    await warmUp(database, reader);
    const [session, later] = await database.createSessions(2);
    await cached(one, reader, session);
    await keeps(other, session, 'copy');
    const outside = openRedis(one.url);
    const before = await sessionLink(outside, reader);
    const begun = Date.now();
    await other.cli('REPLICAOF', 'NO', 'ONE');
    await one.cli('REPLICAOF', '127.0.0.1', other.port);
    await until(async () => ![undefined, before].includes(await sessionLink(outside, reader)), {
      what: 'another connection',
      deadlineMs: 15_000,
    });
    report('a plain primary becomes a replica', { 'noticed after': `${Date.now() - begun} ms` });
    // What it has is somebody else's. Nobody tells of this.
    await until(async () => (await kept(one, session)) === 'copy', { what: 'the copy on the replica' });
    await database.query('DELETE FROM platform.user_sessions WHERE id = $1', [session.id]);
    expect(await validate(reader, session)).toBeNull();
    expect(await from(reader, later)).toBe('postgres');
    // It cannot be told of an end either, which therefore waits for its return.
    expect(await reader.call('revokeSessionWithCache', later.id, later.token)).toBe(true);
    expect(await validate(reader, later)).toBeNull();
    await one.cli('REPLICAOF', 'NO', 'ONE');
    const [last] = await database.createSessions(1);
    await until(async () => (await validate(reader, last)) && (await kept(one, last)) === 'copy', {
      what: 'copies on the server that is a primary again',
    });
    for (const ended of [session, later]) expect(await validate(reader, ended)).toBeNull();
    await reader.kill();
    await database.end();
  },
  60_000,
);
