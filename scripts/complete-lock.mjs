// Adds to package-lock.json what `npm install` leaves out: optional packages for other platforms that the registry did
// not have when the lock was written (our own before they are published, for one). `npm ci` refuses a lock without
// them. Run after changing dependencies: `npm run lock`.

import { readFileSync, writeFileSync } from 'node:fs';

const SYSTEMS = ['android', 'darwin', 'freebsd', 'linux', 'openharmony', 'win32'];
const LIBRARIES = { gnu: 'glibc', gnueabihf: 'glibc', musl: 'musl', musleabihf: 'musl' };

/** `os`, `cpu` and `libc` by the naming that all these packages share: `...-<os>-<cpu>[-<abi>]`. */
function platformOf(name) {
  const parts = name.split('-');
  if (name.endsWith('-wasm32-wasi')) return { cpu: ['wasm32'] };
  const at = parts.findIndex((part) => SYSTEMS.includes(part));
  if (at < 0) return null;
  const libc = LIBRARIES[parts[at + 2]];
  return { cpu: [parts[at + 1]], ...(libc ? { libc: [libc] } : {}), os: [parts[at]] };
}

const lock = JSON.parse(readFileSync('package-lock.json', 'utf8'));
let added = 0;
for (const [holder, { dev, optionalDependencies = {} }] of Object.entries(lock.packages)) {
  for (const [name, version] of Object.entries(optionalDependencies)) {
    const platform = platformOf(name);
    const known = [`node_modules/${name}`, `${holder}/node_modules/${name}`].some((place) => place in lock.packages);
    if (known || !platform || !/^\d/.test(version)) continue;
    lock.packages[`node_modules/${name}`] = { version, ...platform, ...(dev ? { dev } : {}), optional: true };
    added += 1;
  }
}
lock.packages = Object.fromEntries(Object.entries(lock.packages).sort(([a], [b]) => (a < b ? -1 : 1)));
writeFileSync('package-lock.json', `${JSON.stringify(lock, null, 2)}\n`);
console.log(`${added} entries added to package-lock.json`);
