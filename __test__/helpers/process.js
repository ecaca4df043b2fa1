'use strict';

// Node processes beside the one of the test: workers that answer calls, and scripts that run to their end.

const { fork, spawn } = require('node:child_process');
const path = require('node:path');

const alive = new Set();

/** The environment of a child: the present one, then `env`; a value of undefined takes the variable away. */
function environment(env) {
  return Object.fromEntries(Object.entries({ ...process.env, ...env }).filter(([, value]) => value !== undefined));
}

/**
 * Starts a process that loads the module `file` (default: the addon) and calls its functions on request:
 * `await worker.call('validateSessionWithCache', token)`. It is ended after all tests of the file.
 */
async function spawnWorker(file = path.join(__dirname, '..', '..', 'index.js'), env = {}) {
  const child = fork(path.join(__dirname, 'worker.js'), [file], {
    env: environment(env),
    execArgv: [],
    serialization: 'advanced',
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  });
  alive.add(child);
  const worker = { pid: child.pid, stdout: '', stderr: '' };
  child.stdout.on('data', (chunk) => (worker.stdout += chunk));
  child.stderr.on('data', (chunk) => (worker.stderr += chunk));

  let nextId = 1;
  const waiting = new Map();
  child.on('message', ({ id, result, error }) => {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error) reject(Object.assign(new Error(error.message), error));
    else resolve(result);
  });
  worker.exited = new Promise((resolve) => {
    child.once('close', (code, signal) => {
      alive.delete(child);
      for (const { reject } of waiting.values())
        reject(new Error(`The worker ended with ${signal ?? code}. ${worker.stderr}`));
      waiting.clear();
      resolve({ code, signal });
    });
  });
  worker.call = (method, ...args) =>
    new Promise((resolve, reject) => {
      const id = nextId++;
      waiting.set(id, { resolve, reject });
      child.send({ id, method, args }, (error) => {
        if (error && waiting.delete(id)) reject(error);
      });
    });
  /** Stops its clock, starts it again, or ends it without a word. */
  worker.freeze = () => child.kill('SIGSTOP');
  worker.thaw = () => child.kill('SIGCONT');
  worker.kill = (signal = 'SIGKILL') => {
    child.kill(signal);
    return worker.exited;
  };
  /** Lets it end by itself, as soon as nothing holds it any more. */
  worker.release = () => {
    // The far side hangs up: if this one did, Node would never report the 'close' of the child.
    child.send({ method: 'release' });
    return worker.exited;
  };
  await worker.call('ready');
  return worker;
}

/**
 * Runs a script (`source` is its text, CommonJS, with the project's root as its folder) in a process of its own.
 * Resolves with `{ code, signal, stdout, stderr, durationMs }`; after `timeoutMs` it is killed, `signal` says so.
 */
function runScript(source, { env = {}, timeoutMs = 30_000, nodeArgs = [] } = {}) {
  const started = Date.now();
  const child = spawn(process.execPath, [...nodeArgs, '-e', source], {
    cwd: path.join(__dirname, '..', '..'),
    env: environment(env),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  alive.add(child);
  const result = { code: null, signal: null, stdout: '', stderr: '', durationMs: 0 };
  child.stdout.on('data', (chunk) => (result.stdout += chunk));
  child.stderr.on('data', (chunk) => (result.stderr += chunk));
  const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, signal) => {
      clearTimeout(timer);
      alive.delete(child);
      resolve({ ...result, code, signal, durationMs: Date.now() - started });
    });
  });
}

/** Ends every process that was started here and still runs. */
async function endProcesses() {
  await Promise.all(
    [...alive].map((child) => {
      const closed = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGKILL');
      return closed;
    }),
  );
}

if (typeof afterAll === 'function') afterAll(endProcesses);

module.exports = { spawnWorker, runScript, endProcesses };
