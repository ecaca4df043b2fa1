'use strict';

// A server that is none: answers and pushes that no Redis would send. Postgres answers all the same.

const { Database } = require('./helpers/database.js');
const { addon, here, ready, validate } = require('./fixtures/sessions/steps.js');
const { startRedis, startFakeRedis, startProxy, until } = require('./helpers/servers.js');
const { spawnWorker } = require('./helpers/process.js');
const { openRedis, untilCopied } = require('./fixtures/functional/redis.js');

const CRLF = '\r\n';
const bulk = (text) => `$${Buffer.byteLength(text)}${CRLF}${text}${CRLF}`;
const array = (...parts) => `*${parts.length}${CRLF}${parts.join('')}`;
const number = (value) => `:${value}${CRLF}`;
const MEGABYTE = 1024 * 1024;

let database;
let fake;
/** A real one, for what a proxy in front of it adds. */
let server;

beforeAll(async () => {
  process.env.REDIS_KEY_PREFIX = 'hostile-replies:';
  database = new Database();
  server = await startRedis();
  addon.setLogHandler(() => {});
});

beforeEach(async () => {
  await addon.shutdown();
  fake = await startFakeRedis();
  process.env.REDIS_URL = fake.url;
});

afterEach(async () => {
  await addon.shutdown();
  await fake.close();
});

afterAll(() => database.end());

/** Answers every script with what `make` gives for the token's hash, and everything else rightly. */
const answerScripts = (make) => {
  fake.misbehave = (right, words, socket) => (/^EVAL/.test(words[0]) ? make(words[3]?.split(':').at(-1), socket) : right);
};

const REPLIES = {
  nothing: () => `_${CRLF}`,
  'an empty list': () => array(),
  'a number': () => number(1),
  'one of two': () => array(number(1)),
  'one too many': (hash) => array(number(1), bulk(`{"token":"${hash}"}`), number(1), number(1), number(1), number(1)),
  'null for a session': () => array(number(1), `_${CRLF}`),
  'a number for a session': () => array(number(1), number(5)),
  'an empty session': () => array(number(1), bulk('')),
  'no session': (hash) => array(number(1), bulk(`{"token":"${hash}"}`)),
  'a list for a session': () => array(number(1), array(bulk('x'))),
  'another word than 0 and 1': () => array(number(2), bulk('x'), bulk('y'), bulk('5')),
  'a huge number': () => array(number('9223372036854775807'), bulk('x'), bulk('y'), bulk('5')),
  'a lease of numbers': () => array(number(0), number(1), number(2), number(3)),
  'a lease without a time': () => array(number(0), bulk('n'), bulk('r'), bulk('')),
  'a lease of strange times': () => array(number(0), bulk('n'), bulk('r'), bulk('-1e309')),
  'a lease of nulls': () => array(number(0), `_${CRLF}`, `_${CRLF}`, `_${CRLF}`),
  'a lease of 1 MB': () => array(number(0), bulk('n'.repeat(MEGABYTE)), bulk('r'), bulk('5')),
  'a map': () => `%1${CRLF}${bulk('a')}${number(1)}`,
  'a set': () => `~1${CRLF}${number(1)}`,
  'a truth': () => `#t${CRLF}`,
  'a fraction': () => `,inf${CRLF}`,
  'an error': () => `-ERR on purpose${CRLF}`,
  'no script again and again': () => `-NOSCRIPT on purpose${CRLF}`,
  'an error with a token in it': (hash) => `-ERR ${hash}${CRLF}`,
};

test.each(Object.keys(REPLIES))('%s: Postgres answers', async (name) => {
  answerScripts(REPLIES[name]);
  const sessions = [await database.createSession(), await database.createSession()];
  for (let round = 0; round < 3; round += 1) {
    for (const session of sessions) expect(await validate(here, session)).toMatchObject({ id: session.id });
    expect(await validate(here, { token: `unknown ${round}` })).toBe(null);
  }
  expect(await addon.revokeSessionByToken(sessions[0].token)).toBe(true);
  expect(await validate(here, sessions[0])).toBe(null);
  expect(await validate(here, sessions[1])).toMatchObject({ id: sessions[1].id });
});

