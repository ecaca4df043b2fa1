// HTTP requests by `autocannon`, and what they took.

import autocannon from 'autocannon';
import { performance } from 'node:perf_hooks';
import { percentile } from './load.mjs';

/** How often it looks whether its time is over. */
const SAMPLE_MS = 100;

/** Keeps one request under way on each of `connections`; `setupClient` may give a connection requests of its own. */
export async function fire({ url, connections, milliseconds, ...more }) {
  const latencies = [];
  const began = performance.now();
  const load = autocannon({ url, connections, duration: milliseconds / 1000, sampleInt: SAMPLE_MS, ...more });
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

/** Deals `items` out to the connections, as the requests that `requestOf` makes of them; each connection has its own in turn. */
export function deal(items, connections, requestOf) {
  const each = Math.ceil(items.length / connections);
  let given = 0;
  return (client) => {
    const own = items.slice(given, given + each);
    given += each;
    client.setRequests(own.map(requestOf));
  };
}
