'use strict';

// Redis goes away until its breaker opens: see redis-faults.test.js. Postgres goes away: who is cached goes on, who is not
// is told that the store cannot answer, and never "nobody". Or it lives, and the connection goes away that tells a process
// what to forget. The cases run side by side, each with a Postgres, a Redis and processes of its own, because they wait
// for the 15 to 36 s that a breaker stays open.

const { startRedis, startPostgres, sleep, until } = require('./helpers/servers.js');
const { Database } = require('./helpers/database.js');
const { actor, warmUp, cached, kept, LISTENERS, listening } = require('./fixtures/faults/cast.js');
const { tapPostgres } = require('./fixtures/faults/taps.js');
const { now } = require('./fixtures/faults/clock.js');
const { REDIS_WAYS, redisOutage } = require('./fixtures/faults/outage.js');
const { Scene, expectRight, standstill, UNPROVEN_LINK_MS, BY_SQL } = require('./fixtures/faults/scene.js');
const { report, summary } = require('./fixtures/faults/figures.js');

const SOAK = Boolean(process.env.SOAK);
/** The deadline of a statement, and something for a busy machine. */
const DEADLINE_MS = 5000 + 1000;
/** How long the listener is disturbed. */
const LOSS_MS = SOAK ? 30_000 : 7000;
/** The breaker stays open for 30 to 36 s, and perhaps once more after a probe in the last moment of the fault. */
const RECOVERY_MS = 90_000;

const WAYS = {
  'stopped (SIGSTOP)': { fault: (server) => server.freeze(), cure: (server) => server.thaw() },
  killed: { fault: (server) => server.kill(), cure: (server) => server.restart() },
};

/** For those who do not break it. */
let shared;

beforeAll(async () => {
  shared = await startPostgres({ settings: { max_connections: '500' } });
});

/** Servers, a process, and a session that is cached beside some that are not. */
async function scene() {
  // What is committed must survive the server's being killed.
  const settings = { synchronous_commit: 'on' };
  const [redis, postgres] = await Promise.all([startRedis(), startPostgres({ settings })]);
  const database = new Database(postgres.url);
  const one = await actor({ redis, postgres });
  await warmUp(database, one);
  const sessions = [];
  for (const name of ['known', 'given', 'other', 'missed'])
    sessions.push({ name, ...(await database.createSession()) });
  const named = Object.fromEntries(sessions.map((session) => [session.name, session]));
  for (const session of [named.known, named.given, named.other]) await cached(redis, one, session);
  const validate = ({ token }) => one.call('timed', 'validateSessionWithCache', token);
  return { redis, postgres, database, one, validate, ...named };
}

/** Ways in which the breaker of Redis opens; all of them with SOAK=1. */
const OPENING = Object.keys(REDIS_WAYS).filter((way) => REDIS_WAYS[way].opens && (SOAK || !REDIS_WAYS[way].rare));

const UNANSWERED = { code: 'ERR_SESSION_STORE' };

// So many cases run at once as Jest allows; the longest first.
test.concurrent.each(OPENING)(
  'Redis %s: none fails, each is right, none waits, the breaker opens, closes, and all recovers',
  (way) => redisOutage(shared, way),
  180_000,
);

