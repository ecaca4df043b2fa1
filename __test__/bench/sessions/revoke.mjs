// Users who are signed out everywhere, among many sessions that are cached in the process and in Redis.

import { REVOKED_USERS, SESSIONS_A_USER } from './cases.mjs';
import { tokenOf, userOf } from './numbered.mjs';
import { PEERS } from './peers.mjs';

const FILLING = 500;
/** The first ones are not counted: they open what a revocation needs. */
const WARM_UP = 20;

const sessionsOf = ({ series, user }) =>
  Array.from({ length: SESSIONS_A_USER }, (_, index) => tokenOf(series, user * SESSIONS_A_USER + index));

export function revocations({ peer: name, cached, series, revoked, ...cell }) {
  const peer = PEERS[name].open(cell);
  const users = Array.from({ length: REVOKED_USERS }, (_, user) => ({ series: revoked, user, id: userOf(revoked, user) }));
  const tokens = [...Array.from({ length: cached }, (_, number) => tokenOf(series, number)), ...users.flatMap(sessionsOf)];

  /** Reads them all, `FILLING` at once. */
  const readAll = (all) => {
    let position = 0;
    const caller = async () => {
      while (position < all.length) {
        if ((await peer.validate(all[position++])) === null) throw new Error('A call got a wrong answer.');
      }
    };
    return Promise.all(Array.from({ length: FILLING }, caller));
  };

  /** Resolves with how many it revoked; that they are gone is looked at later, because it would be timed. */
  const revoke = ({ id }) => peer.revokeAll(id);

  let gone = [];
  let local = null;
  return {
    next: () => users.shift(),
    call: revoke,
    right: (count) => count === SESSIONS_A_USER,

    async prepare() {
      // The first reading leaves a copy in Redis, the second takes it into the process.
      for (let round = 0; round < 3; round += 1) await readAll(tokens);
      for (const user of users.splice(0, WARM_UP)) await revoke(user);
      gone = users.flatMap(sessionsOf);
      local = peer.localEntries();
    },

    finish: () => ({ queries: null, cachedLocally: local }),

    async close() {
      for (const token of gone) {
        if ((await peer.validate(token)) !== null) throw new Error('A revoked session was accepted.');
      }
      await peer.close();
    },
  };
}
