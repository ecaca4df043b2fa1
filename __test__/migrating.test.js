'use strict';

// What docs/migrating-studio.md tells Studio to do: its samples compile before the move and after it, its SQL makes the
// role that they need, and they do what the page says.

const { execFileSync, spawn } = require('node:child_process');
const { once } = require('node:events');
const { existsSync, mkdtempSync, readFileSync, realpathSync, rmSync } = require('node:fs');
const { tmpdir } = require('node:os');
const path = require('node:path');
const Redis = require('ioredis');
const { Database } = require('./helpers/database.js');
const { startPostgres, startRedis, until } = require('./helpers/servers.js');
const { after, before, blocks, compile, page, write } = require('./fixtures/migrating/samples.js');

const root = path.join(__dirname, '..');
const PREFIXES = /^(?:REDIS|DATABASE|SESSION|RATE|NEXT)_/;

let folder;
let complaints;
let database;
let roleUrl;
let redisServer;
let app;

beforeAll(async () => {
  folder = mkdtempSync(path.join(realpathSync(tmpdir()), 'studio-redis-native-migrating-'));
  redisServer = await startRedis();
  const postgres = await startPostgres();
  // With both defects that Studio's schema has today.
  database = new Database(await postgres.createDatabase({ defects: true }));
  for (const sql of blocks('sql')) await database.query(sql);
  for (const [, file] of page.matchAll(/-f node_modules\/@studio\/redis-native\/(\S+\.sql)/g))
    await database.query(readFileSync(path.join(root, file), 'utf8'));
  roleUrl = new URL(database.url);
  roleUrl.username = 'studio_sessions';
  complaints = compile(write(path.join(folder, 'after'), after));
});

afterAll(async () => {
  app?.kill('SIGKILL');
  await database.end();
  rmSync(folder, { recursive: true, force: true });
});

/** The variables of the page, with the servers of this test. */
function environment(extra) {
  const own = Object.entries(process.env).filter(([name]) => !PREFIXES.test(name));
  const told = blocks('ini')[0]
    .trim()
    .split('\n')
    .map((line) => line.split(/=(.*)/).slice(0, 2));
  const servers = { REDIS_URL: redisServer.url, DATABASE_URL: roleUrl.href };
  return { ...Object.fromEntries([...own, ...told]), ...servers, ...extra };
}

const runSample = (file) =>
  execFileSync(process.execPath, [path.join(folder, 'after', 'out', file)], { env: environment(), encoding: 'utf8' });

