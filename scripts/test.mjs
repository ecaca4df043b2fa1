// Everything that `make test` checks, in order, stopping at the first failure. SOAK=1 runs the long versions.
// `--only <part of a heading>` runs single steps.

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { whyNotFuzz } from './fuzz.mjs';
import { nodePath, nodes, whyNoNodes } from './package/nodes.mjs';
import { NPM_CI, isStale } from './prepare.mjs';
import { startServices } from './services.mjs';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');
process.chdir(root);
const soak = process.env.SOAK === '1';

/** A rustup component, which a cargo from a distribution may lack: why a step can not run here, or undefined. */
function missing(subcommand, component) {
  const here = () => spawnSync('cargo', [subcommand, '--version'], { stdio: 'ignore' }).status === 0;
  if (here()) return undefined;
  spawnSync('rustup', ['component', 'add', component], { stdio: 'ignore' });
  return here() ? undefined : `cargo has no ${subcommand} here (rustup component add ${component})`;
}

const GENERATED = ['binding.js', 'binding.d.ts'];
const generated = () => GENERATED.map((file) => (existsSync(file) ? readFileSync(file, 'utf8') : null));
let committed;

const jest = (...args) => ['node', 'node_modules/jest/bin/jest.js', '--ci', ...args];

/**
 * A step runs a command, or a function that returns what is wrong; `skip` says why it can not run. One that is `early`
 * begins with the step that it names, and tells in its own place what it had to say.
 */
const STEPS = [
  {
    name: 'npm ci',
    skip: () => (isStale() ? undefined : 'node_modules is what package-lock.json says'),
    command: NPM_CI,
  },
  { name: 'workflows', command: ['node', 'scripts/check-workflows.mjs'] },
  { name: 'cargo fmt', skip: () => missing('fmt', 'rustfmt'), command: ['cargo', 'fmt', '--check'] },
  { name: 'levels of the crate', command: ['node', 'scripts/check-layers.mjs'] },
  {
    name: 'clippy',
    skip: () => missing('clippy', 'clippy'),
    command: ['cargo', 'clippy', '--all-targets', '--', '-D', 'warnings'],
  },
  {
    name: 'clippy without JavaScript',
    skip: () => missing('clippy', 'clippy'),
    command: ['cargo', 'clippy', '--all-targets', '--no-default-features', '--', '-D', 'warnings'],
  },
  {
    name: 'compiled without JavaScript',
    skip: () => (missing('clippy', 'clippy') ? undefined : 'clippy has seen it'),
    command: ['cargo', 'check', '--all-targets', '--no-default-features'],
  },
  {
    name: 'crate documentation',
    command: ['cargo', 'doc', '--no-deps', '--document-private-items'],
    env: { RUSTDOCFLAGS: '-D warnings' },
  },
  { name: 'Rust tests are compiled', command: ['cargo', 'test', '--no-run'] },
  {
    name: 'build',
    // It ends with a long time on one processor, of which others can make use; nobody measures time before it is done.
    early: 'clippy',
    before: () => (committed = generated()),
    command: ['npm', 'run', '--silent', 'build'],
  },
  {
    name: 'generated files are fresh',
    skip: () => (committed ? undefined : 'nothing was built in this run'),
    check: () => {
      const stale = GENERATED.filter((file, index) => generated()[index] !== committed[index]);
      return stale.length > 0
        ? `${stale.join(' and ')} did not fit the sources and were written anew: commit them.`
        : undefined;
    },
  },
  { name: 'types', command: ['node', 'node_modules/typescript/bin/tsc', '-p', '__test__/types'] },
  {
    name: 'scripts',
    command: [
      'node',
      '--test',
      'scripts/check-layers.test.mjs',
      'scripts/services.test.mjs',
      '__test__/bench/limits/limits.test.mjs',
    ],
  },
  // Without JavaScript there are the same tests, but for those of the bindings.
  { name: 'cargo test', services: true, command: ['cargo', 'test'], env: { RUST_TEST_THREADS: '4' } },
  {
    // They mostly wait: three of them keep two processors busy. See jest.config.mjs for who is alone.
    name: 'Jest, beside others',
    services: true,
    command: jest('--selectProjects', 'beside others', '--maxWorkers', '3'),
  },
  { name: 'Jest, alone', services: true, command: jest('--selectProjects', 'alone') },
  { name: 'published package', services: true, command: ['node', 'scripts/check-package.mjs'] },
  {
    name: 'inside Next.js',
    services: true,
    command: jest('--config', '__test__/next.config.mjs'),
  },
  ...(soak
    ? [
        ...['20', '24'].map((major) => ({
          name: `Jest under Node ${major}`,
          skip: whyNoNodes,
          before: nodes,
          services: true,
          command: [nodePath(major), 'node_modules/jest/bin/jest.js', '--ci', 'boundary', 'lifecycle', 'loader'],
        })),
        { name: 'fuzzing', skip: whyNotFuzz, command: ['node', 'scripts/fuzz.mjs'] },
        { name: 'mutants', services: true, command: ['node', 'scripts/mutants.mjs'] },
      ]
    : []),
];