describe('strange news on the session connection', () => {
  const push = (...parts) => `>${parts.length}${CRLF}${parts.join('')}`;
  const key = (hash) => bulk(`hostile-replies:session:${hash}`);

  /** What a hostile server says between the replies of a real one, through the bytes of the connection. */
  const PUSHES = {
    'of a number': () => push(bulk('invalidate'), number(5)),
    'of a text': () => push(bulk('invalidate'), bulk('x')),
    'of nothing': () => push(bulk('invalidate')),
    'without a name': () => push(number(1), array()),
    'of an empty list': () => push(bulk('invalidate'), array()),
    'of keys that are none': () => push(bulk('invalidate'), array(number(1), `_${CRLF}`, array(bulk('x')), bulk(''))),
    'of keys of others': () => push(bulk('invalidate'), array(bulk('session:'), bulk('other:session:x'), bulk('hostile-replies:session:'))),
    'of hashes that are none': () => push(bulk('invalidate'), array(key('x'), key('z'.repeat(64)), key('A'.repeat(64)), key('0'.repeat(63)))),
    'of bytes that are no text': () => Buffer.concat([Buffer.from(`>2${CRLF}${bulk('invalidate')}*1${CRLF}$3${CRLF}`), Buffer.from([0xff, 0, 0xfe]), Buffer.from(CRLF)]),
    'of 10,000 keys': () => push(bulk('invalidate'), array(...Array.from({ length: 10_000 }, (_, index) => key(`${index}`.padStart(64, '0'))))),
    'of a key of 1 MB': () => push(bulk('invalidate'), array(key('0'.repeat(MEGABYTE)))),
    'of another kind': () => push(bulk('message'), bulk('channel'), bulk('text')) + push(bulk('server-cpu-usage'), number(5)),
  };

  test.each(Object.keys(PUSHES))('%s', async (name) => {
    const redis = openRedis(server.url);
    const proxy = await startProxy(server.port);
    const session = await database.createSession();
    const worker = await spawnWorker(undefined, { REDIS_URL: proxy.url('redis') });
    await ready(worker, database);
    await validate(worker, session);
    await untilCopied(redis, session);
    // Before every answer of the server, from now on.
    let said = 0;
    proxy.onData = (direction, chunk) => {
      if (direction !== 'toClient') return undefined;
      said += 1;
      return Buffer.concat([Buffer.from(PUSHES[name]()), chunk]);
    };
    for (let call = 0; call < 20; call += 1) expect(await validate(worker, session)).toMatchObject({ id: session.id });
    await until(async () => {
      await worker.call('sessionCacheHealthCheck');
      return said > 2;
    }, { what: 'the news' });
    expect(await worker.call('revokeSessionByToken', session.token)).toBe(true);
    expect(await validate(worker, session)).toBe(null);
    proxy.onData = null;
    expect(await worker.call('shutdown')).toBe(undefined);
    expect(await worker.release()).toEqual({ code: 0, signal: null });
  });
});

test('entries of 1 MB that are none fill no memory', async () => {
  const redis = openRedis(server.url);
  const sessions = await database.createSessions(150);
  const worker = await spawnWorker(require.resolve('./fixtures/sessions/weighed.js'), { REDIS_URL: server.url });
  const info = await redis.info('server');
  const run = info.match(/run_id:(\w+)/)[1];
  const flood = async (some) => {
    for (const session of some) {
      const [seconds] = (await redis.time()).map(Number);
      const junk = `{"token":"${session.hash}","more":"${'x'.repeat(MEGABYTE)}"}`;
      const key = `hostile-replies:session:${session.hash}`;
      await redis.hset(key, { version: '1', run, t0: `${seconds * 1e6}`, end: `${(seconds + 60) * 1e6}`, session: junk });
      expect(await validate(worker, session)).toMatchObject({ id: session.id });
      await redis.del(key);
    }
  };
  await flood(sessions.slice(0, 30));
  const before = await worker.call('residentBytes');
  await flood(sessions.slice(30));
  expect((await worker.call('residentBytes')) - before).toBeLessThan(48 * MEGABYTE);
});
