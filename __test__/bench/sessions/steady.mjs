// Calls as they come to a server: so many a second, whether or not the earlier ones have been answered.

import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { Load } from '../load.mjs';
import { STEADY } from './cases.mjs';

const PAUSE_MS = 5;

export class PacedLoad extends Load {
  async run(next, inFlight, milliseconds) {
    this.calls = 0;
    const under = new Set();
    const began = performance.now();
    for (let made = 0, elapsed = 0; elapsed < milliseconds; elapsed = performance.now() - began) {
      for (const due = (elapsed / 1000) * STEADY.callsASecond; made < due; made += 1) {
        const call = this.one(next()).finally(() => under.delete(call));
        under.add(call);
      }
      await sleep(PAUSE_MS);
    }
    await Promise.all(under);
  }

  async one(item) {
    const { work } = this;
    const began = performance.now();
    let answer;
    try {
      answer = await work.call(item);
    } catch (error) {
      this.reject(error);
    }
    this.took(performance.now() - began);
    if (answer !== undefined && !work.right(answer, item)) throw new Error('A call got a wrong answer.');
  }
}
