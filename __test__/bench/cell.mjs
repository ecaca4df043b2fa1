// One peer in one case, in a process of its own: `measure.mjs` forks this file, sends what to measure, and gets numbers.

import { performance } from 'node:perf_hooks';
import { Load } from './load.mjs';
import { mainThreadTime } from './main-thread.mjs';

async function measure({ table, ...cell }) {
  const { open } = await import(`./${table}/work.mjs`);
  const work = await open(cell);
  const load = new (work.load ?? Load)(work);
  await work.prepare(load);
  await load.run(work.next, cell.inFlight, cell.warmUpMs);
  load.failed = 0;
  load.failure = null;

  await work.begin?.(load);
  const processBefore = process.cpuUsage();
  const loopBefore = performance.eventLoopUtilization();
  const mainThreadBefore = mainThreadTime();
  const began = performance.now();
  await load.run(work.next, cell.inFlight, cell.measuredMs);
  const elapsedMs = performance.now() - began;
  const mainThread = mainThreadTime() - mainThreadBefore;
  const loop = performance.eventLoopUtilization(loopBefore);
  const cpu = process.cpuUsage(processBefore);
  const { calls } = load;
  const more = await work.finish?.(load);
  if (calls === 0) throw new Error('No call was made: there was too little for the warm-up.');
  const [p50, p99] = load.percentiles([0.5, 0.99]);
  await work.close();
  return {
    calls,
    // A call that is refused at once is no work done.
    throughput: (calls - load.failed) / (elapsedMs / 1000),
    p50,
    p99,
    mainThread: mainThread / calls,
    loop: loop.utilization * 100,
    cpu: (cpu.user + cpu.system) / calls,
    failed: load.failed,
    failure: load.failure,
    ...more,
  };
}

// Whoever asked is gone: nobody waits for the numbers.
process.on('disconnect', () => process.exit());
process.once('message', async (cell) => {
  let reply;
  try {
    reply = { result: await measure(cell) };
  } catch (error) {
    reply = { error: error.stack };
  }
  process.send(reply, () => process.disconnect());
});
