// One peer in one case, in a process of its own: `measure.mjs` forks this file, sends what to measure, and gets numbers.

import { performance } from 'node:perf_hooks';
import { mainThreadTime } from './main-thread.mjs';

/** Latencies that are kept of one cell; of more calls than these the latest are. */
const KEPT = 2 ** 21;

/** Calls, many at once. What is called, and what is right, is the table's `work.mjs`. */
class Load {
  constructor(work) {
    this.work = work;
    // Written to once, so that the kernel gives the memory now and not while we measure.
    this.latencies = new Float64Array(KEPT).fill(0);
    this.all = 0;
    this.failed = 0;
    this.failure = null;
  }

  /** Keeps `inFlight` calls under way until `milliseconds` are over or `next` has no more, and waits for all of them. */
  async run(next, inFlight, milliseconds) {
    this.calls = 0;
    const end = performance.now() + milliseconds;
    await Promise.all(Array.from({ length: inFlight }, (_, caller) => this.caller(caller, next, end)));
  }

  async caller(caller, next, end) {
    const { work } = this;
    let began = performance.now();
    while (began < end) {
      const item = next(caller);
      if (item === undefined) return;
      let answer;
      try {
        answer = await work.call(item);
      } catch (error) {
        this.failed += 1;
        this.failure ??= `${error.code ?? error.name}: ${error.message}`;
        answer = undefined;
      }
      const ended = performance.now();
      this.latencies[this.calls % KEPT] = ended - began;
      began = ended;
      this.calls += 1;
      this.all += 1;
      if (answer !== undefined && !work.right(answer, item)) throw new Error('A call got a wrong answer.');
    }
  }

  /** Latency in microseconds that the given share of the last run's calls stayed within. */
  percentiles(shares) {
    const sorted = this.latencies.subarray(0, Math.min(this.calls, KEPT)).sort();
    return shares.map((share) => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] * 1000);
  }
}

async function measure({ table, ...cell }) {
  const { open } = await import(`./${table}/work.mjs`);
  const work = await open(cell);
  const load = new Load(work);
  await work.prepare(load);
  await load.run(work.next, cell.inFlight, cell.warmUpMs);
  load.failed = 0;
  load.failure = null;

  work.begin?.();
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
  const more = work.finish?.(load);
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
