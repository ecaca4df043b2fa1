'use strict';

// A client of a cluster is used as one of a single server: which of the servers has a key is nobody's business but the
// addon's. Where one server cannot do what is asked, a sentence says so.

const { isDeepStrictEqual } = require('node:util');
const addon = require('./fixtures/functional/addon.js');
const { startCluster, startRedis, freePort, until } = require('./helpers/servers.js');
const { rejection, withEnvironment } = require('./fixtures/functional/environment.js');
const { openClient } = require('./fixtures/client/open.js');
const { certificates, believing } = require('./fixtures/tls/certificates.js');
const { rolesAt, callsOf, errorsOf } = require('./fixtures/cluster/servers.js');

const PASSWORD = 'p@ss: w/ö%rd?#';
/** Enough that each server has some, and that most are alone in their slot. */
const KEYS = Array.from({ length: 200 }, (_, number) => `key ${number}`);
const RECORD = Object.fromEntries(KEYS.map((key, number) => [key, `value ${number}`]));

let cluster;
let guarded;
let primaries;
let client;

beforeAll(async () => {
  [cluster, guarded] = await Promise.all([
    startCluster({ replicas: 1 }),
    startCluster({ password: PASSWORD, tls: { certificates } }),
  ]);
  // Before the first call: it is for every server.
  Object.assign(process.env, believing());
  primaries = await cluster.primaries();
  client = openClient(cluster.url);
});

beforeEach(() => Promise.all(primaries.map((node) => node.ask('FLUSHALL'))));

const sizes = () => Promise.all(primaries.map(async (node) => Number(await node.ask('DBSIZE'))));

/** A key of each primary, in their order. */
async function keyOfEach(prefix = 'of') {
  const keys = [];
  for (const node of primaries) {
    for (let number = 0; ; number += 1) {
      const key = `${prefix} ${number}`;
      if ((await cluster.ownerOf(await cluster.slotOf(key))) !== node) continue;
      keys.push(key);
      break;
    }
  }
  return keys;
}

