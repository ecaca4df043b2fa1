'use strict';

// A user of the installed package: `node use.cjs <token> <other token> [shutdown]`, from a copy in the user's folder. Prints
// one line of what it was answered, and ends by itself.

const { Worker, isMainThread, parentPort, workerData } = require('node:worker_threads');
const addon = require('@studio/redis-native');

/** In another thread, which has the engine of this one. */
async function within([token, key]) {
  const session = await addon.validateSessionWithCache(token);
  const { allowed } = await addon.checkLimit(key, 1, 60);
  parentPort.postMessage({ session: session.id, allowed });
}

function fromThread(...given) {
  const worker = new Worker(__filename, { workerData: given });
  return new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
}

async function main([token, other, end]) {
  const key = `use-${process.pid}`;
  const first = await addon.validateSessionWithCache(token);
  const second = await addon.validateSessionWithCache(token);
  const revoked = await addon.revokeSessionByToken(token);
  const third = await addon.validateSessionWithCache(token);
  const { allowed } = await addon.checkLimit(key, 1, 60);
  const redis = addon.getRedisClient();
  const set = await redis.set(key, 'value', 60);
  const got = await redis.get(key);
  const thread = await fromThread(other, key);
  const { validateSession } = await import('@studio/redis-native');
  const imported = await validateSession(other);
  console.log(
    JSON.stringify({
      first: first.id,
      second: second.id,
      revoked,
      third,
      allowed,
      set,
      got,
      thread,
      imported: imported.id,
    }),
  );
  if (end === 'shutdown') await addon.shutdown();
}

if (isMainThread) main(process.argv.slice(2));
else within(workerData);
