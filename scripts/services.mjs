// Throw-away Redis and Postgres. On the command line, `node scripts/services.mjs` starts both, prints their URLs as
// one line for a shell, and ends them on Ctrl-C.

import { realpathSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import services from './services/index.cjs';

export const { ensureInstalled, RedisServer, PostgresServer, startServices } = services;

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const started = await startServices();
  const variables = { REDIS_URL: started.redisUrl, DATABASE_URL: started.databaseUrl };
  console.log(
    Object.entries(variables)
      .filter(([, url]) => url)
      .map(([name, url]) => `${name}=${url}`)
      .join(' '),
  );
  console.error('Running. Ctrl-C ends them.');
  const hold = setInterval(() => {}, 60_000);
  for (const signal of ['SIGINT', 'SIGTERM']) {
    process.once(signal, async () => {
      clearInterval(hold);
      await started.stop();
    });
  }
}
