// How long the main thread has worked, in microseconds since some beginning; call it on the main thread.

import { readFileSync } from 'node:fs';
import { performance } from 'node:perf_hooks';

/** The main thread's number is that of its process. */
const SCHEDULED = `/proc/self/task/${process.pid}/schedstat`;

function fromScheduler() {
  return Number(readFileSync(SCHEDULED, 'utf8').split(' ')[0]) / 1000;
}

function fromNode() {
  const { user, system } = process.threadCpuUsage();
  return user + system;
}

function fromEventLoop() {
  return performance.eventLoopUtilization().active * 1000;
}

function working(read) {
  try {
    return read() > 0;
  } catch {
    return false;
  }
}

const WAYS = [
  { read: fromNode, name: 'CPU time of the thread (`process.threadCpuUsage`)' },
  { read: fromScheduler, name: 'CPU time of the thread (`/proc/self/task/<pid>/schedstat`)' },
  // The last resort: it counts as work what the thread waited for a processor that another process had.
  { read: fromEventLoop, name: 'time in which the event loop did not wait (`performance.eventLoopUtilization`)' },
];

const way = WAYS.find(({ read }) => working(read)) ?? WAYS.at(-1);

export const mainThreadTime = way.read;
export const mainThreadMeasure = way.name;
