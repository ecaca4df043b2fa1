'use strict';

// The random sequences of differential.test.js, put to a Cluster by our client and to another one by ioredis.Cluster: half
// of them with all keys in one slot, half with keys everywhere. 300 sequences, or 3,000 with SOAK=1.

const { Cluster } = require('ioredis');
const addon = require('./fixtures/functional/addon.js');
const { openRedis } = require('./fixtures/functional/redis.js');
const { RedisCluster } = require('../scripts/services/cluster.cjs');
const { sequence } = require('./fixtures/differential/generator.js');
const { BY_KEY, ioredisCluster, keysApart } = require('./fixtures/differential/cluster-side.js');
const { Duel } = require('./fixtures/differential/duel.js');
const { fight, fought } = require('./fixtures/differential/fight.js');
const { Outside } = require('./fixtures/differential/outside.js');
const { ours } = require('./fixtures/differential/sides.js');

const SEQUENCES = process.env.SOAK ? 3000 : 300;
const ARGS = ['--enable-debug-command', 'yes'];

let clusters;
let theirs;

beforeAll(async () => {
  clusters = await Promise.all([RedisCluster.start({ args: ARGS }), RedisCluster.start({ args: ARGS })]);
  theirs = new Cluster(clusters[1].nodes.map(({ server }) => server.url));
  await new Promise((resolve, reject) => theirs.once('ready', resolve).once('error', reject));
});

afterAll(async () => {
  theirs?.disconnect();
  await Promise.all((clusters ?? []).map((cluster) => cluster.stop()));
});

/** In the order of their slots, which is the same in both. */
const outside = async (cluster) =>
  new Outside((await cluster.primaries()).map(({ server }) => openRedis(server.url)));

describe('the sequences', () => {
  const all = Array.from({ length: 1000 }, (_, seed) => sequence(seed, { cluster: true }));
  const slots = new Map();
  const slotsOf = async (keys) => {
    for (const key of keys.map(String)) if (!slots.has(key)) slots.set(key, await clusters[0].slotOf(key));
    return new Set(keys.map((key) => slots.get(String(key)))).size;
  };

  test('have their keys in one slot, or in many', async () => {
    const counts = [];
    for (const [{ commands }] of all) counts.push(await slotsOf(commands.map(({ args: [key] }) => key)));
    expect(counts.filter((count) => count === 1).length).toBeGreaterThan(200);
    expect(counts.filter((count) => count > 1).length).toBeGreaterThan(200);
  });

  test('have every command over several slots that one server would refuse', async () => {
    const names = new Set();
    for (const command of all.flat().flatMap((step) => step.commands ?? [step])) {
      if ((await slotsOf(keysApart(command))) > 1) names.add(command.name.toUpperCase());
    }
    expect([...names].sort()).toEqual(Object.keys(BY_KEY).sort());
  });
});

test(
  `ours against ioredis.Cluster: ${SEQUENCES} sequences without a difference`,
  async () => {
    const client = addon.createRedisClient('differential', { connectionString: clusters[0].url });
    const duel = new Duel([
      { name: 'ours', side: ours(client), outside: await outside(clusters[0]) },
      { name: 'ioredis.Cluster', side: ioredisCluster(theirs), outside: await outside(clusters[1]) },
    ]);
    const differences = await fight(duel, SEQUENCES, { cluster: true });
    await client.close();
    expect(differences).toBe('');
    expect(fought(duel, SEQUENCES)).toBe(true);
  },
  process.env.SOAK ? 3_600_000 : 120_000,
);