describe('the methods', () => {
  const METHODS = [
    ['set', ['k', 'v'], 'OK'],
    ['get', ['k'], 'v'],
    ['exists', ['k', 'missing', 'k'], 2],
    ['mset', [{ a: 1, b: 2, c: 3 }], 'OK'],
    ['mget', ['c', 'missing', 'a'], ['3', null, '1']],
    ['incr', ['a'], 2],
    ['incrby', ['a', 5], 7],
    ['decr', ['a'], 6],
    ['decrby', ['a', 2], 4],
    ['expire', ['a', 100], 1],
    ['ttl', ['missing'], -2],
    ['dbsize', [], 4],
    ['del', ['a', 'b', 'c', 'missing'], 3],
    ['hset', ['hash', { f: 1, g: 2 }], 2],
    ['hget', ['hash', 'f'], '1'],
    ['hgetall', ['hash'], { f: '1', g: '2' }],
    ['hexists', ['hash', 'g'], 1],
    ['hdel', ['hash', 'f', 'g'], 2],
    ['lpush', ['list', 'b', 'a'], 2],
    ['rpush', ['list', 'c', 'd', 'e', 'f'], 6],
    ['llen', ['list'], 6],
    ['lrange', ['list', 0, -1], ['a', 'b', 'c', 'd', 'e', 'f']],
    ['lpop', ['list'], 'a'],
    ['rpop', ['list'], 'f'],
    ['blpop', ['list', 1], ['list', 'b']],
    ['brpop', ['list', 1], ['list', 'e']],
    ['sadd', ['set', 'm'], 1],
    ['sismember', ['set', 'm'], 1],
    ['smembers', ['set'], ['m']],
    ['srem', ['set', 'm'], 1],
    ['zadd', ['sorted', 1, 'one', 2, 'two', 3, 'three'], 3],
    ['zrange', ['sorted', 0, 1, true], ['one', '1', 'two', '2']],
    ['zrangebyscore', ['sorted', 2, '+inf'], ['two', 'three']],
    ['zremrangebyscore', ['sorted', 3, 3], 1],
    ['zscore', ['sorted', 'two'], '2'],
    ['zrem', ['sorted', 'one'], 1],
    ['zcard', ['sorted'], 1],
    ['keys', ['sor*'], ['sorted']],
    ['eval', ['return { KEYS[1], ARGV[1] }', ['k'], ['x']], ['k', 'x']],
    ['eval', ['return ARGV[1]', [], ['x']], 'x'],
    ['call', ['STRLEN', 'k'], 1],
    ['callBuffer', ['GET', 'k'], Buffer.from('v')],
    ['ping', [], 'PONG'],
    ['publish', ['nobody', 'x'], 0],
    ['config', ['GET', 'cluster-enabled'], ['cluster-enabled', 'yes']],
    ['healthCheck', [], true],
    ['flushdb', [], 'OK'],
    ['flushall', [], 'OK'],
    ['dbsize', [], 0],
  ];
  const ELSEWHERE = [
    'constructor',
    'scan',
    'scanIterator',
    'subscribe',
    'psubscribe',
    'pipeline',
    'multi',
    'info',
    'close',
  ];
  const AT_ONCE = ['getPoolStats', 'getBreakerState'];

  test('each answers as a single server does', async () => {
    for (const [method, args, expected] of METHODS) {
      expect([method, await client[method](...args)]).toEqual([method, expected]);
    }
    expect(await client.info('server')).toMatch(/redis_mode:cluster/);
    const called = new Set([...METHODS.map(([method]) => method), ...ELSEWHERE, ...AT_ONCE]);
    expect(Object.getOwnPropertyNames(addon.RedisClientWrapper.prototype).filter((name) => !called.has(name))).toEqual(
      [],
    );
  });

  test('many keys are on many servers, and come back in order', async () => {
    expect(await client.mset(RECORD)).toBe('OK');
    expect(Math.min(...(await sizes()))).toBeGreaterThan(20);
    expect(await client.dbsize()).toBe(KEYS.length);
    const asked = KEYS.flatMap((key, number) => [key, `missing ${number}`]).reverse();
    expect(await client.mget(...asked)).toEqual(asked.map((key) => RECORD[key] ?? null));
    expect(await client.exists(...KEYS, ...KEYS)).toBe(2 * KEYS.length);
    expect(await client.call('TOUCH', ...KEYS)).toBe(KEYS.length);
    expect(await client.del(...KEYS.slice(50), 'missing')).toBe(KEYS.length - 50);
    expect(await client.call('unlink', ...KEYS)).toBe(50);
    expect(await sizes()).toEqual([0, 0, 0]);
  });

  test('one error of several parts is the answer', async () => {
    const [first, ...others] = await keyOfEach();
    await primaries[0].ask('CONFIG', 'SET', 'maxmemory', 1);
    try {
      const error = await rejection(() => client.mset(Object.fromEntries([first, ...others].map((key) => [key, 'v']))));
      expect(error).toMatchObject({ code: 'ERR_REPLY', reply: 'OOM' });
      // Not atomic over servers: the others have done their part.
      expect(await client.mget(first, ...others)).toEqual([null, 'v', 'v']);
    } finally {
      await primaries[0].ask('CONFIG', 'SET', 'maxmemory', 0);
    }
  });

  test('keys, scan and scanIterator see every server, each key once', async () => {
    await client.mset({ ...RECORD, other: 1 });
    expect((await client.keys('key *')).sort()).toEqual([...KEYS].sort());
    const seen = [];
    for await (const key of client.scanIterator('key *', 7)) seen.push(key);
    expect(seen.sort()).toEqual([...KEYS].sort());
    const [all, cursors] = [[], []];
    let cursor = 0;
    do {
      const [next, keys] = await client.scan(cursor, '*', 25);
      all.push(...keys);
      cursors.push((cursor = next));
    } while (cursor !== '0');
    expect(all.sort()).toEqual([...KEYS, 'other'].sort());
    expect(cursors.every((each) => /^\d+$/.test(each))).toBe(true);
    expect(new Set(cursors).size).toBe(cursors.length);
    // One that is of no server is at the end.
    expect(await client.scan('9999')).toEqual(['0', []]);
    expect(await rejection(() => client.scan('nonsense'))).toMatchObject({ code: 'ERR_REPLY' });
  });

  test("what is everybody's is done by every primary", async () => {
    expect(await client.config('SET', 'slowlog-max-len', 77)).toBe('OK');
    const lengths = primaries.map((node) => node.ask('CONFIG', 'GET', 'slowlog-max-len'));
    expect(await Promise.all(lengths)).toEqual(primaries.map(() => ['slowlog-max-len', '77']));
    const sha = await client.call('SCRIPT', 'LOAD', 'return 1');
    for (const node of primaries) expect(await node.ask('SCRIPT', 'EXISTS', sha)).toEqual([1]);
    await primaries[1].ask('SCRIPT', 'FLUSH');
    expect(await client.call('SCRIPT', 'EXISTS', sha, 'unknown')).toEqual([0, 0]);
    // A script that one server does not know is sent to it whole.
    const keys = await keyOfEach();
    for (const key of keys) expect(await client.eval('return KEYS[1]', [key], [])).toBe(key);
  });
});

