// Requests, one at a time or as a steady stream.

import { Agent, request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

const agent = new Agent({ keepAlive: true });

/** Resolves with the status, the JSON, the whole wait, and how long the server waited for the package. */
export function ask(url, { method = 'GET', token } = {}) {
  const began = performance.now();
  return new Promise((resolve, reject) => {
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    const call = request(url, { method, agent, headers }, async (response) => {
      try {
        const text = (await response.toArray()).join('');
        const validationMs = Number(/dur=([\d.]+)/.exec(response.headers['server-timing'])?.[1]);
        resolve({ status: response.statusCode, body: JSON.parse(text), ms: performance.now() - began, validationMs });
      } catch (error) {
        reject(error);
      }
    });
    call.once('error', reject).end();
  });
}

/** Asks `perSecond` times a second, whatever became of the earlier requests, until `stop()`; `take()` empties the answers. */
export function stream(perSecond, request) {
  const began = performance.now();
  const pending = new Set();
  let answers = [];
  let running = true;
  const sending = (async () => {
    for (let sent = 0; running; await sleep(2)) {
      for (const due = ((performance.now() - began) * perSecond) / 1000; sent < due; sent += 1) {
        // A connection that was refused or lost is a failed request like any other.
        const answer = request(sent).catch((error) => ({ status: error.code, ms: Infinity })).then((it) => {
          answers.push(it);
          pending.delete(answer);
        });
        pending.add(answer);
      }
    }
  })();
  return {
    take() {
      const taken = answers;
      answers = [];
      return taken;
    },
    async stop() {
      running = false;
      await sending;
      await Promise.all(pending);
    },
  };
}
