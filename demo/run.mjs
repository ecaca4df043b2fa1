// `make demo`: throw-away servers, people, two processes of demo/server.mjs, and a walk through what they do.

import { readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { PostgresServer, RedisServer, ensureInstalled } from '../scripts/services.mjs';
import { makeFolder, removeFolder, startProcess, tail } from '../scripts/services/keeping.cjs';
import { until } from '../scripts/services/net.cjs';
import { insertPeople } from './data.mjs';
import { count, expect, fact, heading, line, ms } from './page.mjs';
import { walk } from './walk.mjs';

const SERVER = fileURLToPath(new URL('server.mjs', import.meta.url));
const USERS = 300;
const SESSIONS_EACH = 3;

/** How to take back what was started, in the order of the starts. */
const undo = [];
const undoAll = async () => {
  while (undo.length > 0) await undo.pop()();
};

let interrupted = false;
// Whatever is being started at this moment ends with this process (scripts/services/keeper.cjs).
for (const [signal, status] of [['SIGINT', 130], ['SIGTERM', 143]]) {
  process.once(signal, async () => {
    interrupted = true;
    console.log('\nInterrupted: ending what was started.');
    // The walk goes on until its servers are gone; nobody waits for what it still has to say.
    console.log = () => {};
    await undoAll().catch(() => {});
    process.exit(status);
  });
}

async function startServers() {
  const began = performance.now();
  const { redisServer } = await ensureInstalled({ log: line });
  const redis = redisServer ? await RedisServer.start() : null;
  if (redis) undo.push(() => redis.stop());
  // Postgres writes each statement into its log before it executes it: an exact count that is not the package's own.
  const postgres = await PostgresServer.start({ settings: { log_statement: 'all' } });
  undo.push(() => postgres.stop());
  const tokens = await insertPeople(postgres.url, { users: USERS, each: SESSIONS_EACH });
  fact('Postgres', `port ${postgres.port}, ${count(USERS)} users, ${count(USERS * SESSIONS_EACH)} sessions`);
  fact('Redis', redis ? `port ${redis.port}` : 'none: everything runs from Postgres');

  const folder = await makeFolder('demo');
  undo.push(() => removeFolder(folder));
  const environment = { DATABASE_URL: postgres.url, ...(redis && { REDIS_URL: redis.url }) };
  const servers = await Promise.all(['first', 'second'].map((name) => startApplication(name, folder, environment)));
  fact('two processes of demo/server.mjs', servers.map(({ url }) => url).join(', '));
  fact('ready after', ms(performance.now() - began));
  const sessionQueries = () => statements(postgres.log).filter((sql) => /FROM\s+platform\.user_sessions/i.test(sql)).length;
  return { servers, postgres, redis, tokens, sessionQueries };
}

async function startApplication(name, folder, environment) {
  const log = path.join(folder, `${name}.log`);
  // Settings of this shell for some other Redis or Postgres must not reach it.
  const inherited = Object.entries(process.env).filter(([key]) => !/^(REDIS|DATABASE|SESSION|RATE_LIMIT|PG)/.test(key));
  const env = { ...Object.fromEntries(inherited), ...environment, PORT: '0' };
  const server = await startProcess({ command: process.execPath, args: [SERVER], env, log });
  undo.push(() => server.end());
  const url = await until(
    () => {
      expect(server.running, `The ${name} process of demo/server.mjs has ended:\n${tail(log)}`);
      return /^Listening on (\S+)$/m.exec(readFileSync(log, 'utf8'))?.[1];
    },
    { what: `the ${name} process of demo/server.mjs` },
  );
  return { ...server, url, log };
}

const statements = (log) => log.split(/LOG: {2}(?:statement|execute [^:]*): /).slice(1);

async function endApplications(servers) {
  const began = performance.now();
  const ends = await Promise.all(servers.map(async ({ end, exited }) => (await end(), exited)));
  heading('7. SIGTERM to both processes');
  fact('ended by themselves, through shutdown()', `${ends.map(({ code, signal }) => signal ?? `status ${code}`).join(', ')} after ${ms(performance.now() - began)}`);
  expect(ends.every(({ code }) => code === 0), 'A process did not end by itself after SIGTERM.');
}

function report(error) {
  process.exitCode = 1;
  console.error(`\nThe demo failed: ${error.message}`);
  for (const { log } of world?.servers ?? []) console.error(`Log of a server:\n${tail(log, 8)}`);
}

let world = null;
try {
  heading('Sessions of @studio/redis-native, on throw-away servers');
  world = await startServers();
  await walk(world);
  await endApplications(world.servers);
  console.log('\nAll of it was as it should be.');
} catch (error) {
  if (!interrupted) report(error);
} finally {
  await undoAll();
}