describe('what has to be on one server', () => {
  test('a transaction of one slot is executed', async () => {
    const replies = await client
      .multi()
      .set('{tag}a', 1)
      .incr('{tag}a')
      .call('LLEN', '{tag}a')
      .mget('{tag}a', 'tag')
      .exec();
    expect(replies.map(([error, value]) => error?.reply ?? value)).toEqual(['OK', 2, 'WRONGTYPE', ['2', null]]);
    expect(await client.multi().ping().exec()).toEqual([[null, 'PONG']]);
  });

  test.each([
    ['a transaction', () => client.multi().set('secret a', 1).set('secret b', 2).exec(), /multi\(\).*\{tag\}/],
    ['DEL in a transaction', () => client.multi().del('secret a', 'secret b').exec(), /multi\(\).*\{tag\}/],
    ['a script', () => client.eval('return 1', ['secret a', 'secret b'], []), /script.*\{tag\}/],
    [
      'a script in a pipeline',
      () => client.pipeline().eval('return 1', ['secret a', 'secret b'], []).exec(),
      /script.*\{tag\}/,
    ],
    ['FLUSHALL in a transaction', () => client.multi().flushall().exec(), /FLUSHALL asks every primary/],
  ])('%s of several is refused, and nothing is sent', async (_, call, message) => {
    const error = await rejection(call);
    expect(error).toBeInstanceOf(RangeError);
    expect(error).toMatchObject({ code: 'ERR_INVALID_ARG', message: expect.stringMatching(message) });
    expect(error.message).not.toContain('secret');
    expect(await client.dbsize()).toBe(0);
  });

  test('others are refused by the server', async () => {
    await client.set('a', 1);
    const error = await rejection(() => client.call('RENAME', 'a', 'b'));
    expect(error).toMatchObject({ code: 'ERR_REPLY', reply: 'CROSSSLOT' });
    expect(await client.call('RENAME', 'a', '{a}2')).toBe('OK');
  });

  test('there is one database', async () => {
    for (const call of [
      () => openClient(`${cluster.url}/1`),
      () => openClient(cluster.url.replace('redis-cluster', 'redis')),
    ]) {
      expect(call).toThrow(expect.objectContaining({ code: 'ERR_INVALID_CONFIG' }));
    }
    const own = openClient(`${cluster.url}/0`);
    expect(await own.ping()).toBe('PONG');
    await own.close();
  });
});