describe('the samples', () => {
  test('compile before the move', () => {
    expect(Object.keys(before).length).toBeGreaterThan(5);
    expect(compile(write(path.join(folder, 'before'), before, { old: true }))).toBe('');
  });

  test('compile after it, without the modules that go away', () => {
    expect(Object.keys(after).length).toBeGreaterThan(10);
    expect(complaints).toBe('');
  });

  test('TypeScript finds the await that is missing in sign-in', () => {
    const wrong = {
      ...after,
      'pages/api/auth/signin.ts': after['pages/api/auth/signin.ts'].replace('await checkRateLimit', 'checkRateLimit'),
    };
    expect(compile(write(path.join(folder, 'wrong'), wrong))).toMatch(
      /^pages\/api\/auth\/signin\.ts\(\d+,\d+\): error TS2801: .*\n$/,
    );
  });

  test('the search for call sites finds every file that changes', () => {
    const [search] = blocks('sh');
    const lines = search
      .trim()
      .split('\n')
      .map((line) => line.replace(/(?: (?:lib|pages|scripts|tests))+$/, ' lib pages'));
    const found = lines
      .map((line) => execFileSync('sh', ['-c', line], { cwd: path.join(folder, 'before'), encoding: 'utf8' }))
      .join('');
    for (const file of Object.keys(before)) expect(found).toContain(`${file}:`);
  });

  test('every link leads somewhere', () => {
    const slug = (title) =>
      title
        .toLowerCase()
        .replace(/[^a-z0-9 -]/g, '')
        .replaceAll(' ', '-');
    const anchorsOf = (text) => [...text.matchAll(/^#+ (.*)$/gm)].map(([, title]) => slug(title));
    for (const [, link, anchor] of page.matchAll(/\]\(([^)#]*)#?([^)]*)\)/g)) {
      const file = path.join(root, 'docs', link || 'migrating-studio.md');
      expect([file, existsSync(file)]).toEqual([file, true]);
      if (anchor) expect(anchorsOf(readFileSync(file, 'utf8'))).toContain(anchor);
    }
  });
});

describe('Studio after the move', () => {
  let base;

  /** A request with a token; resolves with status, body and headers. */
  async function ask(route, token, { body, ...options } = {}) {
    const headers = { ...(token ? { authorization: `Bearer ${token}` } : {}), connection: 'close' };
    const response = await fetch(base + route, { headers, body: body && JSON.stringify(body), ...options });
    const text = await response.text();
    return { status: response.status, headers: response.headers, body: text.startsWith('{') ? JSON.parse(text) : text };
  }

  beforeAll(async () => {
    const args = [path.join(__dirname, 'fixtures', 'migrating', 'serve.js'), path.join(folder, 'after')];
    app = spawn(process.execPath, args, {
      env: environment({ SESSION_CACHE_ENABLED: 'true' }),
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    app.log = '';
    app.stderr.on('data', (chunk) => (app.log += chunk));
    const [port] = await once(app.stdout, 'data');
    base = `http://127.0.0.1:${Number(port)}`;
  });

  test('validates, lists, signs out everywhere else, and signs out', async () => {
    const user = await database.createUser();
    const [here, there] = [await database.createSession({ user }), await database.createSession({ user })];
    expect(await ask('/api/auth/validate', here.token)).toMatchObject({
      status: 200,
      body: { session: { id: here.id, userId: user.id } },
    });
    expect(await ask('/api/auth/validate', 'nobody')).toMatchObject({ status: 401 });
    expect((await ask('/api/auth/sessions', here.token)).body.sessions).toHaveLength(2);
    expect(await ask('/api/auth/sessions', here.token, { method: 'DELETE' })).toMatchObject({ body: { revoked: 1 } });
    expect(await ask('/api/auth/validate', there.token)).toMatchObject({ status: 401 });
    expect(await ask('/api/auth/signout', here.token, { method: 'POST' })).toMatchObject({
      status: 200,
      body: { success: true },
    });
    expect(await ask('/api/auth/validate', here.token)).toMatchObject({ status: 401 });
    expect(await database.sessionExists(here.id)).toBe(false);
  });

  test('refreshes: the old token is dead', async () => {
    const session = await database.createSession();
    expect(await ask('/api/auth/validate', session.token)).toMatchObject({ status: 200 });
    const { status, body } = await ask('/api/auth/refresh', session.token, { method: 'POST' });
    expect(status).toBe(200);
    expect(await ask('/api/auth/validate', session.token)).toMatchObject({ status: 401 });
    expect(await ask('/api/auth/validate', body.token)).toMatchObject({
      status: 200,
      body: { session: { id: session.id } },
    });
    expect(await ask('/api/auth/refresh', session.token, { method: 'POST' })).toMatchObject({ status: 401 });
  });

  test('limits attempts to sign in, and forgets them after one that succeeded', async () => {
    const signIn = async (email, password) =>
      (await ask('/api/auth/signin', null, { method: 'POST', body: { email, password } })).status;
    const wrong = async (email, times) => {
      const statuses = [];
      while (statuses.length < times) statuses.push(await signIn(email, 'wrong'));
      return statuses;
    };
    expect(await wrong('ada@example.com', 4)).toEqual([401, 401, 401, 401]);
    expect(await signIn('ada@example.com', 'correct')).toBe(200);
    expect(await wrong('ada@example.com', 6)).toEqual([401, 401, 401, 401, 401, 429]);
    expect(await signIn('ada@example.com', 'correct')).toBe(429);
  });

  test("limits requests, with Studio's own class and the header", async () => {
    const answers = [];
    for (let call = 0; call < 21; call += 1) answers.push(await ask('/search'));
    expect(answers.slice(0, 20).every(({ status }) => status === 200)).toBe(true);
    const { status, headers } = answers.at(-1);
    expect(status).toBe(429);
    expect(headers.get('x-error')).toBe('TooManyRequestsError');
    expect(Number(headers.get('retry-after'))).toBeGreaterThan(0);
  });

  test('asks any Redis, and tells of its health and its numbers', async () => {
    for (let call = 0; call < 3; call += 1) {
      const { status, body } = await ask('/api/v2/redis/[databaseId]/info');
      expect(status).toBe(200);
      expect(body.info).toContain('redis_version');
    }
    const health = {
      status: 'healthy',
      redis: { connected: true, breaker: 'closed' },
      sessionCache: { healthy: true, metrics: { enabled: true } },
    };
    expect(await ask('/api/health/redis')).toMatchObject({ status: 200, body: health });
    const { body: metrics } = await ask('/metrics');
    expect(metrics).toContain('circuit_breaker_state{database_type="redis"} 0\n');
    expect(metrics).toMatch(/^rate_limit_total\{name="search",answer="denied"\} 1$/m);
    for (const line of metrics.trimEnd().split('\n')) expect(line).toMatch(/^[a-z_]+\{([a-z_]+="[^"]*",?)+\} \d+$/);
  });

  test('validates and limits in the wrapper of the routes', async () => {
    const { token, userId } = await database.createSession();
    const { status, headers, body } = await ask('/api/v2/anything', token);
    expect({ status, body, remaining: headers.get('x-ratelimit-remaining') }).toEqual({
      status: 200,
      body: { userId },
      remaining: '99',
    });
    expect(await ask('/api/v2/anything', 'nobody')).toMatchObject({ status: 401 });
    for (let call = 1; call < 100; call += 1) await ask('/api/v2/anything', token);
    expect(await ask('/api/v2/anything', token)).toMatchObject({ status: 429, body: { error: 'Too many requests' } });
  });

  test('keeps a list in Redis, and forgets it by a scan', async () => {
    const redis = new Redis(redisServer.url);
    expect(await ask('/audit')).toMatchObject({ body: { logs: [] } });
    expect(await redis.get('audit:one:{}')).toBe('[]');
    await redis.set('audit:two:{}', '[]');
    const log = { orgId: 'one', text: 'hello' };
    expect(await ask('/audit', null, { method: 'POST', body: log })).toMatchObject({ body: { logs: [log] } });
    expect(await redis.exists('audit:two:{}')).toBe(1);
    redis.disconnect();
  });

  test('follows a channel until the other end leaves', async () => {
    const redis = new Redis(redisServer.url);
    const listeners = async () => (await redis.pubsub('NUMSUB', 'project:one:events'))[1];
    const leaving = new AbortController();
    const response = fetch(`${base}/follow`, { signal: leaving.signal });
    await until(async () => (await listeners()) === 1, { what: 'the subscription' });
    await redis.publish('project:one:events', 'news');
    const reader = (await response).body.getReader();
    expect(Buffer.from((await reader.read()).value).toString()).toBe('news');
    leaving.abort();
    await until(async () => (await listeners()) === 0, { what: 'the end of the subscription' });
    redis.disconnect();
  });

  test('takes what the old code has left in Redis for a miss, and signs out of both', async () => {
    const redis = new Redis(redisServer.url);
    const sessions = [await database.createSession(), await database.createSession()];
    const keys = sessions.map(({ hash }) => `session:${hash}`);
    await redis.hset(keys[0], { id: 'wrong', userId: 'wrong', token: sessions[0].hash });
    await redis.set(keys[1], JSON.stringify({ id: 'wrong' }), 'EX', 300);
    for (const { token, id } of sessions)
      expect(await ask('/api/auth/validate', token)).toMatchObject({ body: { session: { id } } });
    await until(async () => (await redis.hexists(keys[0], 'session')) && (await redis.hexists(keys[1], 'session')), {
      what: 'copies',
    });
    // An old instance writes once more, over the copy of the new one.
    await redis.hset(keys[0], { id: 'wrong', userId: 'wrong' });
    for (const { token } of sessions)
      expect(await ask('/api/auth/signout', token, { method: 'POST' })).toMatchObject({ status: 200 });
    await until(async () => (await redis.exists(...keys)) === 0, { what: 'the end of all copies' });
    redis.disconnect();
  });

  test('hears of a sign-out by SQL, as the old code does it', async () => {
    const session = await database.createSession();
    const answer = async () => (await ask('/api/auth/validate', session.token)).status;
    await until(
      async () =>
        (await answer()) === 200 && /cache_hits_total\{[^}]*process"\} [1-9]/.test((await ask('/metrics')).body),
      { what: 'a hit' },
    );
    await database.query('DELETE FROM platform.user_sessions WHERE token = $1', [session.hash]);
    await until(async () => (await answer()) === 401, { deadlineMs: 5000, what: 'the news' });
  });

  test('on SIGTERM answers what is under way, writes the activity and ends', async () => {
    const session = await database.createSession({ lastActivityAt: '2001-01-01T00:00:00Z' });
    expect(await ask('/api/auth/validate', session.token)).toMatchObject({ status: 200 });
    const begun = once(app.stdout, 'data');
    const slow = ask('/slow');
    await begun;
    app.kill('SIGTERM');
    const exited = once(app, 'exit');
    expect(await slow).toMatchObject({ status: 200, body: 'done' });
    expect(await exited).toEqual([0, null]);
    const [{ last }] = await database.query(
      'SELECT last_activity_at AS last FROM platform.user_sessions WHERE id = $1',
      [session.id],
    );
    expect(last.getFullYear()).toBeGreaterThan(2001);
    // What the old code has left in Redis is all that there is to complain of.
    const messages = app.log
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line).message);
    for (const message of messages) expect(message).toContain('an entry of the session cache is unreadable');
  });
});

describe('the scripts', () => {
  test('upkeep deletes what has expired and what is unused', async () => {
    await database.query('UPDATE platform.user_sessions SET last_activity_at = now()');
    await database.createSession({ expiresInSeconds: -60 });
    await database.createSession({ lastActivityAt: '2001-01-01T00:00:00Z' });
    expect(runSample('scripts/upkeep.js')).toBe('expired: 1, inactive: 1\n');
  });

  test('keys with a raw token go, the others stay', async () => {
    const redis = new Redis(redisServer.url);
    const good = `session:${'a'.repeat(64)}`;
    await redis.mset('session:a-raw-token', 'x', good, 'x', 'other', 'x');
    runSample('scripts/remove-raw-tokens.js');
    expect(await redis.exists('session:a-raw-token')).toBe(0);
    expect(await redis.exists(good, 'other')).toBe(2);
    redis.disconnect();
  });
});