test.concurrent.each(Object.keys(WAYS))(
  'Postgres %s: cached sessions go on, a miss rejects, a revocation rejects and forgets, and all recovers',
  async (way) => {
    const { fault, cure } = WAYS[way];
    const { redis, postgres, database, one, validate, known, given, other, missed } = await scene();
    await fault(postgres);

    for (let call = 0; call < 50; call += 1) expect((await validate(known)).value).toMatchObject({ id: known.id });
    const miss = await validate(missed);
    expect(miss).toMatchObject(UNANSWERED);
    expect(miss.ms).toBeLessThan(DEADLINE_MS);
    // A stranger is not known to be nobody, as long as nobody can say so.
    expect(await validate({ token: 'stranger' })).toMatchObject(UNANSWERED);

    const revocation = await one.call('timed', 'revokeSessionWithCache', given.id, given.token);
    expect(revocation).toMatchObject(UNANSWERED);
    expect(revocation.ms).toBeLessThan(2 * DEADLINE_MS);
    expect(await kept(redis, given)).not.toBe('copy');
    expect(await validate(given)).toMatchObject(UNANSWERED);
    // Nothing names the token of this one, so that its copy stays: the revocation is not known to have happened.
    expect(await one.call('timed', 'revokeSessionWithCache', other.id)).toMatchObject(UNANSWERED);
    expect((await validate(known)).value).toMatchObject({ id: known.id });

    redis.freeze();
    const both = await validate(known);
    expect(both).toMatchObject(UNANSWERED);
    expect(both.ms).toBeLessThan(250 + DEADLINE_MS);
    redis.thaw();
    report(`Postgres ${way}`, {
      'a miss rejects after': `${Math.round(miss.ms)} ms`,
      'with Redis frozen too': `${Math.round(both.ms)} ms`,
    });

    await cure(postgres);
    await until(async () => (await validate(missed)).value?.id === missed.id, {
      what: 'recovery',
      deadlineMs: RECOVERY_MS,
    });
    expect((await validate(known)).value).toMatchObject({ id: known.id });
    expect(await one.call('revokeSessionWithCache', other.id)).toBe(true);
    expect((await validate(other)).value).toBeNull();
    // A deletion that was sent to the stopped server may have been executed when it woke up: then the repetition says
    // that there is nothing left.
    const repeated = await one.call('revokeSessionWithCache', given.id, given.token);
    expect(typeof repeated).toBe('boolean');
    expect((await validate(given)).value).toBeNull();
    expect(await database.sessionExists(given.id)).toBe(false);
    await one.kill();
    await database.end();
  },
  240_000,
);

test.concurrent(
  'Postgres away at 100 misses a second: the breaker opens, misses reject at once, cached go on, and it closes again',
  async () => {
    const { postgres, database, one, known } = await scene();
    const missing = Array.from({ length: 50 }, (_, number) => `missing ${number}`);
    const breakerIs = async (state) => (await one.call('getBreakerState')).postgres === state;
    await postgres.kill();
    const answers = [];
    const ask = async () => {
      answers.push(...(await one.call('validateAll', missing)));
      expect(await one.call('validateAll', [known.token, known.token])).toEqual([known.id, known.id]);
      await sleep(500);
    };
    await until(async () => (await ask(), breakerIs('open')), {
      what: 'the opening of the breaker',
      deadlineMs: 30_000,
    });
    const waits = [];
    for (let call = 0; call < 20; call += 1) {
      const rejected = await one.call('timed', 'validateSessionWithCache', `missing ${call}`);
      expect(rejected).toMatchObject(UNANSWERED);
      waits.push(rejected.ms);
    }
    report('misses behind an open breaker', { wait: summary(waits) });
    expect(summary(waits).p50).toBeLessThan(500);
    await postgres.restart();
    const [session] = await database.createSessions(1);
    const recovered = async () => {
      const [answer, stranger, cachedOne] = await one.call('validateAll', [session.token, 'missing 1', known.token]);
      expect(cachedOne).toBe(known.id);
      answers.push(stranger === null && answer === session.id ? UNANSWERED.code : stranger);
      return answer === session.id;
    };
    await until(async () => (await recovered()) && breakerIs('closed'), {
      what: 'recovery',
      deadlineMs: RECOVERY_MS,
      everyMs: 200,
    });
    // Never "nobody" while it was away.
    expect(new Set(answers)).toEqual(new Set([UNANSWERED.code]));
    await one.kill();
    await database.end();
  },
  240_000,
);

test.concurrent(
  'Postgres restarted at 1000 validations a second: what is held goes on, and nothing fails but what had to ask it',
  async () => {
    const postgres = await startPostgres({ settings: { synchronous_commit: 'on' } });
    const scene = await Scene.open({ postgres, processes: 2 });
    await scene.begin();
    // So many answers that the failures of the restart do not open the breaker, which would stay open for 30 s.
    await sleep(4000);
    await scene.phase('fault');
    const stopped = now();
    await postgres.restart();
    const asked = async () => {
      const [session] = await scene.database.createSessions(1);
      const answers = await Promise.all(scene.witnesses.map((one) => one.call('validateAll', [session.token])));
      return answers.every(([id]) => id === session.id);
    };
    await until(asked, { what: 'answers of Postgres', deadlineMs: RECOVERY_MS });
    const back = now();
    await scene.localAgain();
    const outcome = await scene.end('Postgres restarted', { 'asked again after': `${(back - stopped) / 1000} ms` });
    await scene.close();
    const { failed, heldFailed, vain } = outcome;
    expect(heldFailed).toBe(0);
    expect(Object.keys(failed).filter((where) => !where.startsWith('fault'))).toEqual([]);
    // An ending that failed is not known to have happened; only those that were called meanwhile may fail.
    const unexcused = vain.filter(({ called, error }) => !error || called < stopped - 1e6 || called > back);
    expectRight({ ...outcome, failures: [], vain: unexcused });
  },
  240_000,
);