test('a pipeline goes over all servers, and each command has its own answer', async () => {
  const batch = client.pipeline();
  for (const [key, value] of Object.entries(RECORD)) batch.set(key, value).get(key).del(key).get(key);
  batch
    .call('LPUSH', 'list', 'x')
    .incr('list')
    .mget('list', 'missing')
    .dbsize()
    .keys('l*')
    .call('NONSENSE', 'a')
    .ping();
  const answers = (await batch.exec()).map(([error, value]) => error?.reply ?? value);
  expect(answers.splice(0, 4 * KEYS.length)).toEqual(Object.values(RECORD).flatMap((value) => ['OK', value, 1, null]));
  expect(answers).toEqual([1, 'WRONGTYPE', [null, null], expect.any(Number), expect.any(Array), 'ERR', 'PONG']);
});

test('a message reaches whoever subscribed, wherever it was published', async () => {
  const [heard, matched] = [[], []];
  const subscription = await client.subscribe('news', (message) => heard.push(message));
  const pattern = await client.psubscribe('ne*', (message, channel) => matched.push([message, channel]));
  for (const [index, node] of cluster.nodes.entries()) await node.ask('PUBLISH', 'news', `from ${index}`);
  await client.publish('news', 'own');
  const expected = [...cluster.nodes.map((_, index) => `from ${index}`), 'own'].sort();
  await until(() => heard.length >= expected.length && matched.length >= expected.length, { what: 'every message' });
  expect([...heard].sort()).toEqual(expected);
  expect(matched.sort()).toEqual(expected.map((message) => [message, 'news']));
  await Promise.all([subscription.unsubscribe(), pattern.unsubscribe()]);
});

test('commands that wait, wait where their keys are, and hold up nobody', async () => {
  const keys = await keyOfEach('queue');
  const waiting = keys.map((key) => client.blpop(key, 30));
  const stream = client.call('XREAD', 'BLOCK', 30_000, 'STREAMS', 'stream', '0');
  const blocked = async () => {
    const counts = await Promise.all(primaries.map((node) => node.info('blocked_clients')));
    return counts.reduce((sum, count) => sum + Number(count), 0) === keys.length + 1;
  };
  await until(blocked, { what: 'the clients to wait' });
  expect(await client.ping()).toBe('PONG');
  for (const key of keys) await client.rpush(key, `for ${key}`);
  expect(await Promise.all(waiting)).toEqual(keys.map((key) => [key, `for ${key}`]));
  await client.call('XADD', 'stream', '1-1', 'f', 'v');
  expect(await stream).toEqual([['stream', [['1-1', ['f', 'v']]]]]);
  expect(await client.brpop(keys[0], 0.05)).toBe(null);
  const error = await rejection(() => client.call('BLPOP', ...keys, 1));
  expect(error).toMatchObject({ code: 'ERR_REPLY', reply: 'CROSSSLOT' });
});

test('whoever names the servers in another order shares the pool, which is bounded at each server', async () => {
  const others = [
    openClient(cluster.urlOf([...cluster.nodes].reverse())),
    openClient(cluster.urlOf([...cluster.nodes].reverse()).replace('redis-', 'valkey-')),
  ];
  const all = [client, ...others];
  for (let round = 0; round < 20; round += 1) {
    await Promise.all(all.flatMap((one) => KEYS.map((key) => one.set(key, 'v'))));
  }
  // What blocks, and what subscribes, is part of the pool. It may be about to grow, or to shrink.
  const agree = async () => {
    const roles = await Promise.all(cluster.nodes.map((node) => rolesAt(node, process)));
    const countOf = (...names) => roles.flat().filter((role) => names.includes(role)).length;
    const stats = { size: countOf('commands', 'blocking', 'subscriber'), available: countOf('commands'), pending: 0 };
    return all.every((one) => isDeepStrictEqual(one.getPoolStats(), stats)) && roles;
  };
  const roles = await until(agree, { what: 'the pool to be as the servers see it' });
  cluster.nodes.forEach((node, index) => {
    const commands = roles[index].filter((role) => role === 'commands').length;
    expect([index, commands <= 5, commands >= 1]).toEqual([index, true, primaries.includes(node)]);
  });
  await Promise.all(others.map((one) => one.close()));
  expect(await client.ping()).toBe('PONG');
});

