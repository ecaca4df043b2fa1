// The packages as they are published, in a folder apart: publishing changes nothing in the tree.

import { copyFileSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { binaryOf, manifest, platformManifest, platforms, root } from './manifests.mjs';

/** What only the repository needs. */
const HERE_ONLY = ['devDependencies', 'overrides', 'scripts', 'napi'];

/** npm proves where a package was built only if its manifest names the repository. */
function repository(folder) {
  const { GITHUB_SERVER_URL, GITHUB_REPOSITORY } = process.env;
  if (!GITHUB_REPOSITORY) return {};
  const url = `git+${GITHUB_SERVER_URL}/${GITHUB_REPOSITORY}.git`;
  return { repository: { type: 'git', url, ...(folder === '.' ? {} : { directory: folder }) } };
}

function copyPackage(from, to, content, files) {
  for (const file of ['LICENSE', 'README.md', ...files]) {
    const source = path.join(root, file === 'LICENSE' ? '.' : from, file);
    mkdirSync(path.dirname(path.join(to, file)), { recursive: true });
    copyFileSync(source, path.join(to, file));
  }
  const published = { ...content, ...repository(from) };
  for (const key of HERE_ONLY) delete published[key];
  writeFileSync(path.join(to, 'package.json'), `${JSON.stringify(published, null, 2)}\n`);
}

/**
 * Puts the packages into folders of `destination`, and returns these in the order of publishing: who installs the main
 * package must find its platform's. With `standIns`, a platform whose binary is not here gets a file that is none.
 */
export function stage(destination, { standIns = false } = {}) {
  const folders = platforms.map((platform) => {
    const from = path.join('npm', platform);
    const to = path.join(destination, platform);
    const binary = binaryOf(platform);
    const built = existsSync(path.join(root, from, binary));
    if (!built && !standIns) throw new Error(`${path.join(from, binary)} is not here: build it first.`);
    copyPackage(from, to, platformManifest(platform), built ? [binary] : []);
    if (!built) writeFileSync(path.join(to, binary), `no binary for ${platform}\n`);
    return to;
  });
  const main = path.join(destination, 'main');
  copyPackage('.', main, manifest, manifest.files);
  return [...folders, main];
}
