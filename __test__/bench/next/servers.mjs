// Redis and Postgres as for the table of sessions, and the application of `__test__/next-app` with one more route.

import { copyFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import app from '../../fixtures/next/app.js';
import { Servers as Stores } from '../sessions/servers.mjs';
import { SESSIONS } from './cases.mjs';
import { keepAway } from './cores.mjs';

const ROUTE = fileURLToPath(new URL('route.ts', import.meta.url));

export class Servers {
  static async start() {
    const servers = new Servers();
    servers.stores = await Stores.start({ sessions: SESSIONS, many: 0 });
    try {
      for (const { pid } of [servers.stores.redis, servers.stores.postgres]) keepAway(pid);
      console.log('The application is being installed and built.');
      const add = (folder) => copyFileSync(ROUTE, path.join(folder, 'pages', 'api', 'bench.ts'));
      servers.alone = await app.buildApp(await app.installApp({ add }));
      return servers;
    } catch (error) {
      await servers.stop();
      throw error;
    }
  }

  get environment() {
    return this.stores.environment;
  }

  get forCells() {
    return { ...this.stores.forCells, alone: this.alone };
  }

  around(measureCell, cell) {
    return this.stores.around(measureCell, cell);
  }

  versions() {
    return this.stores.versions();
  }

  stop() {
    return this.stores.stop();
  }
}
