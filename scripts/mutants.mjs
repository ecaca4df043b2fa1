// Takes the rules out of the sources one by one, as __test__/mutants.json lists them, and demands that the test named
// beside each rule then fails. `--only <name>` runs one, `--only 'limit-*'` those whose names begin like that. It works on a
// copy, never on the sources.

import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');
const only = process.argv.includes('--only') ? process.argv[process.argv.indexOf('--only') + 1] : undefined;
const mutants = JSON.parse(readFileSync(path.join(root, '__test__', 'mutants.json'), 'utf8')).filter(
  ({ name }) => only === undefined || name === only || (only.endsWith('*') && name.startsWith(only.slice(0, -1))),
);
if (mutants.length === 0) throw new Error(`There is no mutant of the name ${only}.`);

const copy = mkdtempSync(path.join(tmpdir(), 'studio-redis-native-mutants-'));
process.once('exit', () => rmSync(copy, { recursive: true, force: true }));
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(130));
for (const name of ['src', 'sql', '__test__/schema', 'Cargo.toml', 'Cargo.lock', 'build.rs'])
  cpSync(path.join(root, name), path.join(copy, name), { recursive: true });

const target = path.join(root, 'target', 'mutants');
mkdirSync(target, { recursive: true });
const LIBRARY = {
  linux: 'libstudio_redis_native.so',
  darwin: 'libstudio_redis_native.dylib',
  win32: 'studio_redis_native.dll',
}[process.platform];

/** Builds the copy; returns what the compiler said if it refused. */
function build(name) {
  const { status, stderr } = spawnSync('cargo', ['build', '--quiet', '--target-dir', target], {
    cwd: copy,
    encoding: 'utf8',
  });
  if (status !== 0) return { refused: stderr };
  // A name of its own for each: what a process has loaded is not overwritten.
  const addon = path.join(copy, `${name}.node`);
  cpSync(path.join(target, 'debug', LIBRARY), addon);
  return { addon };
}

/** Runs the Rust tests whose path has `filter`, in the copy; returns how many ran and how many of them failed. */
function runCargo(filter) {
  const args = ['test', '--quiet', '--no-default-features', '--target-dir', target, filter];
  const { stdout, stderr } = spawnSync('cargo', args, { cwd: copy, encoding: 'utf8', maxBuffer: 1 << 28 });
  const results = [...stdout.matchAll(/^test result: \w+\. (\d+) passed; (\d+) failed/gm)];
  if (results.length === 0) return { refused: stderr };
  const sum = (group) => results.reduce((all, result) => all + Number(result[group]), 0);
  return { ran: sum(1) + sum(2), failed: sum(2) };
}

/** Runs one test against an addon; returns how many ran and how many of them failed. */
function runTest(test, addon) {
  const report = path.join(copy, 'report.json');
  rmSync(report, { force: true });
  const args = [
    'node_modules/jest/bin/jest.js',
    '--ci',
    '--json',
    `--outputFile=${report}`,
    '--runTestsByPath',
    test.file,
    '-t',
    test.pattern,
  ];
  spawnSync(process.execPath, args, {
    cwd: root,
    env: { ...process.env, ADDON: addon },
    encoding: 'utf8',
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  try {
    const { numFailedTests, numPassedTests } = JSON.parse(readFileSync(report, 'utf8'));
    return { ran: numFailedTests + numPassedTests, failed: numFailedTests };
  } catch {
    return { ran: 0, failed: 0 };
  }
}

/** The verdict on one mutant, 'killed' if all is well. */
function judge({ name, file, find, replace, test }) {
  const victim = path.join(copy, file);
  const source = readFileSync(victim, 'utf8');
  const matches = source.split(find).length - 1;
  if (matches !== 1) return `its pattern matches ${matches} times in ${file}`;
  // A function as the replacement: `$` in it means nothing.
  writeFileSync(
    victim,
    source.replace(find, () => replace),
  );
  try {
    const { addon, refused: unbuilt } = test.cargo ? {} : build(name);
    const { ran, failed, refused = unbuilt } = unbuilt ? {} : run(test, addon);
    if (refused) return `does not compile: ${refused.trim().split('\n').slice(0, 8).join('\n')}`;
    if (ran === 0) return `no test ran: ${titleOf(test)}`;
    return failed > 0 ? 'killed' : 'SURVIVED';
  } finally {
    writeFileSync(victim, source);
  }
}

const titleOf = (test) => test.cargo ?? `${test.file} -t ${test.pattern}`;
const run = (test, addon) => (test.cargo ? runCargo(test.cargo) : runTest(test, addon));

const { addon: healthy, refused } = build('unchanged');
if (refused) throw new Error(`The unchanged sources do not compile: ${refused}`);
const rows = [];
const sound = new Map(); // test -> true if it passes on the unchanged sources
for (const mutant of mutants) {
  const since = Date.now();
  const key = titleOf(mutant.test);
  if (!sound.has(key)) {
    const { ran, failed, refused } = run(mutant.test, healthy);
    if (refused) throw new Error(`The tests of the unchanged sources do not compile: ${refused}`);
    sound.set(key, ran > 0 && failed === 0);
  }
  const verdict = sound.get(key) ? judge(mutant) : `its test does not pass without it: ${key}`;
  rows.push({ mutant: mutant.name, rule: mutant.rule, verdict, seconds: Math.round((Date.now() - since) / 1000) });
  console.log(`${verdict === 'killed' ? 'ok  ' : 'BAD '} ${mutant.name}: ${verdict}`);
}
console.table(rows);
const bad = rows.filter(({ verdict }) => verdict !== 'killed').length;
console.log(`${rows.length - bad} killed, ${bad} not`);
process.exit(bad > 0 ? 1 : 0);
