// SIGTERM: requests under way are answered, then what the package has buffered is written, then the process ends; within
// the two times below, whoever is away.

import { subscribe } from 'node:diagnostics_channel';
import type { Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { shutdown } from '@studio/redis-native';

const REQUESTS_MS = 2500;
const SHUTDOWN_MS = 1500;

type Started = { response: ServerResponse; server: Server; socket: Socket };

export function endOnSignal() {
  const servers = new Set<Server>();
  const responses = new Set<ServerResponse>();
  let ending = false;

  // Next keeps its HTTP server to itself, but Node tells of it with every request.
  subscribe('http.server.request.start', (message) => {
    const { response, server, socket } = message as Started;
    servers.add(server);
    responses.add(response);
    response.once('close', () => {
      responses.delete(response);
      // Otherwise the connection would be kept for a next request.
      if (ending) socket.end();
    });
    if (ending) response.setHeader('Connection', 'close');
  });

  async function end() {
    ending = true;
    for (const response of responses) if (!response.headersSent) response.setHeader('Connection', 'close');
    const closed = [...servers].map((server) => new Promise((resolve) => server.close(resolve)));
    const answered = await Promise.race([Promise.all(closed), sleep(REQUESTS_MS, null)]);
    if (!answered) console.warn(`Not every request was answered within ${REQUESTS_MS} ms.`);
    await shutdown(SHUTDOWN_MS).finally(() => process.exit());
  }

  for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => void end());
}
