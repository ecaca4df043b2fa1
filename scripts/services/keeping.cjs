'use strict';

// The near side of the keeper: starts it with the first request and lets it go when it has nothing left to keep.

const { fork } = require('node:child_process');
const { tmpdir } = require('node:os');
const path = require('node:path');
const { accessSync, constants, readFileSync, statSync } = require('node:fs');

let keeper = null;
let nextId = 1;
let kept = 0; // processes and folders
const waiting = new Map(); // id -> { resolve, reject }
const exits = new Map(); // pid -> callback

function openKeeper() {
  const child = fork(path.join(__dirname, 'keeper.cjs'), [], { detached: true, stdio: 'ignore', execArgv: [] });
  child.on('message', (message) => {
    if (message.event === 'exit') {
      kept -= 1;
      exits.get(message.pid)?.(message);
      exits.delete(message.pid);
    } else {
      const { resolve, reject } = waiting.get(message.id);
      waiting.delete(message.id);
      if (message.error === undefined) resolve(message.result);
      else reject(new Error(message.error));
    }
    rest(child);
  });
  child.once('exit', () => {
    // What waits is for the next keeper, if there is one already.
    if (keeper !== child) return;
    keeper = null;
    for (const { reject } of waiting.values()) reject(new Error('The keeper of the test servers has ended.'));
    waiting.clear();
  });
  // The keeper's own handle never holds this process; the channel does, while an answer is awaited.
  child.unref();
  return child;
}

/** Stops holding this process when no answer is awaited, and lets the keeper go when it keeps nothing. */
function rest(child) {
  if (waiting.size > 0) return;
  child.channel?.unref();
  if (kept === 0 && keeper === child) {
    keeper = null;
    child.disconnect();
  }
}

function ask(operation, parameters) {
  keeper ??= openKeeper();
  keeper.channel.ref();
  return new Promise((resolve, reject) => {
    const id = nextId++;
    waiting.set(id, { resolve, reject });
    keeper.send({ id, operation, parameters });
  });
}

/** Starts a process; `ending` is the signal that ends it in an orderly way. */
async function startProcess({ command, args = [], cwd, env = process.env, user, log, ending = 'SIGTERM' }) {
  const started = { pid: 0, running: true, end: null, exited: null };
  kept += 1;
  let pid;
  try {
    pid = await ask('start', { command, args, cwd, env: { ...env }, uid: user?.uid, gid: user?.gid, log, ending });
  } catch (error) {
    kept -= 1;
    throw error;
  }
  started.pid = pid;
  started.exited = new Promise((resolve) => {
    exits.set(pid, (message) => {
      started.running = false;
      resolve({ code: message.code, signal: message.signal });
    });
  });
  started.end = async (signal) => {
    if (!started.running) return;
    await ask('end', { pid, signal });
    await started.exited;
  };
  return started;
}

/** Runs a command to its end; rejects with the tail of its output if it fails. */
async function run({ command, args, cwd, env, user, log }) {
  const started = await startProcess({ command, args, cwd, env, user, log, ending: 'SIGKILL' });
  const hold = setInterval(() => {}, 1000);
  const { code, signal } = await started.exited;
  clearInterval(hold);
  if (code !== 0) throw new Error(`${command} ended with ${signal ?? code}: ${tail(log)}`);
}

/** The last lines of a log file. */
function tail(log, lines = 15) {
  try {
    return readFileSync(log, 'utf8').trim().split('\n').slice(-lines).join('\n');
  } catch {
    return '(no output)';
  }
}

/** A temporary folder, of `user` if given; it is removed with the keeper at the latest. */
async function makeFolder(name, user) {
  kept += 1;
  const prefix = path.join(temporaryRoot(user), `studio-redis-native-${name}-`);
  return ask('makeFolder', { prefix, uid: user?.uid, gid: user?.gid });
}

async function removeFolder(folder) {
  kept -= 1;
  await ask('removeFolder', { folder });
}

/** The folder for temporary files, or /tmp where another user could not walk into the configured one. */
function temporaryRoot(user) {
  const configured = tmpdir();
  if (!user) return configured;
  for (let folder = configured; folder !== path.dirname(folder); folder = path.dirname(folder)) {
    if ((statSync(folder).mode & constants.S_IXOTH) === 0) return '/tmp';
  }
  accessSync(configured, constants.W_OK);
  return configured;
}

module.exports = { startProcess, run, makeFolder, removeFolder, tail };
