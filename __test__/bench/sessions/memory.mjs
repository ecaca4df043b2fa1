// What a process has in memory, after everything that is garbage has gone.

import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { setTimeout as sleep } from 'node:timers/promises';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc');

/**
 * Bytes: `all` that is resident, and the `native` part, which is not V8's heap. `first` is done before they are counted.
 */
export async function memory(first) {
  await first?.();
  for (let round = 0; round < 4; round += 1) {
    collect();
    await sleep(250);
  }
  const { rss, heapTotal } = process.memoryUsage();
  return { all: rss, native: rss - heapTotal };
}
