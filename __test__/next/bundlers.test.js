'use strict';

// What docs/nextjs.md says of `next.config`, for both bundlers. With SOAK=1 only: these are six builds.

const { readFileSync, rmSync, writeFileSync } = require('node:fs');
const path = require('node:path');
const { Database } = require('../helpers/database.js');
const { startRedis } = require('../helpers/servers.js');
const { buildApp, installApp } = require('../fixtures/next/app.js');
const { startApp } = require('../fixtures/next/server.js');
const { ROUTES, roundTrip } = require('../fixtures/next/routes.js');

const soak = process.env.SOAK ? describe : describe.skip;

soak.each(['turbopack', 'webpack'])('with %s', (bundler) => {
  let folder;
  let database;
  let env;

  beforeAll(async () => {
    database = new Database();
    const redis = await startRedis();
    env = { REDIS_URL: redis.url, DATABASE_URL: database.url, SEARCHES: '100000' };
    folder = await installApp();
  }, 300_000);

  afterAll(() => database.end());

  const serves = async (alone, routes) => {
    const app = await startApp(alone, { env });
    const tokens = (await database.createSessions(5)).map(({ token }) => token);
    expect(await roundTrip(app, tokens, { count: 60, routes })).toEqual({ 200: 60 });
    await app.end();
  };

  test('the application is built and serves', async () => {
    await serves(await buildApp(folder, { bundler }), Object.keys(ROUTES));
  }, 180_000);

  test('without serverExternalPackages the build fails, and names the binary', async () => {
    const file = path.join(folder, 'next.config.ts');
    writeFileSync(file, readFileSync(file, 'utf8').replace(/ *serverExternalPackages: .*\n/, ''));
    await expect(buildApp(folder, { bundler })).rejects.toThrow(/redis-native\.[\w-]+\.node/);
  }, 180_000);

  test('the Pages Router alone needs nothing', async () => {
    for (const name of ['app', 'instrumentation.ts']) rmSync(path.join(folder, name), { recursive: true });
    await serves(await buildApp(folder, { bundler }), Object.keys(ROUTES).filter((route) => route !== '/api/me'));
  }, 180_000);
});
