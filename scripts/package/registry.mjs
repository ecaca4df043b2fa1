// A registry on loopback that knows only what is published to it: it has no uplink, so nothing can come from elsewhere.

import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { runServer } from 'verdaccio';

/**
 * Starts it, with everything that it and the package managers write below `folder`. Resolves with `{ url, env, stop }`; `env` is
 * the environment in which npm and pnpm know this registry and no other, and none of the settings and caches of who runs this.
 */
export async function startRegistry(folder) {
  const home = path.join(folder, 'home');
  mkdirSync(home, { recursive: true });
  const app = await runServer({
    self_path: folder,
    storage: path.join(folder, 'storage'),
    auth: { htpasswd: { file: path.join(folder, 'htpasswd'), max_users: -1 } },
    uplinks: {},
    packages: { '@studio/*': { access: '$all', publish: '$all' } },
    web: { enable: false },
    log: { type: 'stdout', format: 'pretty', level: 'fatal' },
    max_body_size: '100mb',
  });
  const server = app.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = `127.0.0.1:${server.address().port}`;
  const url = `http://${address}/`;

  // npm sends nothing without a token; this registry lets everybody publish.
  const settings = [
    `registry=${url}`,
    `//${address}/:_authToken=anybody`,
    'ignore-scripts=true',
    'audit=false',
    'fund=false',
  ];
  writeFileSync(path.join(home, '.npmrc'), `${settings.join('\n')}\n`);
  const own = { HOME: home, USERPROFILE: home, npm_config_userconfig: path.join(home, '.npmrc'), NODE_PATH: '' };
  const kept = Object.entries(process.env).filter(([name]) => !/^(npm_|pnpm_|xdg_|napi_rs_)/i.test(name));
  const env = { ...Object.fromEntries(kept), CI: 'true', NO_UPDATE_NOTIFIER: '1', ...own };
  const stop = () => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  };
  return { url, env, stop };
}
