// A plain server behind a limiter, and its load, which comes from another process.

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { Load } from '../load.mjs';
import { PEERS } from './peers.mjs';

const CLIENTS_PROCESS = fileURLToPath(new URL('clients.mjs', import.meta.url));

/** What an endpoint of an API would send. */
const BODY = JSON.stringify({ id: 'c0ffee00-0000-4000-8000-000000000001', name: 'a project', createdAt: '2026-01-01T00:00:00.000Z', items: [1, 2, 3] });

function answer(res) {
  res.setHeader('Content-Type', 'application/json');
  res.end(BODY);
}

const refuse = (res) => (error) => {
  res.statusCode = error.statusCode ?? 500;
  res.end();
};

const serverOf = ({ handle }) =>
  createServer((req, res) => {
    handle(req, res, () => answer(res))?.catch(refuse(res));
  });

/** One answer of the other process. */
async function ask(clients, message) {
  const controller = new AbortController();
  const { signal } = controller;
  const ended = once(clients, 'exit', { signal }).then(([code, by]) => {
    throw new Error(`The process of the clients ended with ${by ?? code}.`);
  });
  ended.catch(() => {});
  try {
    clients.send(message);
    const [reply] = await Promise.race([once(clients, 'message', { signal }), ended]);
    if (reply.error) throw new Error(reply.error);
    return reply.result;
  } finally {
    controller.abort();
  }
}

class HttpLoad extends Load {
  async run(next, inFlight, milliseconds) {
    this.measured = await ask(this.work.clients, { ...this.work.target, connections: inFlight, milliseconds });
    const { calls, failed, failure } = this.measured;
    this.calls = calls;
    this.failed += failed;
    this.failure ??= failure;
  }

  percentiles() {
    return [this.measured.p50, this.measured.p99];
  }
}

function tooLate({ outages }) {
  const count = outages?.() ?? 0;
  return count > 0 ? `Redis was too late for ${count} requests` : null;
}

export async function serve(cell) {
  const peer = await PEERS[cell.peer].open(cell);
  const server = serverOf(peer);
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const clients = fork(CLIENTS_PROCESS, [], { execArgv: [] });
  return {
    load: HttpLoad,
    clients,
    target: { url: `http://127.0.0.1:${server.address().port}`, clients: cell.clients },
    prepare() {},
    /** Instead of what `cell.mjs` measures, which includes connecting. */
    finish: ({ measured }) => ({ throughput: measured.throughput, withoutRedis: tooLate(peer) }),

    async close() {
      clients.disconnect();
      server.closeAllConnections();
      server.close();
      await peer.close();
    },
  };
}
