'use strict';

// No answer out of the process is older than its life, or than its session.

const { Database } = require('./helpers/database.js');
const { addon, here, keyOf, ready, validate, untilLocal, untilAnswer } = require('./fixtures/sessions/steps.js');
const { until } = require('./helpers/servers.js');
const { openRedis } = require('./fixtures/functional/redis.js');

let database;
let redis;

beforeAll(async () => {
  process.env.REDIS_KEY_PREFIX = 'local-expiry:';
  database = new Database();
  redis = openRedis();
  await ready(here, database);
});

afterEach(() => addon.configureSessionCache({ ttlSeconds: 300 }));

afterAll(() => database.end());

/** Microseconds of the server's clock. */
async function serverTime() {
  const [seconds, microseconds] = (await redis.time()).map(Number);
  return seconds * 1e6 + microseconds;
}

test.each([1, 2])('ttlSeconds %i: the copy ends where its entry in Redis says', async (ttlSeconds) => {
  addon.configureSessionCache({ ttlSeconds });
  for (let round = 0; round < 3; round += 1) {
    const session = await database.createSession();
    await validate(here, session);
    const end = await until(async () => Number(await redis.hget(keyOf(session), 'end')), { what: 'the copy', everyMs: 2 });
    await database.query("UPDATE platform.users SET first_name = 'Grace' WHERE id = $1", [session.userId]);
    await until(
      async () => {
        const begun = await serverTime();
        const { firstName } = await validate(here, session);
        if (firstName === 'Ada') expect(begun).toBeLessThan(end);
        return firstName === 'Grace';
      },
      { what: 'the end of the copy', deadlineMs: 10_000, everyMs: 1 },
    );
    expect(await serverTime()).toBeGreaterThanOrEqual(end);
    await untilAnswer(here, session, { firstName: 'Grace' });
  }
});

test('a shorter life counts for copies from now on, and they do reach the process', async () => {
  addon.configureSessionCache({ ttlSeconds: 30 });
  const session = await database.createSession();
  await untilLocal(here, session);
  const end = Number(await redis.hget(keyOf(session), 'end'));
  addon.configureSessionCache({ ttlSeconds: 20 });
  await addon.invalidateSessionCache(session.token);
  await untilLocal(here, session);
  expect(Number(await redis.hget(keyOf(session), 'end'))).toBeLessThan(end);
});

test('a session is nobody from its end on, though the process holds it', async () => {
  const session = await database.createSession({ expiresInSeconds: 5 });
  await untilLocal(here, session);
  await until(
    async () => {
      const [{ over }] = await database.query('SELECT clock_timestamp() >= expires_at AS over FROM platform.user_sessions WHERE id = $1', [session.id]);
      const answer = await validate(here, session);
      if (over) expect(answer).toBe(null);
      return over;
    },
    { what: 'the end of the session', deadlineMs: 20_000, everyMs: 1 },
  );
  await untilAnswer(here, session, null);
});

test('a session without end is held like any other', async () => {
  const session = await database.createSession();
  await database.query("UPDATE platform.user_sessions SET expires_at = 'infinity' WHERE id = $1", [session.id]);
  await untilLocal(here, session);
  expect(await redis.pttl(keyOf(session))).toBeLessThanOrEqual(300_001);
});
