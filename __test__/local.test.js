'use strict';

// The tier in the process: when it answers, what it answers, and that nobody else is asked then.

const { Database } = require('./helpers/database.js');
const { addon, here, metrics, validate, grown, ask, from, ready, local, locals, untilLocal, keyOf } = require('./fixtures/sessions/steps.js');
const { commandsDuring } = require('./fixtures/sessions/servers.js');
const { startRedis, startPostgres, sleep } = require('./helpers/servers.js');
const { openRedis, untilCopied } = require('./fixtures/functional/redis.js');

let database;
let postgres;
let redis;

beforeAll(async () => {
  let server;
  [server, postgres] = await Promise.all([startRedis(), startPostgres({ settings: { log_statement: 'all' } })]);
  process.env.REDIS_URL = server.url;
  process.env.DATABASE_URL = postgres.url;
  process.env.REDIS_KEY_PREFIX = 'local:';
  database = new Database(postgres.url);
  redis = openRedis(server.url);
  await ready(here, database);
});

afterAll(() => database.end());

/** A copy stands in Redis, and this process knows the answer to its fill. */
async function settled(session) {
  await untilCopied(redis, session);
  expect(await addon.sessionCacheHealthCheck()).toBe(true);
}

/** How many statements Postgres was sent with this hash. */
const statementsAbout = ({ hash }) => postgres.log.split('\n').filter((line) => line.includes(`'${hash}'`)).length;

test('who comes first asks Postgres, the second Redis, the third nobody', async () => {
  const created = await database.createSession();
  addon.resetSessionCacheMetrics();
  const first = await ask(here, created);
  await settled(created);
  const answers = [first, await ask(here, created), await ask(here, created), await ask(here, created)];
  expect(answers.map((answer) => answer.from)).toEqual(['postgres', 'redis', 'local', 'local']);
  for (const { session } of answers) expect(session).toStrictEqual(first.session);
  expect(await metrics(here)).toMatchObject({
    total: 4, hits: 3, localHits: 2, redisHits: 1, misses: 1, refused: 0, errors: 0, databaseReads: 1, coalesced: 0, hitRate: 75,
  });
});

test.each([
  ['of which everything is known', {}, {}],
  ['of which little is known', { username: null, firstName: null, lastName: null }, { ipAddress: null, userAgent: null }],
  ['with names of all kinds', { firstName: '__proto__', lastName: '"\\\n\u2028日本語\u0001' }, { userAgent: '' }],
])('a session %s has the shape of Postgres, and is frozen', async (_, user, options) => {
  const created = await local(here, database, { ...options, user: await database.createUser(user) });
  const { session, from: who } = await ask(here, created);
  expect(who).toBe('local');
  const { lastActivityAt, ...rest } = await addon.validateSession(created.token);
  expect(session).toStrictEqual({ ...rest, lastActivityAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/) });
  expect(lastActivityAt >= session.lastActivityAt).toBe(true);
  expect(Object.keys(session).sort()).toEqual(
    ['id', 'userId', 'token', 'expiresAt', 'lastActivityAt', 'createdAt', 'email', 'firstName', 'lastName', 'username']
      .concat(['ipAddress', 'userAgent'].filter((name) => options[name] !== null))
      .sort(),
  );
  expect(Object.isFrozen(session)).toBe(true);
  expect(() => {
    session.userId = 'somebody else';
  }).toThrow(TypeError);
  expect(Reflect.setPrototypeOf(session, {})).toBe(false);
});

test('a caller cannot change what the next one gets', async () => {
  const created = await local(here, database);
  const promise = addon.validateSessionWithCache(created.token);
  const session = await promise;
  for (const change of [() => Object.assign(session, { id: 'x' }), () => delete session.id, () => Object.defineProperty(session, 'id', { value: 'x' })]) {
    expect(change).toThrow(TypeError);
  }
  await expect(promise.then(() => Promise.reject(new Error('mine')))).rejects.toThrow('mine');
  expect(await ask(here, created)).toEqual({ from: 'local', session: expect.objectContaining({ id: created.id }) });
});

