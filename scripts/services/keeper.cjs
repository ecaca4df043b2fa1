'use strict';

// The keeper is the parent of every server that the scripts and tests start, and the owner of their folders. It is a
// process of its own, outside the terminal's process group, and learns of the end of the process that it works for
// by the closing of their channel. So whatever that end was (done, Ctrl-C, an uncaught error, even SIGKILL), nothing
// stays behind, and nobody needs a handler of signals for it.

const { spawn } = require('node:child_process');
const { chmodSync, chownSync, closeSync, mkdtempSync, openSync, rmSync } = require('node:fs');
const { tree, signalAll } = require('./tree.cjs');

/** How long a server may take to end by itself before it is killed. */
const PATIENCE_MS = 5000;

const running = new Map(); // pid -> { child, exited, ending }
const folders = new Set();

function start({ command, args, cwd, env, uid, gid, log, ending }) {
  return new Promise((resolve, reject) => {
    const output = log ? openSync(log, 'a') : 'ignore';
    // Its own process group: Ctrl-C in a terminal must reach the servers in no other way than through the keeper.
    const child = spawn(command, args, { cwd, env, uid, gid, detached: true, stdio: ['ignore', output, output] });
    if (log) closeSync(output);
    child.once('error', reject);
    child.once('spawn', () => {
      const exited = new Promise((done) => {
        child.once('exit', (code, signal) => {
          running.delete(child.pid);
          tell({ event: 'exit', pid: child.pid, code, signal });
          done();
        });
      });
      running.set(child.pid, { exited, ending });
      resolve(child.pid);
    });
  });
}

/** Ends a process with all its descendants, frozen or not, and returns when it is gone. */
async function end({ pid, signal }) {
  const entry = running.get(pid);
  if (!entry) return;
  const members = tree(pid);
  signalAll([pid], signal ?? entry.ending);
  signalAll(members, 'SIGCONT');
  const timer = setTimeout(() => signalAll(tree(pid), 'SIGKILL'), PATIENCE_MS);
  await entry.exited;
  clearTimeout(timer);
  // A killed server may leave children; a process that has ended is no longer in anybody's way.
  signalAll(members.slice(1), 'SIGKILL');
}

function makeFolder({ prefix, uid, gid }) {
  const folder = mkdtempSync(prefix);
  folders.add(folder);
  if (uid !== undefined) chownSync(folder, uid, gid);
  chmodSync(folder, 0o700);
  return folder;
}

function removeFolder({ folder }) {
  // A killed server's children may still write for a moment, hence the retries.
  rmSync(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  folders.delete(folder);
}

const operations = { start, end, makeFolder, removeFolder };

function tell(message) {
  if (process.connected) process.send(message, () => {});
}

async function endEverything() {
  await Promise.all([...running.keys()].map((pid) => end({ pid })));
  for (const folder of folders) removeFolder({ folder });
  process.exit(0);
}

process.on('message', async ({ id, operation, parameters }) => {
  try {
    tell({ id, result: await operations[operation](parameters) });
  } catch (error) {
    tell({ id, error: error.message });
  }
});
process.on('disconnect', endEverything);
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, endEverything);
