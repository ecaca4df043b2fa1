// What decides whether a number counts: `node --test`.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { scriptsIn, whyNot } from './asked.mjs';
import { BUSY, CASES, limitOf } from './cases.mjs';
import { PEERS } from './peers.mjs';
import { targets } from './targets.mjs';

const caseOf = (id) => CASES.find((each) => each.id === id);

test('scripts are counted however they are called, and nothing else is', () => {
  const info = [
    '# Commandstats',
    'cmdstat_evalsha:calls=40,usec=1,usec_per_call=1.00',
    'cmdstat_eval:calls=2,usec=1,usec_per_call=1.00',
    'cmdstat_fcall:calls=3,usec=1,usec_per_call=1.00',
    'cmdstat_evalsha_ro:calls=500,usec=1,usec_per_call=1.00',
    'cmdstat_get:calls=500,usec=1,usec_per_call=1.00',
  ].join('\r\n');
  assert.equal(scriptsIn(info), 45);
  assert.equal(scriptsIn('# Commandstats\r\n'), 0);
});

test('calls that did not reach Redis and were not known to be denied make a cell worthless', () => {
  const denied = caseOf('denied-100000-1');
  assert.equal(whyNot(denied, { asked: 100, local: 0, outages: 0 }), null);
  assert.equal(whyNot(denied, { asked: 30, local: 70, outages: 0 }), null);
  assert.match(whyNot(denied, { asked: 0, local: 0, outages: 0 }), /100 % of the calls did not reach Redis/);
  assert.match(whyNot(caseOf('allowed-1000-500'), { asked: 90, local: null, outages: 0 }), /10 %/);
});

test('one answer that came too late is enough, because the process decides as well from then on', () => {
  for (const id of ['denied-1-1', 'allowed-1-500', 'allowed-1000-50']) {
    assert.match(whyNot(caseOf(id), { asked: 100, local: 0, outages: 1 }), /too late/);
  }
});

test('calls that may be joined are fewer scripts, and what is in the process is none', () => {
  assert.equal(whyNot(caseOf('allowed-1-500'), { asked: 1, local: null, outages: 0 }), null);
  assert.equal(whyNot(caseOf('busy-500'), { asked: 60, local: null, outages: 0 }), null);
  assert.equal(whyNot(caseOf('process-allowed-1000'), { asked: null, local: null, outages: 0 }), null);
});

test('every peer has a limit in each of its cases, and no sliding window more than it may have', () => {
  for (const [peer, { only }] of Object.entries(PEERS)) {
    for (const each of CASES.filter(({ id }) => (only ?? [id]).includes(id))) {
      const { points, seconds } = limitOf({ ...each, peer });
      assert.ok(points >= 1 && seconds > 0, `${peer}, ${each.id}`);
      if (peer === 'sliding') assert.ok(points <= 100_000, each.id);
    }
  }
  assert.equal(limitOf({ ...caseOf('busy-50'), peer: 'sliding' }).points, BUSY.points);
});

const cell = (id, peer, rest) => ({ case: id, peer, round: 0, failed: 0, denied: null, ...rest });
const row = (cells, text) => targets(cells).find((each) => each.text.startsWith(text));

test('a target that was not measured is neither met nor missed', () => {
  assert.deepEqual([...new Set(targets([]).map(({ met }) => met))], [null]);
});

test('the slowest algorithm counts', () => {
  const cells = [['flexible', 100], ['gcra', 900], ['sliding', 400], ['fixed', 800]].map(([peer, throughput]) =>
    cell('allowed-1-500', peer, { throughput }),
  );
  const { measured, met } = row(cells, 'one hot key');
  assert.deepEqual([measured, met], ['4.00x (sliding window)', false]);
});

test('a sliding window that denies is fast for another reason', () => {
  const cells = (denied) => [cell('busy-50', 'flexible', { throughput: 100 }), cell('busy-50', 'sliding', { throughput: 300, denied })];
  assert.equal(row(cells(0), 'sliding window').met, true);
  assert.deepEqual(row(cells(40), 'sliding window').met, false);
});

test('rejected calls are not throughput that counts', () => {
  const cells = (failed) => [cell('http-1', 'none', { throughput: 100 }), cell('http-1', 'sliding', { throughput: 95, failed })];
  assert.equal(row(cells(0), 'HTTP, one client').met, true);
  assert.equal(row(cells(1), 'HTTP, one client').met, false);
});
