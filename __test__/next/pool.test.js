'use strict';

// The built application: it has its binary with it, and one pool however many parts of Next load the package.

const { readFileSync, readdirSync } = require('node:fs');
const path = require('node:path');
const { Database } = require('../helpers/database.js');
const { startRedis, until } = require('../helpers/servers.js');
const { connectionsOf, openRedis } = require('../fixtures/functional/redis.js');
const { startApp } = require('../fixtures/next/server.js');
const { ROUTES, roundTrip } = require('../fixtures/next/routes.js');

const { NEXT_APP, NEXT_ALONE } = process.env;
/** The least size of the pool of `REDIS_URL`, and the one for sessions. */
const ONE_POOL = ['commands', 'commands', 'sessions'];

let database;
let redis;
let env;

beforeAll(async () => {
  database = new Database();
  const server = await startRedis();
  redis = openRedis(server.url);
  env = { REDIS_URL: server.url, DATABASE_URL: database.url, SEARCHES: '100000' };
});

afterAll(() => database.end());

/** Role and process of every connection of the package that this Redis has. */
async function connections() {
  const names = [...(await redis.client('LIST')).matchAll(/ name=studio-redis-native:(\d+):(\S*)/g)];
  return { processes: [...new Set(names.map(([, pid]) => Number(pid)))], roles: names.map(([, , role]) => role).sort() };
}

/** The binaries of the package that a process has loaded. */
function binariesOf({ pid }) {
  const maps = readFileSync(`/proc/${pid}/maps`, 'utf8');
  return [...new Set(maps.match(/\/.*\/redis-native\.[^/]*\.node$/gm))];
}

function* filesOf(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const file = path.join(folder, entry.name);
    if (entry.isDirectory()) yield* filesOf(file);
    else yield file;
  }
}

test('the server takes its binary with it, and no other one', () => {
  const taken = [...filesOf(NEXT_ALONE)].filter((file) => /^redis-native\..*\.node$/.test(path.basename(file)));
  expect(taken).toEqual([expect.stringMatching(/node_modules.@studio.redis-native-[\w-]+.redis-native\.[\w-]+\.node$/)]);
});

describe.each([
  ['in an empty folder', () => NEXT_ALONE],
  ['where it was built', () => path.join(NEXT_APP, '.next', 'standalone')],
])('%s', (_, folder) => {
  test('200 requests to pages, API routes and the App Router share one pool', async () => {
    const app = await startApp(folder(), { env });
    // instrumentation.ts has made the first call, before anybody who is signed in came.
    const connected = async () => (await connectionsOf(redis, app.pid)).includes('sessions');
    await until(connected, { what: 'the connection for sessions' });
    // By itself, and not by a link that leads out of the folder.
    if (process.platform === 'linux') {
      expect(binariesOf(app)).toEqual([expect.stringContaining(`${folder()}/node_modules/`)]);
    }

    const tokens = (await database.createSessions(20)).map(({ token }) => token);
    for (const [route, status] of Object.entries(ROUTES)) {
      expect([route, (await app.ask(route, { token: tokens[0] })).status]).toEqual([route, status]);
    }
    expect(await roundTrip(app, tokens, { count: 200 })).toEqual({ 200: 200 });
    expect(await connections()).toEqual({ processes: [app.pid], roles: ONE_POOL });
    expect(JSON.parse((await app.ask('/api/health/redis')).body)).toMatchObject({ status: 'healthy', pid: app.pid });
    await app.end();
    expect(await app.exited).toEqual({ code: 0, signal: null });
  });
});
