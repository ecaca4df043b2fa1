// How long a call takes that is answered in the process: less than the clock can tell of one call, so it is measured in
// two ways.
//
// Samples: a thousand calls or more, each awaited before its caller makes the next one, between two readings of the clock. What
// a call takes is the sample's time by its calls; the benchmark's own part is a loop, an array and a comparison with null.
//
// Single calls, for the shares that stayed within a time: the clock is read before and after each one, and what reading it
// takes, measured in the same process, is taken off.
//
// Between samples the event loop turns once, as it does between requests: caches have timers, and settle things there.

import { performance } from 'node:perf_hooks';
import { setImmediate as turn } from 'node:timers/promises';
import { Load } from './load.mjs';
import { mainThreadTime } from './main-thread.mjs';
import { median } from './summary.mjs';

/** Calls between two turns of the event loop, and how many of them each caller makes at least. */
const SAMPLE = 1000;
const AT_LEAST = 20;
/** Of single calls, one in so many is checked to have the right answer. */
const CHECKED = 10;

const now = () => process.hrtime.bigint();

/** Nanoseconds between two readings of the clock with nothing between them. */
function costOfClock() {
  const times = Array.from({ length: 50_000 }, () => {
    const began = now();
    return Number(now() - began);
  });
  return median(times);
}

export class HotLoad extends Load {
  async run(next, inFlight, milliseconds) {
    const each = Math.max(AT_LEAST, Math.ceil(SAMPLE / inFlight));
    const { latencies, work } = this;
    this.clock = costOfClock();
    this.calls = 0;
    this.samples = [];
    const callers = (one) => Promise.all(Array.from({ length: inFlight }, () => one(next, each)));

    const cpuBefore = process.cpuUsage();
    const mainThreadBefore = mainThreadTime();
    let end = performance.now() + milliseconds / 2;
    while (performance.now() < end) {
      const began = now();
      // A caller alone is not waited for through `Promise.all`.
      await (inFlight === 1 ? many(work.call, next, each) : callers((from, count) => many(work.call, from, count)));
      this.samples.push(Number(now() - began));
      await turn();
    }
    const calls = this.samples.length * each * inFlight;
    const cpu = process.cpuUsage(cpuBefore);
    this.mainThread = (mainThreadTime() - mainThreadBefore) / calls;
    this.cpu = (cpu.user + cpu.system) / calls;
    this.throughput = calls / (this.samples.reduce((sum, sample) => sum + sample, 0) / 1e9);
    this.awaited = median(this.samples) / (each * inFlight) / 1000;
    this.all += calls;

    end = performance.now() + milliseconds / 2;
    while (performance.now() < end) {
      await callers((from, count) => this.single(from, count));
      await turn();
    }
    for (let index = 0; index < Math.min(this.calls, latencies.length); index += 1) {
      latencies[index] = Math.max(0, latencies[index] - this.clock / 1e6);
    }
  }

  async single(next, count) {
    const { work } = this;
    for (let index = 0; index < count; index += 1) {
      const item = next();
      const began = now();
      const answer = await work.call(item);
      const ended = now();
      this.took(Number(ended - began) / 1e6);
      // Looking at each of them would push what is measured out of the processor's caches.
      if (answer === null || (index % CHECKED === 0 && !work.right(answer, item))) throw new Error('A call got a wrong answer.');
    }
  }

  /** Instead of what `cell.mjs` measures around everything. */
  get numbers() {
    const { throughput, mainThread, cpu, awaited } = this;
    return { throughput, mainThread, cpu, awaited, loop: 100 };
  }
}

async function many(call, next, count) {
  for (let index = 0; index < count; index += 1) {
    if ((await call(next())) === null) throw new Error('A call got a wrong answer.');
  }
}
