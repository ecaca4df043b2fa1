'use strict';

// The far side of `spawnWorker`: loads a module and calls its functions as the test asks.

const target = require(process.argv[2]);

/** `a.b` calls the function b of the exported object a. */
function find(method) {
  const names = method.split('.');
  const last = names.pop();
  const owner = names.reduce((object, name) => object[name], target);
  return owner[last].bind(owner);
}

process.on('message', async ({ id, method, args }) => {
  if (method === 'release') return process.disconnect();
  const answer = { id };
  try {
    answer.result = method === 'ready' ? true : await find(method)(...args);
  } catch (error) {
    // Own properties (`code`, `reply`, ...) travel with it; what can not be cloned does not.
    const { name, message, stack, code } = error;
    answer.error = JSON.parse(JSON.stringify({ ...error, name, message, stack, code }));
  }
  if (process.connected) process.send(answer);
});
