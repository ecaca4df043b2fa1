// Fuzzes the decoder of Redis' replies (fuzz/) with libFuzzer: for a minute, or `--seconds <n>`. What it learns is kept in
// target/fuzz/corpus for the next time. The stable toolchain is enough, because no sanitizer is used.

import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, realpathSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.join(path.dirname(fileURLToPath(import.meta.url)), '..');
const tools = path.join(root, 'target', 'tools');
const work = path.join(root, 'target', 'fuzz');
const folders = Object.fromEntries(['seeds', 'corpus', 'artifacts'].map((name) => [name, path.join(work, name)]));

/** Replies to begin with: kept as text here, because a file with them would lose its line ends to Git. */
const SEEDS = [
  '%1\r\n+proto\r\n:3\r\n+OK\r\n$36\r\nredis_version:7.0.0\r\nrun_id:life-one\r\n',
  '*3\r\n$3\r\nabc\r\n_\r\n*2\r\n:-7\r\n#t\r\n',
  '>2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n:1\r\n',
  '|1\r\n+ttl\r\n:9\r\n%2\r\n+a\r\n,1.5\r\n+b\r\n(12345678901234567890\r\n',
  '-WRONGTYPE no\r\n!5\r\nERR x\r\n=6\r\ntxt:hi\r\n~1\r\n,-inf\r\n$-1\r\n*-1\r\n',
  '*1\r\n'.repeat(199) + ':1\r\n',
  '*536870912\r\n:1\r\n',
  '$536870912\r\nabc',
  'HTTP/1.1 400 Bad Request\r\n\r\n',
];

const runs = (command, ...args) => spawnSync(command, args, { stdio: 'ignore' }).status === 0;

/** Installs cargo-fuzz into target/ if it is nowhere. Why fuzzing can not run here, in a sentence, or undefined. */
export function whyNotFuzz() {
  if (!['linux', 'darwin'].includes(process.platform)) return 'fuzzing needs Linux or macOS';
  if (!runs(process.env.CXX ?? 'c++', '--version'))
    return 'libFuzzer is built with a C++ compiler, and there is none here';
  if (cargoFuzz()) return undefined;
  const install = [
    'install',
    'cargo-fuzz',
    '--locked',
    '--quiet',
    '--root',
    tools,
    '--target-dir',
    path.join(tools, 'build'),
  ];
  spawnSync('cargo', install, { stdio: 'inherit' });
  return cargoFuzz()
    ? undefined
    : 'cargo-fuzz is not here and could not be installed (cargo install cargo-fuzz --locked)';
}

const cargoFuzz = () =>
  [path.join(tools, 'bin', 'cargo-fuzz'), 'cargo-fuzz'].find((command) => runs(command, 'fuzz', '--version'));

function run(command, args) {
  const { status, signal, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (status === 0) return;
  const found = readdirSync(folders.artifacts).map((file) => path.join('target', 'fuzz', 'artifacts', file));
  if (found.length > 0) console.log(`The input is in ${found.join(', ')}`);
  console.log(`${path.basename(command)} ended with ${error?.message ?? signal ?? status}`);
  process.exit(1);
}

function main() {
  for (const folder of Object.values(folders)) mkdirSync(folder, { recursive: true });
  // The first byte decides how the rest is cut.
  SEEDS.forEach((seed, index) => writeFileSync(path.join(folders.seeds, `${index}`), `${index}${seed}`));
  const host = /^host: (.*)$/m.exec(spawnSync('rustc', ['-vV'], { encoding: 'utf8' }).stdout)[1];
  const target = ['--sanitizer', 'none', '--target', host, '--target-dir', work];
  run(cargoFuzz(), ['fuzz', 'build', ...target, 'decoder']);
  const at = process.argv.indexOf('--seconds');
  run(path.join(work, host, 'release', 'decoder'), [
    folders.corpus,
    folders.seeds,
    `-dict=${path.join(root, 'fuzz', 'resp3.dict')}`,
    `-artifact_prefix=${folders.artifacts}${path.sep}`,
    `-max_total_time=${at < 0 ? 60 : process.argv[at + 1]}`,
    '-max_len=16384',
    '-timeout=10',
    '-rss_limit_mb=1024',
    '-verbosity=0',
    '-print_final_stats=1',
  ]);
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const reason = whyNotFuzz();
  if (reason) console.log(`Not fuzzed: ${reason}.`);
  else main();
}
