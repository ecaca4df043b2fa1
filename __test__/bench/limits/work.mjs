// What a cell of the third table does: it checks keys against a limit, or serves requests behind a limiter.

import { createHash } from 'node:crypto';
import { HotLoad } from '../hot.mjs';
import { Load, around, inOrder } from '../load.mjs';
import { openBooks, whyNot } from './asked.mjs';
import { PEERS } from './peers.mjs';
import { serve } from './http.mjs';

/** Simultaneous calls that come first. */
const FILLING = 500;

/** As of a user. One flat string, as it comes from a request: from a buffer, because V8 keeps what templates give as a tree of parts. */
function keyOf(number) {
  const hex = createHash('md5').update(`user ${number}`).digest('hex');
  return Buffer.from(`user:${hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')}`).toString('latin1');
}

/** Denials and what is counted in the process may take less than the clock can tell of one call. */
const loadOf = ({ outcome, place }) => (outcome === 'denied' || place === 'process' ? HotLoad : Load);

async function checking(cell) {
  const { set, outcome, place } = cell;
  const peer = await PEERS[cell.peer].open(cell);
  const keys = Array.from({ length: cell.keys }, (_, number) => keyOf(number));
  let wanted = true;
  let denied = 0;
  const books = place === 'redis' ? await openBooks(cell.redisUrl) : null;
  let localBefore = 0;
  let scriptsBefore = 0;
  const countDenied = (answer) => {
    if (!peer.allowed(answer)) denied += 1;
    return true;
  };
  return {
    load: loadOf(cell),
    next: around(keys),
    call: peer.check,
    right: set === 'busy' ? countDenied : (answer) => peer.allowed(answer) === wanted,

    /** Each key is called once: so every key is known to Redis, and its limit used up where calls are to be denied. */
    async prepare(load) {
      await load.fill(inOrder(keys), FILLING);
      if (load.failed > 0) throw new Error(`A call was rejected before anything was measured: ${load.failure}`);
      wanted = outcome !== 'denied';
    },

    async begin(load) {
      localBefore = peer.local?.();
      scriptsBefore = await books?.scripts();
      load.before = load.all;
      denied = 0;
    },

    async finish(load) {
      const share = (count) => (count / (load.all - load.before)) * 100;
      const found = {
        local: set === 'denied' && peer.local ? share(peer.local() - localBefore) : null,
        asked: books ? share((await books.scripts()) - scriptsBefore) : null,
        denied: set === 'busy' ? share(denied) : null,
      };
      return { ...load.numbers, ...found, withoutRedis: peer.blocks ? null : whyNot(cell, { ...found, outages: peer.outages?.() ?? 0 }) };
    },

    async close() {
      await books?.close();
      await peer.close();
    },
  };
}

export const open = (cell) => (cell.set === 'http' ? serve(cell) : checking(cell));
