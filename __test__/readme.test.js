'use strict';

// The README's example runs as it stands there, and every export can be imported by name.

const { readFileSync } = require('node:fs');
const path = require('node:path');
const { spawn, execFileSync } = require('node:child_process');
const { once } = require('node:events');
const { Database } = require('./helpers/database.js');

const root = path.join(__dirname, '..');
const readme = readFileSync(path.join(root, 'README.md'), 'utf8');

test('the example signs in, signs out and ends on SIGTERM', async () => {
  const [, example] = /```js\n([\s\S]*?)```/.exec(readme);
  const code = example.replace('@studio/redis-native', path.join(root, 'index.js'));
  const database = new Database();
  const { token, user } = await database.createSession();
  const server = spawn(process.execPath, ['-e', code], {
    env: { ...process.env, PORT: '0' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    const [line] = await once(server.stdout, 'data');
    const get = async (route) => {
      const url = `http://127.0.0.1:${/\d+/.exec(line)[0]}${route}`;
      const response = await fetch(url, { headers: { authorization: `Bearer ${token}`, connection: 'close' } });
      return [response.status, await response.text()];
    };
    expect(await get('/')).toEqual([200, `You are ${user.email}.`]);
    expect(await get('/signout')).toEqual([401, 'Not signed in.']);
    expect(await get('/')).toEqual([401, 'Not signed in.']);
    server.kill('SIGTERM');
    expect(await once(server, 'exit')).toEqual([0, null]);
  } finally {
    server.kill('SIGKILL');
    await database.end();
  }
});

test('the example of the Redis client runs', async () => {
  const [, example] = /```ts\n([\s\S]*?)```/.exec(readme);
  const addon = require('..');
  const code = example.replace('redis://localhost:6379', process.env.REDIS_URL);
  const AsyncFunction = (async () => {}).constructor;
  const lines = [];
  await new AsyncFunction('createRedisClient', 'console', code)(addon.createRedisClient, { log: (...line) => lines.push(line) });
  const redis = addon.createRedisClient('readme', { connectionString: process.env.REDIS_URL });
  expect(await redis.get('greeting')).toBe('hello');
  expect(await redis.ttl('greeting')).toBeGreaterThan(0);
  expect(Number(await redis.get('greeted'))).toBeGreaterThan(0);
  await redis.close();
});

test.each(['instrumentation.ts', 'lib/ending.ts', 'next.config.ts'])('docs/nextjs.md shows %s as it is', (file) => {
  const page = readFileSync(path.join(root, 'docs', 'nextjs.md'), 'utf8');
  const blocks = [...page.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code]) => code);
  expect(blocks).toContain(readFileSync(path.join(__dirname, 'next-app', file), 'utf8'));
});

test('every export can be imported by name from an ES module', () => {
  const names = Object.keys(require('..')).sort();
  const code = `import * as all from ${JSON.stringify(path.join(root, 'index.js'))};
    console.log(JSON.stringify(Object.keys(all).filter((name) => !['default', 'module.exports'].includes(name)).sort()));`;
  const imported = execFileSync(process.execPath, ['--input-type=module', '-e', code], { encoding: 'utf8' });
  expect(JSON.parse(imported)).toEqual(names);
  expect(names.length).toBeGreaterThan(10);
});