test('a thousand hits send nothing to Redis and nothing to Postgres', async () => {
  const sessions = [await local(here, database), await local(here, database), await local(here, database)];
  const asked = sessions.map(statementsAbout);
  let counts;
  const commands = await commandsDuring(redis, async () => {
    counts = await grown(here, async () => {
      for (let call = 0; call < 1000; call += 1) await validate(here, sessions[call % 3]);
    });
  });
  expect(counts).toMatchObject({ total: 1000, hits: 1000, localHits: 1000, redisHits: 0, databaseReads: 0, misses: 0 });
  expect(commands).toEqual([]);
  expect(sessions.map(statementsAbout)).toEqual(asked);
});

test('the proof can fail: a hit in Redis is seen', async () => {
  const created = await local(here, database);
  addon.configureSessionCache({ localEnabled: false });
  try {
    const commands = await commandsDuring(redis, () => validate(here, created));
    expect(commands.some((words) => words.includes(keyOf(created)))).toBe(true);
  } finally {
    addon.configureSessionCache({ localEnabled: true });
  }
});

test('500 sessions at once are not mixed up', async () => {
  const sessions = await database.createSessions(500);
  const ids = sessions.map(({ id }) => id);
  const read = () => Promise.all(sessions.map((session) => validate(here, session)));
  await read();
  await Promise.all(sessions.map((session) => untilCopied(redis, session)));
  await addon.sessionCacheHealthCheck();
  const counts = await grown(here, async () => {
    for (let round = 0; round < 4; round += 1) expect((await read()).map((session) => session?.id)).toEqual(ids);
  });
  expect(counts.total).toBe(2000);
  expect(counts.localHits).toBeGreaterThanOrEqual(1000);
  expect((await metrics(here)).localEntries).toBeGreaterThanOrEqual(500);
});

test('the sums hold after a mixed workload', async () => {
  const sessions = await locals(here, database, 20);
  addon.resetSessionCacheMetrics();
  const calls = [];
  for (let i = 0; i < 3000; i += 1) {
    calls.push(i % 97 === 0 ? validate(here, { token: `unknown ${i % 3}` }) : validate(here, i % 89 === 0 ? { token: '' } : sessions[i % 20]));
    if (i % 500 === 0) calls.push(addon.invalidateSessionCache(sessions[i % 20].token));
    if (i % 1000 === 0) calls.push(addon.revokeSessionByToken(sessions[i / 1000].token));
    if (i % 90 === 0) await sleep(1);
  }
  await Promise.all(calls);
  const all = await metrics(here);
  expect(all.total).toBe(3000);
  expect(all.hits + all.misses + all.refused).toBe(all.total);
  expect(all.hits).toBe(all.localHits + all.redisHits);
  expect(all.localHits).toBeGreaterThan(1000);
  expect(all.misses).toBeLessThanOrEqual(all.databaseReads + all.coalesced);
  expect(all.hitRate).toBe(Math.round((all.hits / (all.hits + all.misses)) * 10_000) / 100);
  expect(all.invalidationsBy.calls).toBe(all.invalidations);
  expect(all.errors).toBe(0);
});

test('a reset of the counts forgets no session', async () => {
  const created = await local(here, database);
  const { localEntries } = await metrics(here);
  addon.resetSessionCacheMetrics();
  expect(await metrics(here)).toMatchObject({ total: 0, localHits: 0, localEntries });
  expect(await from(here, created)).toBe('local');
});

test('after shutdown() the process begins anew', async () => {
  const created = await local(here, database);
  await addon.shutdown();
  expect((await metrics(here)).localEntries).toBe(0);
  expect(await from(here, created)).not.toBe('local');
  await untilLocal(here, created);
});
