'use strict';

// What the session cache may cost: queries for each validation, statements for the activity of many, commands for the end
// of a user's sessions, and memory. Counted by the servers, not timed.

const { startRedis, startPostgres, sleep } = require('./helpers/servers.js');
const { Database } = require('./helpers/database.js');
const { actor, warmUp, listening, keeps } = require('./fixtures/faults/cast.js');
const { report } = require('./fixtures/faults/figures.js');

const SOAK = Boolean(process.env.SOAK);
const MB = 1024 * 1024;

let postgres;
const databases = [];

beforeAll(async () => {
  // Each statement is in its log, after the name of the database.
  postgres = await startPostgres({ settings: { log_statement: 'all', log_line_prefix: '%d ' } });
});

afterAll(() => Promise.all(databases.map((database) => database.end())));

/** A Redis and a database of its own for each case, because notifications reach all who use the same one. */
async function servers() {
  const [redis, url] = await Promise.all([startRedis(), postgres.createDatabase()]);
  const database = new Database(url);
  databases.push(database);
  return { redis, database };
}

const metricsOf = (processes) => Promise.all(processes.map((one) => one.call('getSessionCacheMetrics')));
const sumOf = (metrics, name) => metrics.reduce((sum, one) => sum + one[name], 0);

const BUDGET = SOAK
  ? { sessions: 5000, ttlSeconds: 300, flushSeconds: 30 }
  : { sessions: 500, ttlSeconds: 10, flushSeconds: 5 };
const PER_SECOND = 1000;
const PROCESSES = 2;

/** Statements in a database, since the log had `from` characters, that write the activity of sessions. */
function activityStatements(database, from) {
  const name = new URL(database.url).pathname.slice(1);
  const entries = postgres.log.slice(from).split(/^(?=\S* [A-Z]+: )/m);
  const statements = entries.filter((entry) => entry.startsWith(`${name} LOG:`));
  return statements.filter((text) => /UPDATE\s+platform\.user_sessions[^]*last_activity_at/i.test(text)).length;
}

test.concurrent(
  `${PER_SECOND} validations a second of ${BUDGET.sessions} sessions over one life of their copies: each is read once`,
  async () => {
    const { redis, database } = await servers();
    const env = { SESSION_ACTIVITY_FLUSH_SECONDS: `${BUDGET.flushSeconds}` };
    const processes = await Promise.all(
      Array.from({ length: PROCESSES }, () => actor({ redis, postgres: database, env })),
    );
    await processes[0].call('installTriggers');
    await warmUp(database, ...processes);
    await listening(database, PROCESSES);
    const sessions = await database.createSessions(BUDGET.sessions);
    await database.query("UPDATE platform.user_sessions SET last_activity_at = now() - interval '1 hour'");
    for (const one of processes) {
      await one.call('configureSessionCache', { ttlSeconds: BUDGET.ttlSeconds });
      await one.call('resetSessionCacheMetrics');
    }
    const from = postgres.log.length;

    const hot = sessions.map(({ token }) => token);
    // In another order each, so that they do not ask for the same session at the same moment all the time.
    for (const [index, one] of processes.entries()) {
      const order = index % 2 ? [...hot].reverse() : hot;
      await one.call('startTraffic', { hot: order, perSecond: PER_SECOND / PROCESSES });
    }
    // As long as the first copies live, with something for a late timer.
    await sleep(BUDGET.ttlSeconds * 950);
    const metrics = await metricsOf(processes);
    const seen = await Promise.all(processes.map((one) => one.call('stopTraffic')));
    await Promise.all(processes.map((one) => one.call('shutdown')));

    const [total, reads] = [sumOf(metrics, 'total'), sumOf(metrics, 'databaseReads')];
    const statements = activityStatements(database, from);
    const figures = ['localHits', 'redisHits', 'misses', 'coalesced'].map((name) => [name, sumOf(metrics, name)]);
    report(`${PER_SECOND} validations a second`, {
      validations: total,
      'queries for a validation': (reads / total).toFixed(4),
      'statements for the activity': statements,
      ...Object.fromEntries(figures),
    });
    for (const { failures } of seen) expect(failures).toEqual([]);
    expect(total).toBeGreaterThan(BUDGET.ttlSeconds * PER_SECOND * 0.75);
    expect(reads).toBeGreaterThanOrEqual(BUDGET.sessions);
    expect(reads).toBeLessThanOrEqual(1.2 * BUDGET.sessions);
    // Two tiers work: nobody asks Redis for each validation either.
    expect(sumOf(metrics, 'localHits')).toBeGreaterThan(total / 2);
    expect(statements).toBeGreaterThan(0);
    expect(statements).toBeLessThanOrEqual(total / 1000);
    const [{ stale }] = await database.query(
      `SELECT count(*)::int AS stale FROM platform.user_sessions
       WHERE token = ANY($1) AND last_activity_at < now() - interval '30 minutes'`,
      [sessions.map(({ hash }) => hash)],
    );
    expect(stale).toBe(0);
    // To write activity is no news: it must make nobody forget.
    for (const { invalidationsBy } of metrics) expect(invalidationsBy.postgres).toBe(0);
  },
  (BUDGET.ttlSeconds + 60) * 1000,
);

/** Sessions of the user. */
const ENDED = 20;

/** What keeps connections alive, and the questions of this test. */
const NOT_COUNTED = ['ping', 'echo', 'info', 'config', 'client', 'hello'];

