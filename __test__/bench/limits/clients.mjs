// Clients of a server, in a process of their own: `http.mjs` forks this file, sends what to ask, and gets numbers.

import autocannon from 'autocannon';
import { performance } from 'node:perf_hooks';
import { percentile } from '../load.mjs';

/** How often it looks whether its time is over. */
const SAMPLE_MS = 100;

/** The address of a client, as a proxy would tell it. */
const addressOf = (number) => `10.1.${number >> 8}.${number & 255}`;

/** Each connection carries clients of its own in turn, so that two requests under way are hardly ever of the same one. */
function share(clients, connections) {
  const each = Math.ceil(clients / connections);
  let given = 0;
  return (client) => {
    const first = given;
    given += each;
    client.setRequests(
      Array.from({ length: each }, (_, index) => ({ method: 'GET', headers: { 'x-forwarded-for': addressOf(first + index) } })),
    );
  };
}

async function run({ url, clients, connections, milliseconds }) {
  const latencies = [];
  const began = performance.now();
  const load = autocannon({
    url,
    connections,
    duration: milliseconds / 1000,
    sampleInt: SAMPLE_MS,
    ...(clients > 1 ? { setupClient: share(clients, connections) } : {}),
  });
  let ended = began;
  load.on('response', (client, status, bytes, took) => {
    latencies.push(took);
    ended = performance.now();
  });
  const { non2xx, errors } = await load;
  const failed = non2xx + errors;
  const sorted = Float64Array.from(latencies).sort();
  return {
    calls: latencies.length,
    throughput: (latencies.length - non2xx) / ((ended - began) / 1000),
    p50: percentile(sorted, 0.5) * 1000,
    p99: percentile(sorted, 0.99) * 1000,
    failed,
    failure: failed > 0 ? `${non2xx} answers other than 2xx, ${errors} errors` : null,
  };
}

// Whoever asked is gone: nobody waits for the numbers.
process.on('disconnect', () => process.exit());
process.on('message', async (wanted) => {
  try {
    process.send({ result: await run(wanted) });
  } catch (error) {
    process.send({ error: error.stack });
  }
});
