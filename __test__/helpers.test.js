'use strict';

// The processes and rows that other tests use.

const { spawnWorker, runScript } = require('./helpers/process.js');
const { Database, hashOf } = require('./helpers/database.js');
const { startRedis, startPostgres } = require('./helpers/servers.js');

test('a worker answers calls, carries errors and ends', async () => {
  const worker = await spawnWorker(require.resolve('./helpers/fixtures/module.js'), { GREETING: 'hi' });
  expect(worker.pid).not.toBe(process.pid);
  expect(await worker.call('nested.greet', 'Ada')).toBe('hi, Ada');
  await expect(worker.call('fail')).rejects.toMatchObject({ name: 'TypeError', code: 'ERR_TEST', message: 'no' });
  expect(await worker.kill()).toEqual({ code: null, signal: 'SIGKILL' });
  await expect(worker.call('nested.greet', 'Ada')).rejects.toThrow();
});

test('a worker that is released ends by itself', async () => {
  const worker = await spawnWorker(require.resolve('./helpers/fixtures/module.js'));
  expect(await worker.release()).toEqual({ code: 0, signal: null });
});

test('a script runs to its end or is killed', async () => {
  const quick = await runScript('console.log(process.env.A, process.env.B); process.exitCode = 3', {
    env: { A: '1', B: undefined },
  });
  expect(quick).toMatchObject({ code: 3, signal: null, stdout: '1 undefined\n', stderr: '' });
  const stuck = await runScript('setInterval(() => {}, 1000)', { timeoutMs: 300 });
  expect(stuck).toMatchObject({ code: null, signal: 'SIGKILL' });
});

test('users and sessions are written as Studio writes them', async () => {
  const database = new Database();
  const session = await database.createSession({ expiresInSeconds: -5 });
  const [row] = await database.query(
    'SELECT token, expires_at < now() AS expired FROM platform.user_sessions WHERE id = $1',
    [session.id],
  );
  expect(row).toEqual({ token: hashOf(session.token), expired: true });
  const many = await database.createSessions(50);
  expect(await database.sessionExists(many[49].id)).toBe(true);
  await database.banUser(session.userId);
  await database.deleteUser(session.userId);
  await database.end();
});

test('Redis can be frozen, killed and restarted on its port', async () => {
  const redis = await startRedis({ args: ['--maxmemory', '5mb'] });
  expect(await redis.cli('CONFIG', 'GET', 'maxmemory')).toBe('maxmemory\n5242880');
  const { port, pid } = redis;
  await redis.kill();
  await expect(redis.cli('PING')).rejects.toThrow('ECONNREFUSED');
  await redis.restart({ args: ['--requirepass', 'secret'] });
  expect([redis.port, redis.pid === pid]).toEqual([port, false]);
  await expect(redis.cli('PING')).rejects.toMatchObject({ reply: expect.stringMatching(/^NOAUTH/) });
  await redis.restart({ args: [] });
  redis.freeze();
  const answer = redis.cli('PING');
  const first = await Promise.race([answer, new Promise((resolve) => setTimeout(resolve, 100, 'silence'))]);
  expect(first).toBe('silence');
  redis.thaw();
  expect(await answer).toBe('PONG');
  redis.freeze(); // a frozen server ends like any other
});

test('Postgres can be stopped and restarted with its data, with and without the defects', async () => {
  const postgres = await startPostgres({ settings: { log_statement: 'all' } });
  const database = new Database(postgres.url);
  const session = await database.createSession();
  await database.query("UPDATE platform.user_sessions SET user_agent = 'other'");
  await postgres.stop({ keep: true });
  await expect(database.query('SELECT 1')).rejects.toThrow();
  await postgres.restart();
  expect(await database.sessionExists(session.id)).toBe(true);
  await database.end();
  expect(postgres.log).toContain('INSERT INTO platform.user_sessions');

  const broken = new Database(await postgres.createDatabase({ defects: true }));
  await broken.createSession();
  await expect(broken.query("UPDATE platform.user_sessions SET user_agent = 'other'")).rejects.toThrow('updated_at');
  await broken.end();
  postgres.freeze();
});
