'use strict';

// Requests leave neither memory nor connections behind: 100,000 of them with SOAK=1, else fewer.

const { Database } = require('../helpers/database.js');
const { startRedis } = require('../helpers/servers.js');
const { connectionsOf, openRedis } = require('../fixtures/functional/redis.js');
const { report } = require('../fixtures/faults/figures.js');
const { heapOf, startApp } = require('../fixtures/next/server.js');
const { roundTrip } = require('../fixtures/next/routes.js');

const REQUESTS = process.env.SOAK ? 100_000 : 4000;
const WARM = 2000;
const MB = 1024 * 1024;
const GROWN_MB = 4;

test(`heap and connections are after ${REQUESTS} requests what they were before`, async () => {
  const database = new Database();
  const server = await startRedis();
  const redis = openRedis(server.url);
  const env = { REDIS_URL: server.url, DATABASE_URL: database.url, SEARCHES: '100000' };
  const app = await startApp(process.env.NEXT_ALONE, { env });
  const tokens = (await database.createSessions(500)).map(({ token }) => token);

  const postgres = async () => {
    const ours = 'SELECT count(*)::int AS count FROM pg_stat_activity WHERE application_name LIKE $1';
    return (await database.query(ours, [`studio-redis-native:${app.pid}%`]))[0].count;
  };
  const look = async () => ({
    heap: await heapOf(app),
    redis: (await connectionsOf(redis, app.pid)).length,
    postgres: await postgres(),
  });

  await roundTrip(app, tokens, { count: WARM });
  const before = await look();
  expect(await roundTrip(app, tokens, { count: REQUESTS })).toEqual({ 200: REQUESTS });
  const after = await look();
  report(`${REQUESTS} requests to the application`, {
    'JavaScript heap before': `${(before.heap / MB).toFixed(1)} MB`,
    after: `${(after.heap / MB).toFixed(1)} MB`,
    'connections to Redis': `${before.redis}, ${after.redis}`,
    'connections to Postgres': `${before.postgres}, ${after.postgres}`,
  });
  expect(after.redis).toBe(before.redis);
  expect(after.postgres).toBeLessThanOrEqual(before.postgres);
  expect(after.heap - before.heap).toBeLessThan(GROWN_MB * MB);
  await database.end();
}, 3_600_000);