describe('seeds', () => {
  test('one that answers is enough', async () => {
    const nobody = await freePort();
    const own = openClient(`redis-cluster://127.0.0.1:${nobody},127.0.0.1:${cluster.nodes.at(-1).port}`);
    expect(await own.mset(RECORD)).toBe('OK');
    expect(await own.mget(...KEYS)).toEqual(Object.values(RECORD));
    await own.close();
  });

  test('none that answers is an error that names them', async () => {
    const ports = [await freePort(), await freePort()].sort();
    const own = openClient(`redis-cluster://:hunter2@127.0.0.1:${ports[0]},127.0.0.1:${ports[1]}`);
    const error = await rejection(() => own.get('k'));
    expect(error).toMatchObject({ code: 'ERR_CONNECTION' });
    for (const port of ports) expect(error.message).toContain(`127.0.0.1:${port}`);
    expect(error.message).not.toContain('hunter2');
    expect(await own.healthCheck()).toBe(false);
    // The breaker belongs to the cluster, in whatever order its servers are named.
    const other = openClient(`redis-cluster://127.0.0.1:${ports[1]},127.0.0.1:${ports[0]}`);
    expect(other.getBreakerState()).toBe('closed');
    for (let call = 0; call < 12; call += 1) await rejection(() => own.get('k'));
    expect([own, other].map((one) => one.getBreakerState())).toEqual(['open', 'open']);
    expect(await rejection(() => other.get('k'))).toMatchObject({ code: 'ERR_CIRCUIT_OPEN' });
    await Promise.all([own, other].map((one) => one.close()));
  });

  test('a server that is no cluster says so', async () => {
    const plain = await startRedis();
    const own = openClient(plain.url.replace('redis:', 'redis-cluster:'));
    const error = await rejection(() => own.get('k'));
    expect(error.code).toMatch(/^ERR_(CONNECTION|REPLY|INVALID_CONFIG)$/);
    expect(error.message).toMatch(/cluster/i);
    await own.close();
  });

  test('a password opens every server, under TLS, and a wrong one none', async () => {
    expect(guarded.url).toMatch(/^rediss-cluster:/);
    const own = openClient(guarded.url);
    expect(await own.mset(RECORD)).toBe('OK');
    expect(await own.mget(...KEYS)).toEqual(Object.values(RECORD));
    // Where else to ask is told as well.
    const slot = await guarded.slotOf(KEYS[0]);
    const [first, second] = await guarded.primaries();
    await guarded.moveSlots([slot], (await guarded.ownerOf(slot)) === first ? second : first);
    expect(await own.get(KEYS[0])).toBe(RECORD[KEYS[0]]);
    await own.close();
    for (const password of [null, 'hunter2']) {
      const stranger = openClient(guarded.urlOf(undefined, { password }));
      const error = await rejection(() => stranger.get('k'));
      expect(error.code).toMatch(/^ERR_(REPLY|CONNECTION)$/);
      expect(error.message).toMatch(/NOAUTH|WRONGPASS/);
      expect(error.message).not.toContain('hunter2');
      expect(await stranger.healthCheck()).toBe(false);
      await stranger.close();
    }
  });
});

