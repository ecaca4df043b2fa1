// What a cell of the first table does: it asks who the tokens belong to.

import { STAMPEDE, WARM_SESSIONS } from './cases.mjs';
import { PEERS } from './peers.mjs';

/** Hands out sessions: the next one, round and round, or each once. */
function source(sessions, { again }) {
  let position = 0;
  return () => {
    if (position === sessions.length && again) position = 0;
    return sessions[position++];
  };
}

export function open({ peer: name, set, sessions, ...urls }) {
  const peer = PEERS[name].open(urls);
  const queries = () => peer.queries() ?? 0;
  const wanted = set === 'cold' ? sessions : sessions.slice(0, set === 'hot' ? 1 : WARM_SESSIONS);
  let stampede = null;
  let queriesBefore = 0;

  return {
    next: source(wanted, { again: set !== 'cold' }),
    call: (session) => peer.validate(session.token),
    right: (answer, session) => answer?.token === session.hash,

    async prepare(load) {
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
    },

    begin() {
      queriesBefore = queries();
    },

    /** `null` for a peer that does not count; then the server's own count is taken, see `servers.mjs`. */
    finish({ calls, all }) {
      const counted = peer.queries();
      return {
        queries: counted === null ? null : (counted - queriesBefore) / calls,
        stampede: counted === null ? null : stampede,
        life: { calls: all, queries: counted },
      };
    },

    close: () => peer.close(),
  };
}