/** Commands that Redis has executed since `CONFIG RESETSTAT`: name and number. */
async function commandsOf(redis) {
  const lines = (await redis.cli('INFO', 'commandstats')).split('\n');
  const counts = lines.map((line) => /^cmdstat_([^:]+):calls=(\d+)/.exec(line)).filter(Boolean);
  const counted = counts.filter(([, name]) => !NOT_COUNTED.includes(name.split('|')[0]));
  return Object.fromEntries(counted.map(([, name, calls]) => [name, Number(calls)]));
}

/** Copies of `key` under other names, so many at a time that nobody is kept waiting. */
async function addCopies(redis, key, count) {
  const script = `
    local copy = redis.call('HGETALL', KEYS[1])
    for number = ARGV[1], ARGV[2] do
      redis.call('HSET', 'session:' .. redis.sha1hex(number) .. string.rep('0', 24), unpack(copy))
    end`;
  for (let from = 0; from < count; from += 1000)
    await redis.cli('EVAL', script, '1', key, from, Math.min(count, from + 1000) - 1);
}

test.concurrent(
  'the end of 20 sessions of a user costs the same commands among 1,000 and 100,000 cached ones, and no SCAN',
  async () => {
    const { redis, database } = await servers();
    const one = await actor({ redis, postgres: database });
    await warmUp(database, one);
    await listening(database, 1);
    const cost = async (cached) => {
      const others = await database.createSessions(1000);
      const user = await database.createUser();
      const sessions = [];
      for (let count = 0; count < ENDED; count += 1) sessions.push(await database.createSession({ user }));
      const tokens = sessions.map(({ token }) => token);
      for (let time = 0; time < 2; time += 1) {
        await one.call('validateAll', others.map(({ token }) => token));
        await one.call('validateAll', tokens);
        // The fills behind the answers.
        await keeps(redis, sessions.at(-1), 'copy');
      }
      const missing = cached - Number(await redis.cli('DBSIZE'));
      await addCopies(redis, `session:${others[0].hash}`, Math.max(0, missing));
      await sleep(500);
      await redis.cli('CONFIG', 'RESETSTAT');
      expect(await one.call('revokeAllUserSessionsWithCache', user.id)).toBe(ENDED);
      await sleep(500);
      const commands = await commandsOf(redis);
      expect(await one.call('countAccepted', tokens)).toBe(0);
      return { keys: Number(await redis.cli('DBSIZE')), commands };
    };
    const [few, many] = [await cost(1000), await cost(100_000)];
    report('the end of 20 sessions of a user', {
      [`among ${few.keys}`]: JSON.stringify(few.commands),
      [`among ${many.keys}`]: JSON.stringify(many.commands),
    });
    expect(many.keys).toBeGreaterThanOrEqual(99_000);
    for (const { commands } of [few, many]) {
      expect(Object.keys(commands)).toEqual(expect.not.arrayContaining(['scan']));
      expect(Object.keys(commands)).toEqual(expect.not.arrayContaining(['keys']));
      const total = Object.values(commands).reduce((sum, calls) => sum + calls, 0);
      expect(total).toBeGreaterThan(0);
      // The process also hears from Postgres what it did itself, in as many parts as the news come in.
      expect(total).toBeLessThanOrEqual(2 * ENDED + 5);
    }
  },
  120_000,
);

const CROWD = SOAK
  ? { sessions: 50_000, validations: 5_000_000, entries: 1000 }
  : { sessions: 20_000, validations: 200_000, entries: 1000 };
/** More than chance, on any allocator. */
const MOST_GROWTH_MB = 20;
/** Without these, glibc keeps more of what was freed the longer it runs, and that is not what is measured. */
const ALLOCATOR = { MALLOC_TRIM_THRESHOLD_: '131072', MALLOC_MMAP_THRESHOLD_: '131072' };

test.concurrent(
  `${CROWD.validations} validations of ${CROWD.sessions} sessions in a process that may hold ${CROWD.entries}: memory does not grow`,
  async () => {
    const { redis, database } = await servers();
    const env = { SESSION_CACHE_LOCAL_ENTRIES: `${CROWD.entries}`, ...ALLOCATOR };
    const one = await actor({ redis, postgres: database, env });
    await warmUp(database, one);
    const tokens = (await database.createSessions(CROWD.sessions)).map(({ token }) => token);
    await one.call('keep', tokens);
    expect(await one.call('validateEach')).toEqual({ refused: 0, failures: [] });
    const entries = [];
    const memory = [];
    const parts = 10;
    for (let part = 0; part < parts; part += 1) {
      expect(await one.call('validateKept', CROWD.validations / parts)).toEqual({ refused: 0, failures: [] });
      memory.push(await one.call('memory'));
      entries.push((await one.call('getSessionCacheMetrics')).localEntries);
    }
    const grown = (what) => (memory.at(-1)[what] - memory[0][what]) / MB;
    const { localHits, redisHits, databaseReads } = await one.call('getSessionCacheMetrics');
    report(`${CROWD.validations} validations`, {
      'resident MB': memory.map(({ resident }) => Math.round(resident / MB)).join(' '),
      'growth of JavaScript objects in MB': grown('objects').toFixed(1),
      'growth outside of JavaScript in MB': grown('native').toFixed(1),
      'entries in the process': entries.join(' '),
      ...{ localHits, redisHits, databaseReads },
    });
    expect(Math.max(...entries)).toBeLessThanOrEqual(CROWD.entries);
    expect(Math.max(...entries)).toBeGreaterThan(CROWD.entries / 2);
    // Twenty times as many sessions are read as may be held: objects that are kept of each would be 10 MB.
    expect(grown('objects')).toBeLessThan(4);
    expect(grown('native')).toBeLessThan(MOST_GROWTH_MB);
  },
  SOAK ? 1_200_000 : 120_000,
);
