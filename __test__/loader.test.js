'use strict';

// What is said where the addon cannot be loaded: the platform, the package that is missing, and the usual causes. Each
// case is a process that requires a copy of the package, beside which there is no binary, or not the right one.

const {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  realpathSync,
  rmSync,
  writeFileSync,
} = require('node:fs');
const { tmpdir } = require('node:os');
const path = require('node:path');
const { runScript } = require('./helpers/process.js');

const root = path.join(__dirname, '..');
const { name, version, files } = require('../package.json');
const platforms = readdirSync(path.join(root, 'npm'));
const fake = path.join(__dirname, 'fixtures', 'loader-platform.js');

const glibc = process.report.getReport().header.glibcVersionRuntime;
const host = [process.platform, process.arch, { linux: glibc ? 'gnu' : 'musl', win32: 'msvc' }[process.platform]]
  .filter(Boolean)
  .join('-');
const onGlibc = glibc ? test : test.skip;

let folder;

/** An empty folder with the package, and with the package of a platform whose binary is `binary`, if that is given. */
function place(platform, binary) {
  folder = mkdtempSync(path.join(realpathSync(tmpdir()), 'studio-redis-native-loader-'));
  const main = path.join(folder, 'node_modules', name);
  mkdirSync(main, { recursive: true });
  for (const file of ['package.json', ...files.filter((each) => each.endsWith('.js'))])
    copyFileSync(path.join(root, file), path.join(main, file));
  if (platform === undefined) return undefined;
  const beside = path.join(folder, 'node_modules', `${name}-${platform}`);
  mkdirSync(beside);
  copyFileSync(path.join(root, 'npm', platform, 'package.json'), path.join(beside, 'package.json'));
  const file = path.join(beside, `redis-native.${platform}.node`);
  if (binary !== undefined) writeFileSync(file, binary);
  return file;
}

afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** Requires the copy, and resolves with the error, and those that caused it, as `{ code, message, causes }`. */
async function load({ env = {}, nodeArgs = [], how = `require('${name}')` } = {}) {
  const source = `
    process.chdir(${JSON.stringify(folder)});
    const require = module.constructor.createRequire(${JSON.stringify(path.join(folder, 'user.js'))});
    (async () => ${how})().then(
      () => console.log('null'),
      (error) => {
        const causes = [];
        for (let cause = error.cause; cause; cause = cause.cause) causes.push(cause.message);
        console.log(JSON.stringify({ code: error.code, message: error.message, isError: error instanceof Error, causes }));
      },
    );`;
  const { stdout, stderr, code } = await runScript(source, {
    env: { NAPI_RS_NATIVE_LIBRARY_PATH: undefined, ...env },
    nodeArgs,
  });
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return JSON.parse(stdout);
}

const pretending = (platform) => ({ env: { FAKE_PLATFORM: platform }, nodeArgs: ['--require', fake] });
const nodeVersion = `Node ${process.versions.node}`;

test('without the package of the platform, it is named, with the usual causes', async () => {
  place();
  const { code, message, isError, causes } = await load();
  expect({ code, isError }).toEqual({ code: 'MODULE_NOT_FOUND', isError: true });
  const [first, ...usual] = message.split('\n');
  expect(first).toBe(
    `${name} ${version} has no binary here for ${process.platform} ${process.arch}${glibc ? ` (glibc ${glibc})` : ''}, ${nodeVersion}: ` +
      `the package ${name}-${host}, which holds it, is missing or incomplete. Usual causes:`,
  );
  const words = [
    'optional dependencies were left out',
    'lock file was written on another platform',
    'node_modules was copied',
    'bundler',
  ];
  expect(usual).toEqual(words.map((text) => expect.stringContaining(text)));
  expect(causes[0]).toContain(`Cannot find module '${name}-${host}'`);
  expect([message, ...causes].join()).not.toMatch(/npm has a bug|wasm|wasi/);
});

test('an import of an ES module says the same', async () => {
  place();
  const how = `import(require.resolve('${name}'))`;
  expect(await load({ how })).toMatchObject({
    code: 'MODULE_NOT_FOUND',
    message: expect.stringContaining(`${name}-${host}`),
  });
});

test('a process that does not catch it shows the sentence', async () => {
  place();
  const { code, stderr } = await runScript(`require(${JSON.stringify(path.join(folder, 'node_modules', name))})`);
  expect(code).toBe(1);
  expect(stderr).toContain(`the package ${name}-${host}, which holds it, is missing or incomplete. Usual causes:\n- `);
});

