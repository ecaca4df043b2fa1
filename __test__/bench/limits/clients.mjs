// Clients of a server, in a process of their own: `http.mjs` forks this file, sends what to ask, and gets numbers.

import { deal, fire } from '../cannon.mjs';

/** The address of a client, as a proxy would tell it. */
const addressOf = (number) => `10.1.${number >> 8}.${number & 255}`;

/** Each connection carries clients of its own in turn, so that two requests under way are hardly ever of the same one. */
function run({ url, clients, connections, milliseconds }) {
  const addresses = Array.from({ length: clients }, (_, number) => addressOf(number));
  const from = (address) => ({ method: 'GET', headers: { 'x-forwarded-for': address } });
  return fire({ url, connections, milliseconds, ...(clients > 1 ? { setupClient: deal(addresses, connections, from) } : {}) });
}

// Whoever asked is gone: nobody waits for the numbers.
process.on('disconnect', () => process.exit());
process.on('message', async (wanted) => {
  try {
    process.send({ result: await run(wanted) });
  } catch (error) {
    process.send({ error: error.stack });
  }
});
