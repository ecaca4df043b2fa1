'use strict';

// Random sequences of commands, put to our client and to ioredis, each with a Redis of its own: every reply, every
// error and the data afterwards must be the same. 2,000 sequences, or 20,000 with SOAK=1.

const addon = require('./fixtures/functional/addon.js');
const { startRedis } = require('./helpers/servers.js');
const { openRedis } = require('./fixtures/functional/redis.js');
const { sequence, METHODS } = require('./fixtures/differential/generator.js');
const { COMMANDS } = require('./fixtures/differential/grammar.js');
const { sameOutcome } = require('./fixtures/differential/compare.js');
const { Duel } = require('./fixtures/differential/duel.js');
const { fight, fought } = require('./fixtures/differential/fight.js');
const { Outside } = require('./fixtures/differential/outside.js');
const { ours, ioredis } = require('./fixtures/differential/sides.js');

const SEQUENCES = process.env.SOAK ? 20_000 : 2000;
const ARGS = ['--enable-debug-command', 'yes'];

let servers;

beforeAll(async () => {
  servers = await Promise.all([startRedis({ args: ARGS }), startRedis({ args: ARGS })]);
});

const side = (name, index, made) => ({ name, side: made, outside: new Outside([openRedis(servers[index].url)]) });

describe('what is compared', () => {
  const error = (text, more) => Object.assign(new Error(text), more);
  const reply = (text) => error(`Redis at 127.0.0.1:1 answered: ${text}`, { code: 'ERR_REPLY' });

  test.each([
    ['null', null, undefined],
    ['text', 'a', 'b'],
    ['text and bytes', 'a', Buffer.from('a')],
    ['text and number', '1', 1],
    ['numbers', 1, 2],
    ['zeros', 0, -0],
    ['large numbers', 2 ** 60, 2 ** 60 + 2 ** 20],
    ['bytes', Buffer.from([0xff]), Buffer.from([0xfe])],
    ['an array', ['a'], 'a'],
    ['the order', ['a', 'b'], ['b', 'a']],
    ['nested', ['a', ['1']], ['a', '1']],
    ['more', ['a'], ['a', 'a']],
    ['an object', { a: '1' }, ['a', '1']],
    ['a value', { a: '1' }, { a: '2' }],
    ['a field', { a: '1' }, { b: '1' }],
    ['an error and its text', reply('ERR x'), 'ERR x'],
    ['the text of errors', reply('ERR x'), error('ERR y')],
    ['misuse and an answer', error('ERR x', { code: 'ERR_INVALID_ARG' }), error('ERR x')],
    ['a timeout', error('Command timed out', { code: 'ERR_TIMEOUT' }), error('Command timed out')],
  ])('%s can differ', (_, a, b) => {
    expect(sameOutcome('exact', a, b)).toBe(false);
    expect(sameOutcome('exact', b, a)).toBe(false);
    expect(sameOutcome('exact', [a], [b])).toBe(false);
    expect(sameOutcome('exact', a, a)).toBe(true);
  });

  test.each([
    ['unordered', ['a', 'b', 'b'], ['b', 'a', 'b'], ['b', 'a', 'a']],
    ['pairs', ['a', '1', 'b', '2'], ['b', '2', 'a', '1'], ['a', '2', 'b', '1']],
    ['scan', ['0', ['a', 'b']], ['0', ['b', 'a']], ['1', ['b', 'a']]],
    ['scanPairs', ['0', ['a', '1', 'b', '2']], ['0', ['b', '2', 'a', '1']], ['0', ['b', '1', 'a', '2']]],
    ['type', 1, 2, '2'],
    ['time', 10, 9, -1],
    ['exact', error('WRONGTYPE no'), reply('WRONGTYPE no'), reply('ERR no')],
    ['exact', 9007199254740993, 9007199254740992, 9007199254740000],
  ])('as %s, what may differ may', (as, a, b, other) => {
    expect(sameOutcome(as, a, b)).toBe(true);
    expect(sameOutcome(as, a, other)).toBe(false);
  });

  test('a seed is one sequence, and all commands and methods have their turn', () => {
    expect(sequence(7)).toEqual(sequence(7));
    expect(sequence(7)).not.toEqual(sequence(8));
    const steps = Array.from({ length: 2000 }, (_, seed) => sequence(seed))
      .flat()
      .flatMap((step) => step.commands ?? [step]);
    const called = new Set(steps.filter(({ via }) => via.startsWith('call')).map(({ name }) => name.toUpperCase()));
    const methods = new Set(steps.filter(({ via }) => via === 'method').map(({ name }) => name));
    expect([...called].sort()).toEqual([...new Set(COMMANDS.map(({ name }) => name))].sort());
    expect([...methods].sort()).toEqual([...Object.keys(METHODS), 'blpop', 'brpop'].sort());
  });
});

describe('ioredis against itself', () => {
  const fighters = () => [
    side('ioredis', 0, ioredis(openRedis(servers[0].url))),
    side('ioredis with RESP2', 1, ioredis(openRedis(servers[1].url, { protocol: 2 }))),
  ];

  test('has the same answers by RESP3 and by RESP2', async () => {
    expect(await fight(new Duel(fighters()), SEQUENCES / 10)).toBe('');
  });

  test.each([
    ['a reply', { get: async () => 'made up' }, (steps) => steps.some(({ name }) => name === 'get')],
    [
      'the data',
      {
        rpush: async function (key) {
          return this.rpush(key, 'x', 'x');
        },
      },
      (steps) => steps.some(({ name }) => name === 'rpush'),
    ],
  ])('%s that is made to differ is found, and few steps are told', async (_, faults) => {
    const [a, b] = fighters();
    const honest = b.side.client;
    b.side.client = new Proxy(honest, {
      get(target, name) {
        const value = faults[name] ?? target[name];
        return typeof value === 'function' ? value.bind(target) : value;
      },
    });
    const steps = sequence(3).filter(({ via }) => via !== 'pipeline' && via !== 'multi');
    const [name] = Object.keys(faults);
    const step = { via: 'method', name, args: ['l1', 'v'].slice(0, name === 'get' ? 1 : 2), as: 'exact' };
    const report = await new Duel([a, b]).report([...steps, step, ...steps], 3);
    expect(report).toMatch(new RegExp(`^DIFFERENTIAL_SEED=3: `));
    expect(report.split('\n').slice(3)).toEqual([expect.stringMatching(new RegExp(`^ +${name}\\(`))]);
  });
});

test(
  `ours against ioredis: ${SEQUENCES} sequences without a difference`,
  async () => {
    const client = addon.createRedisClient('differential', { connectionString: servers[0].url });
    const duel = new Duel([side('ours', 0, ours(client)), side('ioredis', 1, ioredis(openRedis(servers[1].url)))]);
    const differences = await fight(duel, SEQUENCES);
    await client.close();
    expect(differences).toBe('');
    expect(fought(duel, SEQUENCES)).toBe(true);
  },
  process.env.SOAK ? 3_600_000 : 300_000,
);
