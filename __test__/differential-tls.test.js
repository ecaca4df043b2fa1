'use strict';

// The random sequences of differential.test.js, through TLS: 200, or 2,000 with SOAK=1.

const addon = require('./fixtures/functional/addon.js');
const { startRedis } = require('./helpers/servers.js');
const { openRedis } = require('./fixtures/functional/redis.js');
const { makeFolder, removeFolder } = require('../scripts/services/keeping.cjs');
const { makeCertificates } = require('../scripts/services/certificates.cjs');
const { Duel } = require('./fixtures/differential/duel.js');
const { fight, fought } = require('./fixtures/differential/fight.js');
const { Outside } = require('./fixtures/differential/outside.js');
const { ours, ioredis } = require('./fixtures/differential/sides.js');

const SEQUENCES = process.env.SOAK ? 2000 : 200;

let folder;
let certificates;
let servers;

beforeAll(async () => {
  folder = await makeFolder('certificates');
  certificates = makeCertificates(folder);
  process.env.REDIS_CA_CERT = certificates.ca.certBase64;
  const options = { args: ['--enable-debug-command', 'yes'], tls: { certificates } };
  servers = await Promise.all([startRedis(options), startRedis(options)]);
});

afterAll(() => removeFolder(folder));

test(
  `ours against ioredis, both through TLS: ${SEQUENCES} sequences without a difference`,
  async () => {
    const open = ({ url }) => openRedis(url, { tls: { ca: certificates.ca.cert } });
    const client = addon.createRedisClient('differential', { connectionString: servers[0].url });
    const duel = new Duel([
      { name: 'ours', side: ours(client), outside: new Outside([open(servers[0])]) },
      { name: 'ioredis', side: ioredis(open(servers[1])), outside: new Outside([open(servers[1])]) },
    ]);
    const differences = await fight(duel, SEQUENCES);
    await client.close();
    expect(differences).toBe('');
    expect(fought(duel, SEQUENCES)).toBe(true);
  },
  process.env.SOAK ? 3_600_000 : 120_000,
);
