'use strict';

// Endings in the middle of validations, in four processes at once: 300 times, or 10,000 with SOAK=1. In each process
// several callers ask for the same token, so that it is answered from the process, from Redis and from Postgres. Two of
// the processes get each answer of Postgres late, by random times, so that their reads and fills cross the ending.

const { randomBytes } = require('node:crypto');
const { startRedis, startPostgres, sleep } = require('./helpers/servers.js');
const { Database, hashOf } = require('./helpers/database.js');
const { tapPostgres } = require('./fixtures/faults/taps.js');
const { actor, warmUp, listening } = require('./fixtures/faults/cast.js');
const { CALLS, WRITES } = require('./fixtures/faults/endings.js');
const { SOON_MS, summary, delays, report } = require('./fixtures/faults/figures.js');

const ROUNDS = process.env.SOAK ? 10_000 : 300;
/** Races that run side by side. */
const LANES = 4;
const PROCESSES = 4;
/** No acceptance in another process may begin later than this after the ending resolved. The machine may be busy. */
const OTHER_PROCESSES_MS = 1000;
/** How long others are watched for their first refusal, and for what may come back after it. */
const WATCHED = { refusedWithinMs: 5000, thenMs: 10 };
/** After so many, more would tell nothing. */
const MOST_FAULTS = 10;
const DAY_MS = 86_400_000;

const newToken = () => {
  const token = randomBytes(32).toString('base64url');
  return { token, hash: hashOf(token) };
};

/** What stays beside the session that is ended: another session of the user, or the token that the session gets. */
const COMPANY = {
  others: ({ userId }) => database.createSession({ user: { id: userId } }),
  rotate: newToken,
  'new token by SQL': newToken,
};

/** Clean-ups end sessions that nobody names. They take turns, so that each deletes its own. */
const CLEANUPS = {
  'clean-up of expired sessions': {
    make: () => database.createSessions(1, { expiresInSeconds: 0.4 }).then(([session]) => session),
    ready: () => sleep(450),
    call: ['cleanupExpiredSessions', []],
  },
  'clean-up of inactive sessions': {
    make: () => database.createSession({ lastActivityAt: new Date(Date.now() - 3 * DAY_MS) }),
    // Who has validated a session knows that it is active, and would not delete it.
    apart: true,
    call: ['cleanupInactiveSessions', [2]],
  },
};

const KINDS = [...Object.keys(CALLS), ...Object.keys(WRITES), ...Object.keys(CLEANUPS)];

let postgres;
let redis;
let database;
let taps;

beforeAll(async () => {
  [redis, postgres] = await Promise.all([startRedis(), startPostgres()]);
  database = new Database(postgres.url);
  taps = await Promise.all([tapPostgres(postgres), tapPostgres(postgres)]);
  for (const tap of taps) tap.delayMs = () => (Math.random() < 0.5 ? Math.random() * 8 : 0);
});

afterAll(() => database.end());

/** The first two processes reach Postgres directly; the clerk writes SQL and has no cache. */
async function cast() {
  // See `becameActive`.
  const env = { SESSION_ACTIVITY_FLUSH_SECONDS: '3600' };
  const start = (number) => actor({ redis, postgres: taps[number - 2] ?? postgres, env });
  const processes = await Promise.all(Array.from({ length: PROCESSES }, (_, number) => start(number)));
  const clerk = await actor({ redis, postgres });
  await processes[0].call('installTriggers');
  await warmUp(database, ...processes);
  await listening(database, PROCESSES);
  return { processes, clerk };
}

/** How far the others are when the ending is called. */
const MOMENTS = [
  // Reads and fills are under way.
  { name: 'at once', before: () => sleep(Math.random() * 12) },
  // Every process holds the session.
  { name: 'when all are hot', before: () => sleep(30 + Math.random() * 20) },
  // It is forgotten, read and filled again all the time.
  {
    name: 'among forgettings',
    async before({ token }, processes) {
      for (let time = 0; time < 4; time += 1) {
        await sleep(Math.random() * 8);
        await processes[time % PROCESSES].call('invalidateSessionCache', token);
      }
    },
  },
];

class Races {
  constructor({ processes, clerk }) {
    Object.assign(this, { processes, clerk, round: 0, faults: [], ended: [], stayed: [], cleaning: Promise.resolve() });
    this.late = { calls: [], writes: [], slow: [] };
    this.refusals = [];
    this.void = 0;
    this.accepted = processes.map(() => 0);
  }

  async lane() {
    while (this.round < ROUNDS && this.faults.length < MOST_FAULTS) {
      const number = this.round++;
      const kind = KINDS[number % KINDS.length];
      if (CLEANUPS[kind]) await (this.cleaning = this.cleaning.then(() => this.cleanup(number, kind)));
      else await this.race(number, kind);
    }
  }

  async race(number, kind) {
    const [session] = await database.createSessions(1);
    const company = await COMPANY[kind]?.(session);
    if (company) this.stayed.push(company.token);
    const ender = WRITES[kind] ? this.clerk : this.processes[number % PROCESSES];
    const moment = MOMENTS[Math.floor(Math.random() * MOMENTS.length)];
    const call = (CALLS[kind] ?? WRITES[kind])(session, company);
    await this.run({ kind, session, ender, watchers: this.processes, ready: moment.before, call });
  }

  async cleanup(number, kind) {
    const { make, ready = MOMENTS[1].before, apart, call } = CLEANUPS[kind];
    const session = await make();
    const ender = this.processes[number % PROCESSES];
    const watchers = this.processes.filter((one) => !apart || one !== ender);
    await this.run({ kind, session, ender, watchers, ready, call });
  }

