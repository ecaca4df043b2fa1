'use strict';

// A transaction pooler gives each transaction any of its connections. So nothing may live on a connection: no named
// statement, and no statement at all that is prepared in one transaction and run in the next.

const { startRedis, startPostgres } = require('./helpers/servers.js');
const { endProcesses } = require('./helpers/process.js');
const { Database } = require('./helpers/database.js');
const { actor, cached } = require('./fixtures/faults/cast.js');
const { pgbouncer, startPgbouncer } = require('./fixtures/faults/pgbouncer.js');

let redis;
let postgres;
let database;

beforeAll(async () => {
  [redis, postgres] = await Promise.all([startRedis(), startPostgres({ settings: { log_statement: 'all' } })]);
  database = new Database(postgres.url);
});

afterEach(endProcesses);
afterAll(() => database.end());

/** Every function that asks Postgres, once. */
async function everything(one) {
  const user = await database.createUser();
  const sessions = [];
  for (let count = 0; count < 6; count += 1) sessions.push(await database.createSession({ user }));
  const [first, second, third, fourth, fifth] = sessions;
  expect(await one.call('validateSessionWithCache', first.token)).toMatchObject({ id: first.id });
  expect(await one.call('validateSession', first.token)).toMatchObject({ id: first.id });
  expect(await one.call('rotateSession', first.token, `${first.token}-new`, new Date(Date.now() + 60_000))).toBe(true);
  expect(await one.call('validateSessionWithCache', `${first.token}-new`)).toMatchObject({ id: first.id });
  expect(await one.call('revokeSessionWithCache', second.id, second.token)).toBe(true);
  expect(await one.call('revokeSessionWithCache', third.id)).toBe(true);
  expect(await one.call('revokeSessionByToken', fourth.token)).toBe(true);
  expect(await one.call('invalidateUserSessions', user.id)).toBe(3);
  expect(await one.call('revokeOtherSessions', user.id, fifth.id)).toBe(2);
  expect(await one.call('revokeAllUserSessionsWithCache', user.id)).toBe(1);
  for (const { token } of sessions) expect(await one.call('validateSessionWithCache', token)).toBeNull();
}

/** Statements with a name that Postgres executed while `work` ran; its log names each. */
async function namedStatements(work) {
  const before = postgres.log.length;
  await work();
  return postgres.log.slice(before).match(/execute (?!<unnamed>)[^:]+:/g) ?? [];
}

test(`without the statement cache no statement has a name${pgbouncer ? '' : ' (no pgbouncer here: this stands for it)'}`, async () => {
  const [plain, nameless] = await Promise.all([
    actor({ redis, postgres }),
    actor({ redis, postgres, env: { DATABASE_STATEMENT_CACHE: 'false' } }),
  ]);
  expect(await namedStatements(() => everything(nameless))).toEqual([]);
  expect((await namedStatements(() => everything(plain))).length).toBeGreaterThan(0);
});

if (pgbouncer) {
  test('behind pgbouncer in transaction mode all works, from two processes at once over three connections', async () => {
    const pooler = await startPgbouncer(postgres, { size: 3 });
    try {
      const env = { DATABASE_STATEMENT_CACHE: 'false' };
      const [one, other] = await Promise.all([
        actor({ redis, postgres: pooler, env }),
        actor({ redis, postgres: pooler, env }),
      ]);
      await everything(one);
      const sessions = await database.createSessions(300);
      const tokens = sessions.map(({ token }) => token);
      const ids = sessions.map(({ id }) => id);
      expect(await Promise.all([one, other].map((each) => each.call('validateAll', tokens)))).toEqual([ids, ids]);
      // Without Redis each answer is one of Postgres.
      const bare = await actor({ redis: null, postgres: pooler, env });
      for (let round = 0; round < 3; round += 1) expect(await bare.call('validateAll', tokens)).toEqual(ids);

      const session = await database.createSession();
      for (const each of [one, other]) await cached(redis, each, session);
      expect(await one.call('revokeSessionWithCache', session.id)).toBe(true);
      // Nobody listens behind such a pooler, but the copy that both read is gone.
      for (const each of [one, other]) expect(await each.call('validateSessionWithCache', session.token)).toBeNull();
    } finally {
      await endProcesses();
      await pooler.stop();
    }
  });

  test('a pooler that is busy is recognised as one each time: to listen behind it would break statements of others', async () => {
    const pooler = await startPgbouncer(postgres, { size: 2 });
    try {
      const env = { DATABASE_STATEMENT_CACHE: 'false' };
      const start = () => actor({ redis: null, postgres: pooler, env });
      const [one, ...busy] = await Promise.all([start(), start(), start()]);
      const entries = (await database.createSessions(200)).map(({ id, token }) => ({ id, token }));
      const hot = entries.map(({ token }) => token);
      for (const each of busy) await each.call('startTraffic', { hot, perSecond: 800 });
      const times = 60;
      for (let time = 0; time < times; time += 1) {
        expect(await one.call('validateSessionWithCache', entries[time].token)).toMatchObject({ id: entries[time].id });
        // The next call opens a new engine, which looks again.
        await one.call('shutdown');
      }
      expect(one.stderr.match(/A transaction pooler answers/g)).toHaveLength(times);
      for (const each of busy) {
        const { failures, seen } = await each.call('stopTraffic');
        expect(failures).toEqual([]);
        expect([...seen.values()].filter(({ refused }) => refused > 0)).toEqual([]);
      }
    } finally {
      await endProcesses();
      await pooler.stop();
    }
  }, 120_000);
}
