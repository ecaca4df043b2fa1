'use strict';

// A cluster that changes while sessions are validated and ended, limits are checked and commands run, in two processes:
// nobody is turned away, nobody who was signed out comes back, nobody is limited who is not to be. The cases run side by
// side, each with servers and processes of its own, because they mostly wait.

const { startPostgres, sleep, until } = require('./helpers/servers.js');
const { errorsOf } = require('./fixtures/cluster/servers.js');
const { Moves } = require('./fixtures/cluster/moves.js');

let postgres;

beforeAll(async () => {
  postgres = await startPostgres({ settings: { max_connections: '500' } });
});

/** How long a slot stays half moved: its keys are in two places, and commands are answered ASK or TRYAGAIN. */
const HALF_MOVED_MS = 1000;

/** Moves slots that are in use, all of them half at first. */
async function moveSlotsInUse(cluster, moves) {
  const slots = await moves.slotsInUse();
  const primaries = await cluster.primaries();
  const begun = [];
  for (const slot of slots) {
    const from = await cluster.ownerOf(slot);
    const to = primaries[(primaries.indexOf(from) + 1) % primaries.length];
    begun.push(await cluster.beginMove(slot, to));
  }
  for (const [index, move] of begun.entries()) if (index % 2) await cluster.moveKeys(move);
  await sleep(HALF_MOVED_MS);
  expect(await errorsOf(primaries, 'ASK')).toBeGreaterThan(0);
  for (const move of begun) {
    await cluster.moveKeys(move);
    await cluster.finishMove(move);
  }
  await cluster.settled();
  await until(async () => (await errorsOf(primaries, 'MOVED')) > 0, { what: 'somebody to be told of a move' });
}

/** A server joins, and takes slots that are in use and some that are not. */
async function newcomer(cluster, moves) {
  const node = await cluster.addPrimary();
  const others = Array.from({ length: 40 }, (_, number) => number * 409);
  await cluster.moveSlots([...new Set([...(await moves.slotsInUse()), ...others])], node);
  await cluster.settled();
}

async function killOne(cluster) {
  const [first] = await cluster.primaries();
  await first.kill();
  await cluster.replaced(first);
}

/** A replica takes over, as its primary agrees. */
async function takeOver(cluster) {
  const [first] = await cluster.primaries();
  const [replica] = await cluster.replicasOf(first);
  await cluster.failover(replica);
  await cluster.settled({ replicas: 1 });
}

const TITLES = {
  'slots that are in use move, and a new server takes some': {
    changes: { 'slots move': { change: moveSlotsInUse }, 'a new server': { change: newcomer } },
  },
  'a replica takes over by plan, gives it back, and takes over because its primary was killed': {
    replicas: 1,
    changes: {
      'by plan': { change: takeOver, mayFail: true },
      'back again': { change: takeOver, mayFail: true },
      killed: { change: killOne, mayFail: true },
    },
  },
};

test.concurrent.each(Object.keys(TITLES))(
  '%s',
  async (title) => {
    const { changes, replicas } = TITLES[title];
    const moves = await Moves.open({ postgres, replicas });
    await moves.run(title, changes);
    await moves.judge();
    await moves.close();
  },
  180_000,
);
