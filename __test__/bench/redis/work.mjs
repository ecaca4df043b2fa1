// What a cell of the second table does: one command, again and again. Every reply is checked while it is measured, as
// far as that costs next to nothing, and the first ones whole.

import { around } from '../load.mjs';
import { BATCH, KEYS } from './cases.mjs';
import { HASHES, LARGE_VALUES, SMALL_VALUES } from './data.mjs';
import { PEERS } from './peers.mjs';

const items = ({ keys, valueFor }) => keys.map((key, number) => ({ key, value: valueFor(number) }));

/** Neighbouring keys; the batches overlap. */
function batches({ keys, valueFor }) {
  const values = keys.map((_, number) => valueFor(number));
  const window = (list, start) => Array.from({ length: BATCH }, (_, index) => list[(start + index) % KEYS]);
  return Array.from({ length: KEYS / 5 }, (_, number) => ({ keys: window(keys, number * 5), values: window(values, number * 5) }));
}

const reading = (values) => (client) => ({
  next: around(items(values)),
  call: ({ key }) => client.get(key),
  right: (reply, { value }) => reply === value,
});

const writing = (values) => (client) => ({
  next: around(items(values)),
  call: ({ key, value }) => client.set(key, value),
  right: (reply) => reply === 'OK',
});

const LAST = BATCH - 1;

const operations = {
  get: reading(SMALL_VALUES),
  set: writing(SMALL_VALUES),
  'get-10k': reading(LARGE_VALUES),
  'set-10k': writing(LARGE_VALUES),
  'get-tls': reading(SMALL_VALUES),
  'get-cluster': reading(SMALL_VALUES),

  hgetall: (client) => ({
    next: around(items(HASHES)),
    call: ({ key }) => client.hgetall(key),
    right: (reply, { value }) => client.field(reply, 'id') === value.id,
    whole(reply, { value }) {
      const names = Object.keys(value);
      return client.fields(reply) === names.length && names.every((name) => client.field(reply, name) === value[name]);
    },
  }),

  mget: (client) => ({
    next: around(batches(SMALL_VALUES)),
    call: ({ keys }) => client.mget(keys),
    right: (reply, { values }) => reply.length === BATCH && reply[0] === values[0] && reply[LAST] === values[LAST],
    whole: (reply, { values }) => reply.length === BATCH && values.every((value, index) => reply[index] === value),
  }),

  pipeline: (client) => ({
    next: around(batches(SMALL_VALUES)),
    call: ({ keys }) => client.pipeline(keys),
    right: (reply, { values }) => client.entry(reply, 0) === values[0] && client.entry(reply, LAST) === values[LAST],
    whole: (reply, { values }) => reply.length === BATCH && values.every((value, index) => client.entry(reply, index) === value),
  }),

  /** Each loop has a counter of its own, which no other loop's reply can be taken for. */
  incr(client, { inFlight }) {
    const counters = Array.from({ length: inFlight }, (_, number) => ({ key: `bench:counter:${number}`, value: 0 }));
    return {
      next: (caller) => counters[caller],
      call: ({ key }) => client.incr(key),
      right(reply, counter) {
        const grown = counter.value === 0 ? typeof reply === 'number' : reply > counter.value;
        counter.value = reply;
        return grown;
      },
    };
  },
};

export async function open(cell) {
  const client = await PEERS[cell.peer].open(cell);
  const operation = operations[cell.set](client, cell);
  const whole = operation.whole ?? operation.right;
  return {
    ...operation,
    async prepare() {
      for (let count = 0; count < 20; count += 1) {
        const item = operation.next(0);
        if (!whole(await operation.call(item), item)) throw new Error('A first call got a wrong answer.');
      }
    },
    close: () => client.close(),
  };
}
