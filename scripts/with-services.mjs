// Runs a command with REDIS_URL and DATABASE_URL of throw-away servers in its environment, and passes its exit status
// on: `node scripts/with-services.mjs -- npx jest`.

import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { startServices } from './services.mjs';

const [, , separator, command, ...args] = process.argv;
if (separator !== '--' || command === undefined) {
  console.error('Usage: node scripts/with-services.mjs -- command [arguments]');
  process.exit(2);
}

const services = await startServices();
const env = { ...process.env };
if (services.redisUrl) env.REDIS_URL = services.redisUrl;
if (services.databaseUrl) env.DATABASE_URL = services.databaseUrl;

const child = spawn(command, args, { stdio: 'inherit', env });
// A terminal sends Ctrl-C to the command as well; `kill` does not. We stay until it has ended, to end the servers.
process.on('SIGINT', () => child.kill('SIGINT'));
process.on('SIGTERM', () => child.kill('SIGTERM'));
child.once('error', async (error) => {
  console.error(`${command}: ${error.message}`);
  await services.stop();
  process.exitCode = 127;
});
child.once('exit', async (code, signal) => {
  await services.stop();
  process.exitCode = code ?? 128 + constants.signals[signal];
});
