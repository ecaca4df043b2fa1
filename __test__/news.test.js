'use strict';

// What a process learns from Postgres alone: the notification that goes with each deletion. The one who ends or changes
// sessions has no Redis here, so that nothing but the news can remove the copy.

const { startRedis, startPostgres, until } = require('./helpers/servers.js');
const { endProcesses } = require('./helpers/process.js');
const { Database } = require('./helpers/database.js');
const { tapPostgres } = require('./fixtures/faults/taps.js');
const { actor, warmUp, listening, kept, keeps, cached } = require('./fixtures/faults/cast.js');

let redis;
let postgres;
let database;

beforeAll(async () => {
  [redis, postgres] = await Promise.all([startRedis(), startPostgres()]);
  database = new Database(postgres.url);
});

afterEach(endProcesses);
afterAll(() => database.end());

const validate = (one, { token }) => one.call('validateSessionWithCache', token);

const NEWS = {
  'revokeSessionWithCache with the token': ['revokeSessionWithCache', ({ id, token }) => [id, token]],
  'revokeSessionWithCache without the token': ['revokeSessionWithCache', ({ id }) => [id]],
  revokeSessionByToken: ['revokeSessionByToken', ({ token }) => [token]],
  revokeAllUserSessionsWithCache: ['revokeAllUserSessionsWithCache', ({ userId }) => [userId]],
  revokeOtherSessions: ['revokeOtherSessions', ({ userId }, stays) => [userId, stays.id]],
  rotateSession: ['rotateSession', ({ token }) => [token, `${token}-new`, new Date(Date.now() + 3_600_000)]],
  invalidateUserSessions: ['invalidateUserSessions', ({ userId }) => [userId]],
};

test.each(Object.keys(NEWS))('%s tells a listening process, also where the revoker has no Redis', async (way) => {
  const [method, args] = NEWS[way];
  const [revoker, listener] = await Promise.all([actor({ redis: null, postgres }), actor({ redis, postgres })]);
  await warmUp(database, revoker, listener);
  await listening(database, 2);
  const session = await database.createSession();
  const stays = await database.createSession({ user: session.user });
  await cached(redis, listener, session);
  expect(await revoker.call(method, ...args(session, stays))).toBeTruthy();
  await keeps(redis, session, 'nothing', { deadlineMs: 1000, everyMs: 1 });
  const ended = !method.startsWith('invalidate');
  expect(await validate(listener, session)).toEqual(ended ? null : expect.objectContaining({ id: session.id }));
});

test('what was said while nobody listened is not missed: copies from before the return of the listener are not believed', async () => {
  const tap = await tapPostgres(postgres);
  const [revoker, listener] = await Promise.all([actor({ redis: null, postgres }), actor({ redis, postgres: tap })]);
  await warmUp(database, revoker, listener);
  await listening(database, 2);
  const session = await database.createSession();
  await cached(redis, listener, session);
  await tap.proxy.cut();
  expect(await revoker.call('revokeSessionWithCache', session.id)).toBe(true);
  expect(await kept(redis, session)).toBe('copy');
  await tap.proxy.restore();
  await listening(database, 2);
  const refused = async () => (await validate(listener, session)) === null;
  await until(refused, { what: 'the refusal', deadlineMs: 3000 });
  for (let round = 0; round < 20; round += 1) expect(await validate(listener, session)).toBeNull();
  // What is read from now on is believed again.
  await cached(redis, listener, await database.createSession());
});