const running = new Set();
let interrupted = false;
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => {
    interrupted = true;
    for (const child of running) child.end(signal);
  });
}

/** Runs a command; resolves with what is wrong. What it says is shown, or given to `output`. */
function run(command, env, output) {
  return new Promise((resolve) => {
    // What is early has a group of its own, because it is ended with all that it has started.
    const child = spawn(command[0], command.slice(1), {
      stdio: output ? ['ignore', 'pipe', 'pipe'] : 'inherit',
      detached: output !== undefined,
      env: { ...process.env, ...env },
    });
    child.end = (signal) => {
      if (!output) return child.kill(signal);
      try {
        return process.kill(-child.pid, 'SIGTERM');
      } catch {
        return false; // It has just ended.
      }
    };
    child.stdout?.on('data', output);
    child.stderr?.on('data', output);
    child.once('spawn', () => running.add(child));
    child.once('error', (error) => resolve(error.message));
    child.once('exit', () => running.delete(child));
    child.once('close', (code, signal) =>
      resolve(code === 0 ? undefined : `${command.join(' ')} ended with ${signal ?? code}`),
    );
  });
}

let services = null;
async function serviceUrls() {
  services ??= await startServices({ log: console.log });
  const urls = { REDIS_URL: services.redisUrl, DATABASE_URL: services.databaseUrl };
  return Object.fromEntries(Object.entries(urls).filter(([, url]) => url));
}

async function runStep(step) {
  if (step.begun) return step.begun();
  step.before?.();
  if (step.check) return step.check();
  return run(step.command, { ...(step.services ? await serviceUrls() : {}), ...step.env });
}

/** Begins a step before its turn; when that comes, it says what it has kept, and goes on in the open. */
function begin(step) {
  step.before?.();
  let kept = [];
  const ended = run(step.command, step.env, (chunk) => (kept ? kept.push(chunk) : process.stderr.write(chunk)));
  step.begun = () => {
    for (const chunk of kept) process.stderr.write(chunk);
    kept = null;
    return ended;
  };
}

const only = process.argv.includes('--only') ? process.argv[process.argv.indexOf('--only') + 1] : '';
const started = Date.now();
const seconds = (since) => `${((Date.now() - since) / 1000).toFixed(1)} s`;
let passed = 0;
let failed = 0;
const steps = STEPS.filter(({ name }) => name.includes(only));
for (const step of steps) {
  if (!interrupted) for (const other of steps) if (other.early === step.name) begin(other);
  console.log(`\n== ${step.name}`);
  const reason = step.skip?.();
  if (reason) {
    console.log(`-- skipped: ${reason}`);
    continue;
  }
  const since = Date.now();
  const wrong = interrupted ? 'interrupted' : await runStep(step).catch((error) => error.stack);
  if (wrong) {
    console.log(`-- ${step.name} failed after ${seconds(since)}: ${wrong}`);
    failed += 1;
    break;
  }
  console.log(`-- ${step.name}: ${seconds(since)}`);
  passed += 1;
}
for (const child of running) child.end('SIGTERM');
await services?.stop();
console.log(`\nSteps in ${seconds(started)}:`);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 || passed === 0 ? 1 : 0);
