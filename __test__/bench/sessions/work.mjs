// What a cell of the first table does: it asks who the tokens belong to, or signs users out.

import { HotLoad } from '../hot.mjs';
import { around, inOrder } from '../load.mjs';
import { CACHED_SESSIONS, STAMPEDE, STEADY } from './cases.mjs';
import { hashOf, sessionOf, tokenOf } from './numbered.mjs';
import { PEERS } from './peers.mjs';
import { revocations } from './revoke.mjs';
import { PacedLoad } from './steady.mjs';
import { memory } from './memory.mjs';

/** Simultaneous calls that fill a cache. */
const FILLING = 500;

/** Each time any of them. */
const anyOf = (sessions) => () => sessions[Math.floor(Math.random() * sessions.length)];

/** Asks until the process answers all of them itself: the first reading leaves a copy in Redis, the second takes it from there. */
async function makeLocal(peer, load, sessions) {
  for (let round = 0; round < 5; round += 1) {
    const before = peer.localHits?.() ?? 0;
    await load.fill(inOrder(sessions), FILLING);
    if (load.failed > 0) throw new Error(`A call was rejected while the cache was filled: ${load.failure}`);
    if (round > 0 && (peer.localHits === undefined || peer.localHits() - before >= 0.999 * sessions.length)) return;
  }
}

/** What happens before anything is measured, by the set. */
const preparations = {
  hot: ({ peer, load, wanted }) => makeLocal(peer, load, wanted),
  cold: () => {},

  // Twice: the first reading leaves the copy, the second finds it.
  async redis({ peer, load, wanted }) {
    await peer.leave?.(wanted);
    for (let round = 0; round < 2; round += 1) await load.fill(inOrder(wanted), 50);
  },

  /** The connection is opened by another session: what counts is what the token costs. */
  async 'one-token'({ peer, load, sessions }) {
    await peer.validate(sessions[1].token);
    const before = peer.queries();
    await Promise.all(Array.from({ length: STAMPEDE }, () => peer.validate(sessions[0].token)));
    load.all += STAMPEDE + 1;
    return { stampede: peer.queries() - before };
  },

  steady: () => {},

  /** Everything that is not a session in the cache is there before memory is looked at the first time. */
  async million({ peer, load, wanted, series }) {
    const before = await memory(() => makeLocal(peer, load, wanted.slice(0, CACHED_SESSIONS)));
    const heldBefore = peer.localEntries?.() ?? CACHED_SESSIONS;
    if (peer.preload) {
      for (let number = 0; number < wanted.length; number += 1) await peer.preload(sessionOf(series, number));
    } else {
      await makeLocal(peer, load, wanted);
    }
    const after = await memory();
    const held = (peer.localEntries?.() ?? wanted.length) - heldBefore;
    // Of a process that holds few of them there is nothing to say.
    const grown = (measure) => (held < wanted.length / 2 ? null : (after[measure] - before[measure]) / held);
    return { bytes: grown('all'), nativeBytes: grown('native') };
  },
};

/** Hashes are made when they are compared: as many again as tokens would fill the memory that is looked at. */
const numbered = (series, count) => Array.from({ length: count }, (_, number) => ({ token: tokenOf(series, number) }));

const sources = {
  cold: inOrder,
  steady: anyOf,
};

export function open(cell) {
  if (cell.set === 'revoke') return revocations(cell);
  const { peer: name, set, sessions, series, many } = cell;
  const counts = { cold: sessions.length, 'one-token': 1, steady: STEADY.sessions };
  const wanted = set === 'million' ? numbered(series, many) : sessions.slice(0, counts[set] ?? CACHED_SESSIONS);
  const peer = PEERS[name].open(cell);
  const loads = { hot: HotLoad, million: HotLoad, steady: PacedLoad };
  let found = {};
  let queriesBefore = 0;
  let localBefore = 0;

  return {
    next: (sources[set] ?? around)(wanted),
    call: peer.call ?? ((session) => peer.validate(session.token)),
    right: peer.right ?? ((answer, { token, hash = hashOf(token) }) => answer?.token === hash),
    load: loads[set],

    async prepare(load) {
      found = (await preparations[set]({ peer, load, wanted, sessions, series })) ?? {};
    },

    begin(load) {
      queriesBefore = peer.queries();
      localBefore = peer.localHits?.();
      load.before = load.all;
    },

    /** `null` for a peer that does not count; then the server's own count is taken, see `servers.mjs`. */
    finish(load) {
      const counted = peer.queries();
      const calls = load.all - load.before;
      return {
        ...load.numbers,
        queries: counted === null ? null : (counted - queriesBefore) / calls,
        reads: set === 'steady' ? (counted - queriesBefore) / STEADY.sessions : null,
        local: localBefore === undefined ? null : ((peer.localHits() - localBefore) / calls) * 100,
        ...found,
        life: { calls: load.all, queries: counted },
      };
    },

    close: () => peer.close(),
  };
}