test.concurrent(
  'a process stopped for 10 s, to whom Postgres alone tells of endings: its first call knows of them',
  async () => {
    const scene = await Scene.open({ postgres: shared, withoutRedis: true, ways: BY_SQL });
    await standstill(scene, 'process stopped and continued, without Redis');
  },
  180_000,
);

test.concurrent(
  'what a process had asked Postgres when it was stopped for longer than a deadline is answered when it goes on',
  async () => {
    const [redis, url] = await Promise.all([startRedis(), shared.createDatabase()]);
    const database = new Database(url);
    const tap = await tapPostgres({ url, port: shared.port });
    const one = await actor({ redis, postgres: tap });
    await warmUp(database, one);
    const sessions = await database.createSessions(20);
    tap.delayMs = () => 200;
    const tokens = sessions.map(({ token }) => token);
    const answers = one.call('validateAll', tokens);
    const asked = async () => (await one.call('getSessionCacheMetrics')).databaseReads > sessions.length / 2;
    await until(asked, { what: 'queries under way', everyMs: 5 });
    one.freeze();
    // Meanwhile the answers arrive.
    await sleep(DEADLINE_MS);
    tap.delayMs = () => 0;
    one.thaw();
    expect(await answers).toEqual(sessions.map(({ id }) => id));
    // The clock was this process's own, and says nothing of the server.
    expect(await one.call('getBreakerState')).toEqual({ redis: 'closed', postgres: 'closed' });
    await one.kill();
    await database.end();
  },
  60_000,
);

/** Each way: what becomes of the connection that listens, while the others work; the `rare` ones with SOAK=1 only. */
const LOSSES = {
  'killed again and again': {
    fault: ({ database }) => database.query(`SELECT pg_terminate_backend(pid) ${LISTENERS}`),
    again: true,
  },
  'kept away': {
    rare: true,
    fault({ rows }) {
      rows.refusesListeners = true;
      for (const connection of rows.listeners) connection.destroy();
    },
    cure: ({ rows }) => (rows.refusesListeners = false),
  },
  silent: { fault: ({ rows }) => rows.listeners.forEach((connection) => connection.freeze()) },
  // Then only the listener lets sessions be held at all.
  'silent, where there is no Redis': {
    rare: true,
    withoutRedis: true,
    fault: ({ rows }) => rows.listeners.forEach((connection) => connection.freeze()),
  },
};

test.concurrent.each(Object.keys(LOSSES).filter((way) => SOAK || !LOSSES[way].rare))(
  'the listener %s: what it may have missed is not believed',
  async (way) => {
    const { fault, cure, again, withoutRedis } = LOSSES[way];
    // Nobody else listens who would remove from Redis what this process does not hear of.
    const scene = await Scene.open({ postgres: shared, tapped: { postgres: true }, withoutRedis, ways: BY_SQL });
    await scene.begin();
    await scene.beginOwn();
    await scene.phase('fault');
    const begun = Date.now();
    await fault(scene);
    while (Date.now() < begun + LOSS_MS) {
      await sleep(500);
      if (again) await fault(scene);
    }
    await cure?.(scene);
    // The server keeps the frozen connection, whose end it has not been told of.
    const hearing = () => scene.rows.listeners.filter(({ frozen }) => !frozen.toServer);
    await until(() => hearing().length > 0, { what: 'the return of the listener' });
    await listening(scene.database, scene.rows.listeners.length);
    await scene.localAgain({ deadlineMs: RECOVERY_MS });
    const outcome = await scene.end(`listener ${way}`);
    await scene.close();
    expectRight(outcome, { withinMs: UNPROVEN_LINK_MS });
  },
  180_000,
);
