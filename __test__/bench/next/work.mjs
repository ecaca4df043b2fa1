// What a cell of the fourth table does: it starts the server with the peer, and is its clients. The times are those of the server.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import app from '../../fixtures/next/app.js';
import net from '../../../scripts/services/net.cjs';
import { deal, fire } from '../cannon.mjs';
import { Load } from '../load.mjs';
import { forServer, keepAway } from './cores.mjs';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const CACHES = new URL('../sessions/caches.mjs', import.meta.url).href;
/** Of the clock that counts the time of processes: that of every Linux that Node runs on. */
const TICK_US = 10_000;
const START_MS = 30_000;
/** The hash that `route.ts` answers where no session is asked for. */
const ANYBODY = '0'.repeat(64);

const headersOf = ({ token }) => ({ authorization: `Bearer ${token}` });

/** Microseconds of processor time that the main thread and the whole process have had. */
function timesOf(pid) {
  const [user, system] = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1].split(' ').slice(11, 13).map(Number);
  const mainThread = Number(readFileSync(`/proc/${pid}/task/${pid}/schedstat`, 'utf8').split(' ')[0]) / 1000;
  return { mainThread, process: (user + system) * TICK_US };
}

async function startServer({ peer, alone, redisUrl, databaseUrl, serverEnvironment }) {
  const port = await net.freePort();
  const [command, ...args] = forServer(process.execPath, path.join(alone, 'server.js'));
  const child = spawn(command, args, {
    cwd: alone,
    stdio: ['ignore', 'ignore', 'inherit'],
    env: app.environment({
      PORT: String(port),
      HOSTNAME: '127.0.0.1',
      NEXT_MANUAL_SIG_HANDLE: 'true',
      REDIS_URL: redisUrl,
      DATABASE_URL: databaseUrl,
      BENCH_PEER: peer,
      BENCH_CACHES: CACHES,
      ...serverEnvironment,
    }),
  });
  // Whatever becomes of this process, the server does not stay behind.
  process.once('exit', () => child.kill('SIGKILL'));
  const url = `http://127.0.0.1:${port}`;
  const end = Date.now() + START_MS;
  for (;;) {
    const response = await fetch(`${url}/sign-in`).catch(() => null);
    if (response?.ok) return { child, url };
    if (child.exitCode !== null || Date.now() > end) throw new Error('The application did not start.');
    await sleep(50);
  }
}

class HttpLoad extends Load {
  async run(next, inFlight, milliseconds) {
    const { url, sessions } = this.work;
    const request = (session) => ({ method: 'GET', headers: headersOf(session) });
    this.measured = await fire({ url, connections: inFlight, milliseconds, setupClient: deal(sessions, inFlight, request) });
    const { calls, failed, failure } = this.measured;
    this.calls = calls;
    this.failed += failed;
    this.failure ??= failure;
  }

  percentiles() {
    return [this.measured.p50, this.measured.p99];
  }
}

export async function open(cell) {
  if (path.resolve(cell.addon) !== path.resolve(root)) throw new Error('The application is built with the package of this folder: no --addon.');
  if (process.platform !== 'linux') throw new Error('The processor time of another process is known on Linux only.');
  keepAway(process.pid);
  const { child, url: origin } = await startServer(cell);
  const url = `${origin}/api/bench`;
  const { sessions } = cell;
  let before;

  async function check(session) {
    const response = await fetch(url, { headers: headersOf(session) });
    const { token } = await response.json();
    if (token !== (cell.peer === 'none' ? ANYBODY : session.hash)) throw new Error(`A session was answered ${response.status} with ${token}.`);
  }

  return {
    load: HttpLoad,
    url,
    sessions,

    /** The first reading leaves a copy in Redis, the second takes it from there. */
    async prepare() {
      for (let round = 0; round < 2; round += 1) {
        for (let first = 0; first < sessions.length; first += 20) await Promise.all(sessions.slice(first, first + 20).map(check));
      }
    },

    begin() {
      before = timesOf(child.pid);
    },

    /** Instead of what `cell.mjs` measures, which is this process. */
    finish({ calls, measured }) {
      const after = timesOf(child.pid);
      const mainThread = (after.mainThread - before.mainThread) / calls;
      return {
        throughput: measured.throughput,
        mainThread,
        cpu: (after.process - before.process) / calls,
        loop: (mainThread * measured.throughput) / 10_000,
      };
    },

    async close() {
      const exited = once(child, 'exit');
      child.kill('SIGTERM');
      const [code] = await exited;
      if (code !== 0) throw new Error(`The application ended with ${code}.`);
    },
  };
}
