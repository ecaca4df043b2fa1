'use strict';

// SIGTERM under traffic, as docs/nextjs.md tells applications to take it.

const http = require('node:http');
const { Database } = require('../helpers/database.js');
const { startRedis, until } = require('../helpers/servers.js');
const { ask, startApp } = require('../fixtures/next/server.js');

const REPORTS = 20;
const EXPORTS = 10;
const BACKGROUND = 5;
/** What docs/nextjs.md promises. */
const LONGEST_MS = 5000;
/** What the application says when it has waited for requests in vain. */
const TOO_LATE = 'Not every request was answered';

let database;

beforeAll(() => {
  database = new Database();
});

afterAll(() => database.end());

/** An application with a Redis of its own, and sessions whose activity was an hour ago. */
async function scene() {
  const redis = await startRedis();
  const app = await startApp(process.env.NEXT_ALONE, {
    env: {
      REDIS_URL: redis.url,
      DATABASE_URL: database.url,
      SEARCHES: '100000',
      // So that nothing but the end writes activity while the test goes on.
      SESSION_ACTIVITY_FLUSH_SECONDS: '3600',
    },
  });
  const sessions = await database.createSessions(BACKGROUND + 2);
  const ids = sessions.map(({ id }) => id);
  await database.query(
    "UPDATE platform.user_sessions SET last_activity_at = now() - interval '1 hour' WHERE id = ANY($1)",
    [ids],
  );
  return { redis, app, sessions, ids };
}

/** How many of them Postgres knows of no activity since the scene began. */
async function withOldActivity(ids) {
  const [{ count }] = await database.query(
    `SELECT count(*)::int AS count FROM platform.user_sessions
     WHERE id = ANY($1) AND last_activity_at < now() - interval '30 minutes'`,
    [ids],
  );
  return count;
}

const validations = async (app) => JSON.parse((await app.ask('/api/health/redis')).body).sessions.total;

/** Requests of which it is known that the application has begun to work on them; resolves with their answers to come. */
async function underWay(app, [reporting, exporting], milliseconds) {
  const before = await validations(app);
  // Connections that would be kept: they must not hold the process.
  const agent = new http.Agent({ keepAlive: true });
  const answers = Array.from({ length: REPORTS }, () =>
    ask(`${app.url}/api/report?milliseconds=${milliseconds}`, { token: reporting.token, agent }),
  );
  await until(async () => (await validations(app)) >= before + REPORTS, { what: 'the reports to begin' });
  const begun = Array.from({ length: EXPORTS }, () =>
    new Promise((resolve, reject) => {
      const answer = ask(`${app.url}/api/export?lines=20`, { token: exporting.token, agent, first: resolve });
      answer.catch(reject);
      answers.push(answer);
    }),
  );
  await Promise.all(begun);
  return answers;
}

/** People who go on asking until nobody answers any more, each on a connection that is kept. */
function background(app, sessions) {
  const seen = { statuses: {}, answered: 0 };
  const routes = ['/', '/api/auth/validate', '/api/me', '/api/search?q=a'];
  const person = async ({ token }) => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    for (let number = 0; ; number += 1) {
      try {
        const { status } = await ask(app.url + routes[number % routes.length], { token, agent });
        seen.statuses[status] = (seen.statuses[status] ?? 0) + 1;
        seen.answered += 1;
      } catch (error) {
        agent.destroy();
        return error.code;
      }
    }
  };
  seen.ended = Promise.all(sessions.map(person));
  return seen;
}

const refused = (url) => ask(url).then(() => false, (error) => error.code === 'ECONNREFUSED');

/** Sends SIGTERM; resolves with how it ended, and after how many milliseconds. */
async function terminate(app) {
  const began = performance.now();
  process.kill(app.pid, 'SIGTERM');
  return { exit: await app.exited, elapsed: performance.now() - began };
}

describe.each([
  ['with all servers there', () => {}],
  ['with a Redis that does not answer', (redis) => redis.freeze()],
  ['with a Redis that is gone', (redis) => redis.kill()],
])('%s', (_, takeAway) => {
  test('requests under way are answered, activity is written, and it ends within 5 s', async () => {
    const { redis, app, sessions, ids } = await scene();
    const people = background(app, sessions.slice(2));
    await until(() => people.answered >= 50, { what: 'traffic' });
    await takeAway(redis);
    const awayAt = people.answered;
    await until(() => people.answered >= awayAt + 50, { what: 'traffic to go on' });

    const answers = await underWay(app, sessions, 1000);
    const ended = terminate(app);
    await until(() => refused(`${app.url}/sign-in`), { what: 'new connections to be refused' });

    const statuses = (await Promise.all(answers)).map(({ status, body }) => [status, /end\n$|"report":"/.test(body)]);
    expect(statuses).toEqual(Array(REPORTS + EXPORTS).fill([200, true]));
    const { exit, elapsed } = await ended;
    expect(exit).toEqual({ code: 0, signal: null });
    expect(elapsed).toBeLessThan(LONGEST_MS);
    // No connection that was kept for a next request has held it.
    expect(app.output()).not.toContain(TOO_LATE);

    // Each of them was answered until the connection ended; none got half an answer, an error, or was sent to sign in.
    expect((await people.ended).filter((code) => !['ECONNREFUSED', 'ECONNRESET', 'EPIPE'].includes(code))).toEqual([]);
    expect(Object.keys(people.statuses)).toEqual(['200']);
    expect(await withOldActivity(ids)).toBe(0);
  });
});

test('a request that would take too long does not hold it', async () => {
  const { redis, app, sessions, ids } = await scene();
  redis.freeze();
  const before = await validations(app);
  const answer = ask(`${app.url}/api/report?milliseconds=60000`, { token: sessions[0].token }).catch((error) => error.code);
  await until(async () => (await validations(app)) > before, { what: 'the report to begin' });
  const { exit, elapsed } = await terminate(app);
  expect(exit).toEqual({ code: 0, signal: null });
  expect(elapsed).toBeLessThan(LONGEST_MS);
  expect(app.output()).toContain(TOO_LATE);
  expect(await answer).toBe('ECONNRESET');
  // Nobody has used the other ones.
  expect(await withOldActivity(ids)).toBe(ids.length - 1);
});