const PACKAGES = [
  ['darwin,arm64', 'darwin-arm64', 'darwin arm64, '],
  ['darwin,x64', 'darwin-x64', 'darwin x64, '],
  ['linux,arm64,gnu', 'linux-arm64-gnu', 'linux arm64 (glibc 2.36), '],
  ['linux,arm64,musl', 'linux-arm64-musl', 'linux arm64 (musl), '],
  ['linux,x64,gnu', 'linux-x64-gnu', 'linux x64 (glibc 2.36), '],
  ['linux,x64,musl', 'linux-x64-musl', 'linux x64 (musl), '],
  ['win32,x64', 'win32-x64-msvc', 'win32 x64, '],
];

test('every platform that there is a package for is among these', () => {
  place();
  expect(PACKAGES.map(([, platform]) => platform).sort()).toEqual([...platforms].sort());
});

test.each(PACKAGES)('%s lacks %s', async (platform, wanted, text) => {
  place();
  const { code, message } = await load(pretending(platform));
  expect(code).toBe('MODULE_NOT_FOUND');
  expect(message).toContain(
    `has no binary here for ${text}${nodeVersion}: the package ${name}-${wanted}, which holds it, is missing`,
  );
});

test.each(['freebsd,x64', 'linux,riscv64,gnu', 'win32,arm64', 'sunos,sparc'])(
  '%s is no platform of ours',
  async (platform) => {
    place();
    const { code, message } = await load(pretending(platform));
    const [os, arch] = platform.split(',');
    expect(code).toBe('MODULE_NOT_FOUND');
    expect(message).toContain(`${name} ${version} has no binary for ${os} ${arch}`);
    expect(message).toContain(`There are binaries for ${[...platforms].sort().join(', ')}.`);
  },
);

test('a package of the platform that came without its binary counts as missing', async () => {
  place(host);
  expect(await load()).toMatchObject({
    code: 'MODULE_NOT_FOUND',
    message: expect.stringContaining(`the package ${name}-${host}, which holds it, is missing or incomplete`),
  });
});

test('a damaged binary is named, with what the system says of it', async () => {
  const file = place(host, 'this is no binary, '.repeat(1000));
  const { code, message, causes } = await load();
  expect(code).toBe('ERR_DLOPEN_FAILED');
  expect(message).toContain(`could not load its binary for ${process.platform} ${process.arch}`);
  expect(message).toContain(file);
  expect(message).toMatch(/Usual causes:\n(- .*\n)*- the file is damaged: remove node_modules and install again\n/);
  expect(causes[0]).toContain(file);
});

onGlibc('a binary for a newer C library is named, with the version that it wants', async () => {
  const built = readFileSync(path.join(root, `redis-native.${host}.node`)).toString('latin1');
  const [newest] = [...new Set(built.match(/GLIBC_2\.\d\d\b/g))].sort().slice(-1);
  const file = place(host, Buffer.from(built.replaceAll(newest, 'GLIBC_2.99'), 'latin1'));
  const { code, message } = await load();
  expect(code).toBe('ERR_DLOPEN_FAILED');
  expect(message).toContain("version `GLIBC_2.99' not found");
  expect(message).toContain(file);
  expect(message).toContain('- the C library here is older than the one that the binary was built for');
});

test('a Node that may not load addons says so', async () => {
  place(host, 'never read');
  const { code, message } = await load({ nodeArgs: ['--no-addons'] });
  expect(code).toBe('ERR_DLOPEN_FAILED');
  expect(message).toContain('Node was told not to load addons');
});

test('a binary that NAPI_RS_NATIVE_LIBRARY_PATH names and that is not there', async () => {
  place(host, 'never read');
  const wanted = path.join(folder, 'nowhere.node');
  expect(existsSync(wanted)).toBe(false);
  const { code, message } = await load({ env: { NAPI_RS_NATIVE_LIBRARY_PATH: wanted } });
  expect(code).toBe('MODULE_NOT_FOUND');
  expect(message).toContain(`could not load NAPI_RS_NATIVE_LIBRARY_PATH, which is ${wanted}, on ${process.platform}`);
});

// What traces the files that a program needs reads these strings, and runs nothing.
test('the loader names every binary in so many words', () => {
  place();
  const loader = readFileSync(path.join(root, 'binding.js'), 'utf8');
  for (const platform of platforms) {
    expect(loader).toContain(`require('./redis-native.${platform}.node')`);
    expect(loader).toContain(`require('${name}-${platform}')`);
  }
  expect(readFileSync(path.join(root, 'index.js'), 'utf8')).toContain("require('./binding.js')");
});
