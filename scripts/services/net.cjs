'use strict';

const net = require('node:net');

/** A port of the loopback interface that nobody listens on. */
function freePort() {
  return new Promise((resolve, reject) => {
    const server = net.createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Asks until the answer is truthy; rejects with `what` when `deadlineMs` have passed. */
async function until(ask, { deadlineMs = 20_000, everyMs = 20, what = 'the condition' } = {}) {
  const end = Date.now() + deadlineMs;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    if (Date.now() > end) throw new Error(`Waited ${deadlineMs} ms in vain for ${what}.`);
    await sleep(everyMs);
  }
}

module.exports = { freePort, sleep, until };
