'use strict';

// Revocations in the middle of validations, in two processes at once: 200 times, or 10,000 with SOAK=1. Answers of
// Postgres are delayed at random in every second round, so that reads and fills cross the revocation.

const { randomBytes } = require('node:crypto');
const { startRedis, startPostgres, sleep } = require('./helpers/servers.js');
const { Database } = require('./helpers/database.js');
const { tapPostgres } = require('./fixtures/faults/taps.js');
const { actor, warmUp, listening } = require('./fixtures/faults/cast.js');
const { summary, report } = require('./fixtures/faults/figures.js');

const ROUNDS = process.env.SOAK ? 10_000 : 200;
/** Races that run side by side. */
const LANES = 4;
/** No acceptance in the other process may begin later than this after the revocation resolved. */
const OTHER_PROCESS_MS = 1000;

/** How each kind ends the session; `stays` is another session of the same user. */
const KINDS = {
  'with token': ({ id, token }) => ['revokeSessionWithCache', [id, token]],
  'without token': ({ id }) => ['revokeSessionWithCache', [id]],
  'by token': ({ token }) => ['revokeSessionByToken', [token]],
  'of user': ({ userId }) => ['revokeAllUserSessionsWithCache', [userId]],
  others: ({ userId }, stays) => ['revokeOtherSessions', [userId, stays.id]],
  rotate: ({ token }, stays) => ['rotateSession', [token, stays.token, new Date(Date.now() + 3_600_000)]],
};

let postgres;
let redis;
let database;
let taps;

beforeAll(async () => {
  [redis, postgres] = await Promise.all([startRedis(), startPostgres()]);
  database = new Database(postgres.url);
  taps = await Promise.all([tapPostgres(postgres), tapPostgres(postgres)]);
});

afterAll(() => database.end());

/** What remains of the user beside the session that is revoked: for "rotate", the token that the session gets. */
async function company(kind, { userId }) {
  if (kind === 'rotate') return { token: randomBytes(32).toString('base64url') };
  if (kind === 'others') return database.createSession({ user: { id: userId } });
  return null;
}

test(
  `revoke racing with validate in two processes, ${ROUNDS} times: 0 accepted afterwards`,
  async () => {
    const [a, b] = await Promise.all(taps.map((tap) => actor({ redis, postgres: tap })));
    await warmUp(database, a, b);
    await listening(database, 2);
    const kinds = Object.keys(KINDS);
    const delays = [];
    const refusals = [];
    const [seenByA, seenByB] = [
      { asked: 0, accepted: 0 },
      { asked: 0, accepted: 0 },
    ];
    const faults = [];
    const revoked = [];
    const stayed = [];
    let round = 0;

    const oneRound = async (number) => {
      const kind = kinds[number % kinds.length];
      const [session] = await database.createSessions(1);
      const stays = await company(kind, session);
      for (const tap of taps) tap.delayMs = number % 2 ? () => Math.random() * 8 : () => 0;
      await b.call('watch', session.token);
      const [method, args] = KINDS[kind](session, stays);
      const atA = await a.call('race', { token: session.token, method, args });
      const atB = await b.call('stopWatching', session.token);
      for (const [sum, seen] of [
        [seenByA, atA],
        [seenByB, atB],
      ]) {
        sum.asked += seen.asked;
        sum.accepted += seen.accepted;
        if (seen.errors.length > 0) faults.push(`${kind}: ${seen.errors[0]}`);
      }
      if (!atA.result) faults.push(`${kind}: the revocation answered ${atA.result}`);
      if (atA.acceptedAfter > 0) faults.push(`${kind}: ${atA.acceptedAfter} accepted by the process that revoked`);
      const delay = Math.max(0, (atB.lastAccepted - atA.resolved) / 1000);
      delays.push(delay);
      refusals.push((atB.firstRefused - atA.called) / 1000);
      if (delay > OTHER_PROCESS_MS) faults.push(`${kind}: accepted by the other process ${delay} ms after`);
      revoked.push(session.token);
      if (stays) stayed.push(stays.token);
    };
    const lane = async () => {
      while (round < ROUNDS) await oneRound(round++);
    };
    await Promise.all(Array.from({ length: LANES }, lane));

    // Nothing comes back later, and nothing was ended that should have stayed.
    await sleep(OTHER_PROCESS_MS);
    const later = await Promise.all([a, b].map((one) => one.call('countAccepted', revoked)));
    const staying = await Promise.all([a, b].map((one) => one.call('countAccepted', stayed)));
    report(`${ROUNDS} races`, {
      'last acceptance of the other process after the revocation resolved': summary(delays),
      'rounds with any': delays.filter((delay) => delay > 0).length,
      'first refusal of the other process after the revocation was called': summary(refusals),
      'validations of the revoker': `${seenByA.asked} (${seenByA.accepted} accepted before)`,
      'validations of the other': `${seenByB.asked} (${seenByB.accepted} accepted before)`,
    });
    expect(faults).toEqual([]);
    expect(later).toEqual([0, 0]);
    expect(staying).toEqual([stayed.length, stayed.length]);
    // The races were races: sessions were read by both before their end.
    expect(Math.min(seenByA.accepted, seenByB.accepted)).toBeGreaterThan(ROUNDS);
  },
  process.env.SOAK ? 3_600_000 : 120_000,
);