describe('a slot on its way', () => {
  /** A move of the slot of `{moving}` to another server, of which the client does not know. */
  async function begin() {
    const slot = await cluster.slotOf('{moving}');
    const from = await cluster.ownerOf(slot);
    const to = primaries[(primaries.indexOf(from) + 1) % primaries.length];
    const move = await cluster.beginMove(slot, to);
    const finish = async () => {
      await cluster.moveKeys(move);
      await cluster.finishMove(move);
    };
    return { ...move, finish };
  }
  const keys = ['{moving}a', '{moving}b'];

  test('what has arrived is asked for there, the rest where it was, and what needs both waits', async () => {
    await client.mset({ [keys[0]]: 1, [keys[1]]: 2 });
    const move = await begin();
    await cluster.moveKeys(move, { keys: [keys[0]] });
    const tryAgain = () => errorsOf(primaries, 'TRYAGAIN');
    const [asked, tried] = [await errorsOf(primaries, 'ASK'), await tryAgain()];
    expect(await client.get(keys[0])).toBe('1');
    expect(await client.get(keys[1])).toBe('2');
    // What is not there yet begins its life at the new place.
    expect(await client.set('{moving}new', 3)).toBe('OK');
    expect(await move.to.ask('CLUSTER', 'COUNTKEYSINSLOT', move.slot)).toBe(2);
    expect(await client.multi().incr(keys[0]).incr(keys[0]).exec()).toEqual([
      [null, 2],
      [null, 3],
    ]);
    expect(await client.eval("return redis.call('INCR', KEYS[1])", [keys[0]], [])).toBe(4);
    expect(await client.pipeline().get(keys[0]).get(keys[1]).get('{moving}new').exec()).toEqual([
      [null, '4'],
      [null, '2'],
      [null, '3'],
    ]);
    expect(await errorsOf(primaries, 'ASK')).toBeGreaterThan(asked);
    const both = client.mget(...keys);
    await until(async () => (await tryAgain()) > tried, { what: 'somebody to be told to try again' });
    await move.finish();
    expect(await both).toEqual(['4', '2']);
    await cluster.settled();
  });

  test('what leaves after it has arrived finds it, also what is written, in its order', async () => {
    await client.set(keys[0], 'x');
    await (await begin()).finish();
    const before = await errorsOf(primaries, 'MOVED');
    const calls = Array.from({ length: 20 }, (_, number) => client.call('APPEND', '{moving}log', `${number} `));
    const lengths = await Promise.all(calls);
    expect(lengths).toEqual([...lengths].sort((a, b) => a - b));
    expect(await client.get('{moving}log')).toBe(Array.from({ length: 20 }, (_, number) => `${number} `).join(''));
    expect(await client.multi().get(keys[0]).exec()).toEqual([[null, 'x']]);
    expect(await errorsOf(primaries, 'MOVED')).toBeGreaterThan(before);
    await cluster.settled();
  });

  test('who waits there goes on waiting at its new place', async () => {
    await client.set(keys[0], 'x');
    const waiting = client.blpop('{moving}queue', 30);
    const blocked = async (node) => Number(await node.info('blocked_clients')) === 1;
    const move = await begin();
    await until(async () => (await blocked(move.from)) || (await blocked(move.to)), { what: 'the client to wait' });
    await move.finish();
    await until(() => blocked(move.to), { what: 'the client to wait at the new place' });
    await client.rpush('{moving}queue', 'element');
    expect(await waiting).toEqual(['{moving}queue', 'element']);
    await cluster.settled();
  });
});

