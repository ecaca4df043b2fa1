// Calls, many at once, and how long each took. What is called, and what is right, is the table's `work.mjs`.

import { performance } from 'node:perf_hooks';

/** Latencies that are kept of one cell; of more calls than these the latest are. */
const KEPT = 2 ** 21;

/** Hands out items, round and round. */
export function around(items) {
  let position = 0;
  return () => {
    if (position === items.length) position = 0;
    return items[position++];
  };
}

/** Hands out each item once. */
export function inOrder(items) {
  let position = 0;
  return () => items[position++];
}

/** What the given share of `sorted` numbers stays within. */
export const percentile = (sorted, share) => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];

export class Load {
  constructor(work) {
    this.work = work;
    // Written to once, so that the kernel gives the memory now and not while we measure.
    this.latencies = new Float64Array(KEPT).fill(0);
    this.calls = 0;
    this.all = 0;
    this.failed = 0;
    this.failure = null;
  }

  /** What is measured: keeps `inFlight` calls under way until `milliseconds` are over or `next` has no more, and waits for all of them. */
  async run(next, inFlight, milliseconds) {
    await this.keep(next, inFlight, milliseconds);
  }

  /** What comes before it: everything that `next` has. */
  async fill(next, inFlight) {
    await this.keep(next, inFlight, Infinity);
  }

  async keep(next, inFlight, milliseconds) {
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
        this.reject(error);
        answer = undefined;
      }
      const ended = performance.now();
      this.took(ended - began);
      began = ended;
      if (answer !== undefined && !work.right(answer, item)) throw new Error('A call got a wrong answer.');
    }
  }

  reject(error) {
    this.failed += 1;
    this.failure ??= `${error.code ?? error.name}: ${error.message}`;
  }

  /** Notes the latency of a call that has ended. */
  took(milliseconds) {
    this.latencies[this.calls % KEPT] = milliseconds;
    this.calls += 1;
    this.all += 1;
  }

  /** Latency in microseconds that the given share of the last run's calls stayed within. */
  percentiles(shares) {
    const sorted = this.latencies.subarray(0, Math.min(this.calls, KEPT)).sort();
    return shares.map((share) => percentile(sorted, share) * 1000);
  }
}
