// Whether Redis was really asked: by its own count of scripts, because a limiter that goes on without Redis is fast, and need
// not say so.

import { Redis } from 'ioredis';

const SCRIPTS = /^cmdstat_(?:eval|evalsha|fcall):calls=(\d+)/gm;

/** How many scripts a server has run, from its `INFO commandstats`. */
export const scriptsIn = (info) => [...info.matchAll(SCRIPTS)].reduce((sum, [, calls]) => sum + Number(calls), 0);

/** The books of a server, through a connection that does nothing else. */
export async function openBooks(url) {
  const redis = new Redis(url);
  await redis.ping();
  return {
    scripts: async () => scriptsIn(await redis.info('commandstats')),
    close: () => redis.quit(),
  };
}

/** Calls that nobody accounts for, of a hundred. */
const UNACCOUNTED = 2;

/**
 * Why a cell says nothing of Redis, or null. `asked` and `local` are shares of its calls in percent. Calls in flight that share a
 * key may be one script, so that there is nothing to compare; then it is enough that Redis was never too late.
 *
 * One answer that came too late is one too many: this package lets the process decide as well for a window after it.
 */
export function whyNot({ keys, inFlight, place }, { asked, local, outages }) {
  if (place === 'process') return null;
  if (outages > 0) return `Redis was too late for ${outages} calls`;
  const apart = inFlight === 1 || keys > inFlight;
  const accounted = asked + (local ?? 0);
  if (apart && accounted < 100 - UNACCOUNTED) return `${(100 - accounted).toFixed(0)} % of the calls did not reach Redis`;
  return null;
}
