// One peer in one case, in a process of its own: `run.mjs` forks this file, sends what to measure, and gets numbers.

import { performance } from 'node:perf_hooks';
import { STAMPEDE, WARM_SESSIONS } from './cases.mjs';
import { mainThreadTime } from './main-thread.mjs';
import { PEERS } from './peers.mjs';

/** Latencies that are kept of one cell; of more calls than these the latest are. */
const KEPT = 2 ** 21;

/** Hands out sessions: the next one, round and round, or each once. */
function source(sessions, { again }) {
  let position = 0;
  return () => {
    if (position === sessions.length && again) position = 0;
    return sessions[position++];
  };
}

class Load {
  constructor(peer) {
    this.peer = peer;
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
    await Promise.all(Array.from({ length: inFlight }, () => this.caller(next, end)));
  }

  async caller(next, end) {
    let began = performance.now();
    while (began < end) {
      const session = next();
      if (session === undefined) return;
      let answer;
      try {
        answer = await this.peer.validate(session.token);
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
      if (answer !== undefined && answer?.token !== session.hash) throw new Error('A call was answered with the wrong session.');
    }
  }

  /** Latency in microseconds that the given share of the last run's calls stayed within. */
  percentiles(shares) {
    const sorted = this.latencies.subarray(0, Math.min(this.calls, KEPT)).sort();
    return shares.map((share) => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] * 1000);
  }
}

async function measure({ peer: name, set, inFlight, warmUpMs, measuredMs, sessions, ...urls }) {
  const peer = PEERS[name].open(urls);
  const load = new Load(peer);
  const queries = () => peer.queries() ?? 0;
  const wanted = set === 'cold' ? sessions : sessions.slice(0, set === 'hot' ? 1 : WARM_SESSIONS);
  const next = source(wanted, { again: set !== 'cold' });

  let stampede = null;
  if (set === 'hot') {
    // The connection is opened by another session: what counts is what the token costs.
    await peer.validate(sessions[1].token);
    const before = queries();
    await Promise.all(Array.from({ length: STAMPEDE }, () => peer.validate(sessions[0].token)));
    stampede = queries() - before;
    load.all += STAMPEDE + 1;
  } else if (set === 'warm') {
    // Twice: the first reading leaves the copy, the second finds it.
    for (let round = 0; round < 2; round += 1) await load.run(source(wanted, { again: false }), 50, Infinity);
  }
  await load.run(next, inFlight, warmUpMs);
  load.failed = 0;
  load.failure = null;

  const queriesBefore = queries();
  const processBefore = process.cpuUsage();
  const loopBefore = performance.eventLoopUtilization();
  const mainThreadBefore = mainThreadTime();
  const began = performance.now();
  await load.run(next, inFlight, measuredMs);
  const elapsedMs = performance.now() - began;
  const mainThread = mainThreadTime() - mainThreadBefore;
  const loop = performance.eventLoopUtilization(loopBefore);
  const cpu = process.cpuUsage(processBefore);
  const { calls } = load;
  const asked = queries() - queriesBefore;
  if (calls === 0) throw new Error('No call was made: there were too few sessions for the warm-up.');
  const [p50, p99] = load.percentiles([0.5, 0.99]);
  const counted = peer.queries();
  await peer.close();
  return {
    calls,
    throughput: calls / (elapsedMs / 1000),
    p50,
    p99,
    mainThread: mainThread / calls,
    loop: loop.utilization * 100,
    cpu: (cpu.user + cpu.system) / calls,
    queries: counted === null ? null : asked / calls,
    stampede: counted === null ? null : stampede,
    failed: load.failed,
    failure: load.failure,
    life: { calls: load.all, queries: counted },
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
