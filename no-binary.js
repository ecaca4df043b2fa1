'use strict';

// What is said where the addon cannot be loaded. It is required only then. The codes are those that Node itself has for a
// file that is not there and for one that the system refuses, because a caller that does without an absent package knows
// them; the codes of this package are for what happens once it is loaded.
const { name, version, optionalDependencies } = require('./package.json');

const MISSING = [
  'optional dependencies were left out (npm --omit=optional, pnpm --no-optional, NPM_CONFIG_OMIT): allow them',
  'the lock file was written on another platform and names only the package of that one: remove it and node_modules, and install again',
  'node_modules was copied from another system or build stage, such as from Alpine (musl) to Debian (glibc): install where it runs',
  'a bundler, or the tracing of files for a container, left the binary behind: keep this package external (Next.js: serverExternalPackages) and copy the package of the platform as well',
];
const REFUSED = [
  'the C library here is older than the one that the binary was built for, which names GLIBC: use the published package, or a newer system',
  'it is the binary of another system, such as that of Alpine (musl) on Debian (glibc): install where it runs',
  'the file is damaged: remove node_modules and install again',
  'Node was told not to load addons (--no-addons, or --permission without --allow-addons)',
];

function platform() {
  const { platform: os, arch, report, version: node } = process;
  if (os !== 'linux' || !report) return `${os} ${arch}, Node ${node.slice(1)}`;
  // Without this the report asks the resolver for a name of every open connection.
  report.excludeNetwork = true;
  const glibc = report.getReport().header.glibcVersionRuntime;
  return `${os} ${arch} (${glibc ? `glibc ${glibc}` : 'musl'}), Node ${node.slice(1)}`;
}

/** Without the files that required it. */
const firstLine = (message) => message.split('\n', 1)[0];

/** What the loader has tried, the latest first. It tries WebAssembly as well, which this package does not have. */
function attempts(error) {
  const links = [];
  for (let link = error.cause; link; link = link.cause) links.push(link);
  return links.filter(({ message }) => !/redis-native[.-]was[im]/.test(firstLine(message)));
}

const inLines = (text, causes) => `${text} Usual causes:\n${causes.map((cause) => `- ${cause}`).join('\n')}`;

/** A better error for one of binding.js, with what the loader met as its `cause`. */
module.exports = (error) => {
  const tried = attempts(error);
  const refused = tried.find(({ message }) => !/^Cannot find module|^Unsupported /.test(message));
  const cause = refused ?? tried[0];
  if (!cause) return error;

  const override = process.env.NAPI_RS_NATIVE_LIBRARY_PATH;
  const named = new RegExp(`${name}-[a-z0-9-]+`);
  const wanted = tried.map(({ message }) => named.exec(message)?.[0]).find(Boolean);
  const reason = firstLine(cause.message);
  let text;
  if (override) {
    text = `${name} ${version} could not load NAPI_RS_NATIVE_LIBRARY_PATH, which is ${override}, on ${platform()}: ${reason}`;
  } else if (refused) {
    text = inLines(`${name} ${version} could not load its binary for ${platform()}: ${reason}.`, REFUSED);
  } else if (wanted in optionalDependencies) {
    const lacking = `${name} ${version} has no binary here for ${platform()}: the package ${wanted}, which holds it, is missing or incomplete.`;
    text = inLines(lacking, MISSING);
  } else {
    const there = Object.keys(optionalDependencies).map((other) => other.slice(name.length + 1));
    text = `${name} ${version} has no binary for ${platform()}. There are binaries for ${there.join(', ')}.`;
  }
  return Object.assign(new Error(text, { cause }), { code: refused ? 'ERR_DLOPEN_FAILED' : 'MODULE_NOT_FOUND' });
};