  async run({ kind, session, ender, watchers, ready, call }) {
    await Promise.all(watchers.map((one) => one.call('watch', session.token)));
    await ready(session, this.processes);
    const { called, resolved, result } = await ender.call('end', ...call);
    if (CLEANUPS[kind]?.apart && (await this.becameActive(session))) {
      await Promise.all(watchers.map((one) => one.call('stopWatching', session.token)));
      return;
    }
    const all = await Promise.all(watchers.map((one) => one.call('stopWatching', session.token, WATCHED)));
    if (!result) this.faults.push(`${kind}: the ending answered ${result}`);
    this.ended.push(session.token);
    all.forEach((seen, index) => this.judge(kind, watchers[index], ender, { called, resolved, seen }));
  }

  /** A watcher that has to write the activity of thousands may do it in the middle of a round, which is then none. */
  async becameActive({ id }) {
    const [row] = await database.query(
      "SELECT last_activity_at > now() - interval '1 day' AS active FROM platform.user_sessions WHERE id = $1",
      [id],
    );
    this.void += row?.active ? 1 : 0;
    return Boolean(row?.active);
  }

  judge(kind, one, ender, { called, resolved, seen }) {
    const index = this.processes.indexOf(one);
    this.accepted[index] += seen.accepted;
    if (seen.errors.length > 0) this.faults.push(`${kind}: ${seen.errors[0]}`);
    if (seen.refused === 0) this.faults.push(`${kind}: never refused by process ${index}`);
    if (seen.firstRefused < called && kind !== 'clean-up of expired sessions') {
      this.faults.push(`${kind}: refused by process ${index} before it was ended`);
    }
    const ms = Math.max(0, (seen.lastAccepted - resolved) / 1000);
    if (one === ender) {
      if (ms > 0) this.faults.push(`${kind}: accepted by the process that ended it, ${ms} ms after`);
      return;
    }
    this.late[index >= 2 ? 'slow' : WRITES[kind] ? 'writes' : 'calls'].push(ms);
    this.refusals.push((seen.firstRefused - called) / 1000);
    if (ms > OTHER_PROCESSES_MS) this.faults.push(`${kind}: accepted by process ${index} ${ms} ms after`);
  }
}

/** Ends every session that stayed in one statement, while all processes hold them; the delays of their last acceptance. */
async function truncate({ processes, clerk }, tokens) {
  for (const one of processes) for (const token of tokens) await one.call('watch', token, 1);
  await sleep(100);
  const { resolved } = await clerk.call('end', 'sql', ['TRUNCATE platform.user_sessions']);
  const all = await Promise.all(
    processes.flatMap((one) => tokens.map((token) => one.call('stopWatching', token, WATCHED))),
  );
  return all.map(({ lastAccepted }) => Math.max(0, (lastAccepted - resolved) / 1000));
}

test(
  `${ROUNDS} endings racing with validations in ${PROCESSES} processes: 0 accepted afterwards`,
  async () => {
    const actors = await cast();
    const { processes } = actors;
    const bystanders = (await database.createSessions(100)).map(({ token }) => token);
    for (const one of processes) await one.call('validateAll', bystanders);
    const races = new Races(actors);
    await Promise.all(Array.from({ length: LANES }, () => races.lane()));

    // Nothing comes back later, nothing was ended that should have stayed; somebody who was not there sees the same.
    await sleep(OTHER_PROCESSES_MS);
    const stays = [...bystanders, ...races.stayed];
    const late = await actor({ redis, postgres });
    const all = [...processes, late];
    const [back, staying] = [
      await Promise.all(all.map((one) => one.call('countAccepted', races.ended))),
      await Promise.all(all.map((one) => one.call('countAccepted', stays))),
    ];
    const metrics = await Promise.all(processes.map((one) => one.call('getSessionCacheMetrics')));
    const truncated = await truncate(actors, bystanders.slice(0, 20));
    const afterAll = await Promise.all(all.map((one) => one.call('countAccepted', stays)));

    const summed = (name) => metrics.reduce((sum, one) => sum + one[name], 0);
    report(`${ROUNDS} races`, {
      'last acceptance of another process after the call had resolved': delays(races.late.calls),
      'after SQL was committed': delays(races.late.writes),
      'both where Postgres is late by up to 8 ms': delays(races.late.slow),
      'after a TRUNCATE': delays(truncated),
      'first refusal of another process after the ending was called': summary(races.refusals),
      ...Object.fromEntries(['localHits', 'redisHits', 'databaseReads', 'coalesced'].map((n) => [n, summed(n)])),
    });
    expect(races.faults).toEqual([]);
    expect(races.void).toBeLessThanOrEqual(ROUNDS / 100);
    expect(back).toEqual(all.map(() => 0));
    expect(staying).toEqual(all.map(() => stays.length));
    expect(Math.max(...truncated)).toBeLessThan(OTHER_PROCESSES_MS);
    expect(afterAll).toEqual(all.map(() => 0));
    // On the whole it is as fast as it is meant to be.
    for (const late of Object.values(races.late)) expect(summary(late).p50).toBeLessThan(SOON_MS);
    // The races were races: sessions were read by all before their end, in every place where they can be.
    expect(Math.min(...races.accepted)).toBeGreaterThan(ROUNDS);
    for (const { localHits, redisHits, databaseReads } of metrics) {
      expect(Math.min(localHits, redisHits, databaseReads)).toBeGreaterThan(ROUNDS / 2);
    }
  },
  process.env.SOAK ? 3_600_000 : 120_000,
);