test('readFrom: replicas are read, primaries do all else, and answer where no replica does', async () => {
  const own = openClient(cluster.url, { readFrom: 'replica' });
  const replicas = cluster.nodes.filter((node) => !primaries.includes(node));
  await own.mset(RECORD);
  // A replica is behind by as much as it takes to hear of a write.
  const copied = async () =>
    (await Promise.all(KEYS.map((key) => own.get(key)))).every((value, at) => value === RECORD[KEYS[at]]);
  await until(copied, { what: 'the replicas to have every key' });
  const served = async (name) => {
    const [by, copies] = await Promise.all([callsOf(primaries, name), callsOf(replicas, name)]);
    return { by, copies };
  };
  const [before, strlen] = [await served('get'), await served('strlen')];
  expect((await Promise.all(KEYS.map((key) => own.get(key)))).length).toBe(KEYS.length);
  await own.call('STRLEN', KEYS[0]);
  const after = await served('get');
  expect(after.copies - before.copies).toBe(KEYS.length);
  expect(after.by).toBe(before.by);
  expect((await served('strlen')).copies).toBe(strlen.copies + 1);
  // Writes, transactions and scripts.
  const sets = await callsOf(primaries, 'set');
  await own.set('k', 'v');
  expect(await own.multi().get('k').exec()).toEqual([[null, 'v']]);
  expect(await own.eval("return redis.call('GET', KEYS[1])", ['k'], [])).toBe('v');
  expect(await callsOf(primaries, 'set')).toBe(sets + 1);
  expect((await served('get')).by).toBe(after.by + 2);
  // Replicas that are silent, and that are gone.
  for (const end of ['freeze', 'kill']) {
    for (const node of replicas) await node[end]();
    const answers = await Promise.all(KEYS.slice(0, 50).map((key) => own.get(key)));
    expect(answers).toEqual(KEYS.slice(0, 50).map((key) => RECORD[key]));
    for (const node of replicas) if (end === 'freeze') node.thaw();
  }
  for (const node of replicas) await node.restart();
  await cluster.settled({ replicas: 1 });
  const back = await served('get');
  await until(async () => (await own.get(KEYS[0]), (await served('get')).copies > back.copies), {
    what: 'a replica to be asked again',
  });
  await own.close();
});

test('limits are exact, each on the server of its key, and are cleared everywhere', async () => {
  await withEnvironment({ REDIS_URL: cluster.url }, async () => {
    for (const algorithm of ['sliding-window', 'token-bucket', 'fixed-window']) {
      const identities = Array.from({ length: 20 }, (_, number) => `user:${number}`);
      const check = (identity) => addon.checkLimit(identity, 3, 3600, { algorithm });
      const rounds = await Promise.all(
        identities.map((identity) => Promise.all([1, 2, 3, 4, 5].map(() => check(identity)))),
      );
      const allowed = rounds.map((round) => round.filter((each) => each.allowed).length);
      expect([algorithm, allowed]).toEqual([algorithm, identities.map(() => 3)]);
    }
    const metrics = Object.values(addon.getRateLimitMetrics());
    expect(metrics.reduce((sum, { answeredInOutage }) => sum + answeredInOutage, 0)).toBe(0);
    expect(Math.min(...(await sizes()))).toBeGreaterThan(5);
    await addon.clearRateLimits();
    expect(await sizes()).toEqual([0, 0, 0]);
  });
});

test('a cluster that has lost a part says so, and serves again when it is back', async () => {
  const own = openClient(guarded.url);
  await own.mset(RECORD);
  const [lost, ...others] = await guarded.primaries();
  const keyOf = async (wanted) => {
    for (const key of KEYS) if (wanted.includes(await guarded.ownerOf(await guarded.slotOf(key)))) return key;
    throw new Error('No key is there.');
  };
  const [gone, there] = [await keyOf([lost]), await keyOf(others)];
  await lost.kill();
  expect((await rejection(() => own.get(gone))).code).toMatch(/^ERR_(CONNECTION|TIMEOUT)$/);
  const down = async (node) => `${await node.ask('CLUSTER', 'INFO')}`.includes('cluster_state:fail');
  await until(async () => (await Promise.all(others.map(down))).every(Boolean), { what: 'the others to notice' });
  const error = await rejection(() => own.get(there));
  expect(error).toMatchObject({ code: 'ERR_REPLY', reply: 'CLUSTERDOWN' });
  await lost.restart();
  await guarded.settled();
  const back = async () => (await own.set(gone, 'again').catch(() => null)) === 'OK';
  await until(back, { what: 'the lost part to be served', everyMs: 500 });
  expect(await own.mget(gone, there)).toEqual(['again', RECORD[there]]);
  await own.close();
});

test('close() ends every connection to every server', async () => {
  await client.close();
  await until(
    async () => (await Promise.all(cluster.nodes.map((node) => rolesAt(node, process)))).flat().length === 0,
    {
      what: 'the last connection to end',
    },
  );
});
