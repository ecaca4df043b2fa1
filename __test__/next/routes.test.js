'use strict';

// The application answers as its routes say, by page, by API route and by the App Router.

const { Database } = require('../helpers/database.js');
const { startRedis } = require('../helpers/servers.js');
const { startApp } = require('../fixtures/next/server.js');

let app;
let database;

beforeAll(async () => {
  database = new Database();
  const redis = await startRedis();
  app = await startApp(process.env.NEXT_ALONE, { env: { REDIS_URL: redis.url, DATABASE_URL: database.url, SEARCHES: '5' } });
});

afterAll(() => database.end());

test('who is not signed in sees no page and no data', async () => {
  const [session] = await database.createSessions(1);
  for (const token of [undefined, 'unknown']) {
    expect(await app.ask('/', { token })).toMatchObject({ status: 307, headers: { location: '/sign-in' } });
    for (const route of ['/api/auth/validate', '/api/search', '/api/me', '/api/report', '/api/export']) {
      expect(await app.ask(route, { token })).toMatchObject({ status: 401 });
    }
  }
  const { token } = session;
  expect(await app.ask('/api/me', { token })).toMatchObject({ status: 200 });
  expect(await app.ask('/api/auth/sign-out', { token, method: 'POST' })).toMatchObject({ status: 303 });
  for (const route of ['/api/auth/validate', '/api/me']) expect(await app.ask(route, { token })).toMatchObject({ status: 401 });
  expect(await app.ask('/', { token })).toMatchObject({ status: 307 });
  expect(await database.sessionExists(session.id)).toBe(false);
});

test('who asks too often is told when to come back', async () => {
  const [{ token }] = await database.createSessions(1);
  const answers = [];
  for (let number = 0; number < 7; number += 1) answers.push(await app.ask('/api/search', { token }));
  expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200, 200, 429, 429]);
  const { headers, body } = answers.at(-1);
  expect(Number(headers['retry-after'])).toBe(JSON.parse(body).retryAfter);
  expect(Number(headers['retry-after'])).toBeGreaterThan(0);
  expect(Number(headers['retry-after'])).toBeLessThanOrEqual(60);
});

test('who guesses passwords is stopped, whether or not the next guess is right', async () => {
  const guess = async (email) => {
    const body = new URLSearchParams({ email, password: 'a guess' });
    const response = await fetch(`${app.url}/api/auth/sign-in`, { method: 'POST', body, redirect: 'manual' });
    return [response.status, response.headers.get('location')];
  };
  const [password, attempts] = ['password', 'attempts'].map((error) => [303, `/sign-in?error=${error}`]);
  const answers = [];
  for (let number = 0; number < 7; number += 1) answers.push(await guess('ada@example.com'));
  expect(answers).toEqual([...Array(5).fill(password), attempts, attempts]);
  expect(await guess('grace@example.com')).toEqual(password);
});
