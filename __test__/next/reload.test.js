'use strict';

// `next dev`: modules are loaded anew after each change of a file, the engine and its pool are not.

const { readFileSync, writeFileSync } = require('node:fs');
const path = require('node:path');
const { Database } = require('../helpers/database.js');
const { startRedis, until } = require('../helpers/servers.js');
const { openRedis } = require('../fixtures/functional/redis.js');
const { startApp } = require('../fixtures/next/server.js');
const { ROUTES } = require('../fixtures/next/routes.js');

const RELOADS = 20;
/** A page, a route of each router: all that say which release they are. */
const TELLING = ['/', '/api/auth/validate', '/api/me'];

test(`after ${RELOADS} reloads there is one pool`, async () => {
  const database = new Database();
  const server = await startRedis();
  const redis = openRedis(server.url);
  const env = { REDIS_URL: server.url, DATABASE_URL: database.url, SEARCHES: '100000' };
  const app = await startApp(process.env.NEXT_APP, { env, dev: true });
  const [{ token }] = await database.createSessions(1);
  const connections = async () =>
    [...(await redis.client('LIST')).matchAll(/ name=(studio-redis-native:\d+:\S*)/g)].map(([, name]) => name).sort();
  const tells = async (route, release) => (await app.ask(route, { token })).body.includes(release);
  const untilAllTell = async (release) => {
    for (const route of TELLING) {
      await until(() => tells(route, release), { deadlineMs: 30_000, what: `${release} by ${route}` });
    }
  };

  // Each route is compiled when it is asked for first.
  for (const [route, status] of Object.entries(ROUTES)) {
    expect([route, (await app.ask(route, { token })).status]).toEqual([route, status]);
  }
  await untilAllTell('release 0');
  const before = await connections();
  const file = path.join(process.env.NEXT_APP, 'lib', 'release.ts');
  const source = readFileSync(file, 'utf8');
  for (let number = 1; number <= RELOADS; number += 1) {
    writeFileSync(file, source.replace('release 0', `release ${number};`));
    await untilAllTell(`release ${number};`);
  }
  for (const route of Object.keys(ROUTES)) await app.ask(route, { token });

  const after = await connections();
  expect(after).toEqual(before);
  expect(after.map((name) => name.split(':').at(-1))).toEqual(['commands', 'commands', 'sessions']);
  expect(new Set(after.map((name) => name.split(':')[1])).size).toBe(1);
  await app.end();
  await database.end();
}, 180_000);
