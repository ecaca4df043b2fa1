'use strict';

// What the fault tests stand on: a session that comes back, or somebody who is turned away, is not overlooked.

const { verdict } = require('./fixtures/faults/verdict.js');

const MS = 1000;
const ENDED = { way: 'by token', called: 100 * MS, resolved: 110 * MS };

/** What one process saw of one token, which it ended itself (`own`), or somebody else (`ending`), or nobody. */
function of({ seen, ending, own, stranger = false }) {
  const fresh = { accepted: 1, refused: 0, lastAccepted: 50 * MS, firstRefused: Infinity };
  return verdict({
    witnesses: [
      { name: 'one', seen: new Map([['token', { ...fresh, ...seen }]]), own: new Map(own && [['token', own]]) },
    ],
    endings: new Map(ending && [['token', ending]]),
    strangers: new Set(stranger ? ['token'] : []),
  });
}

test('what is right is right', () => {
  expect(of({})).toEqual({ wrong: [], late: [] });
  const refused = { refused: 3, firstRefused: 105 * MS };
  expect(of({ seen: refused, own: ENDED })).toEqual({ wrong: [], late: [] });
  const late = [{ name: 'one', way: 'by token', resolved: 110 * MS, ms: 0 }];
  expect(of({ seen: refused, ending: ENDED })).toEqual({ wrong: [], late });
  expect(of({ seen: { accepted: 0, refused: 9, firstRefused: 1 }, stranger: true })).toEqual({ wrong: [], late: [] });
});

test('what is wrong is found', () => {
  expect(of({ seen: { refused: 1, firstRefused: 7 * MS } }).wrong).toEqual(['one: a session that lives was refused']);
  expect(of({ stranger: true }).wrong).toEqual(['one: a stranger was accepted']);
  const early = { refused: 1, firstRefused: 99 * MS };
  expect(of({ seen: early, ending: ENDED }).wrong).toEqual(['one: refused before the end (by token)']);
  const after = { lastAccepted: 112 * MS };
  expect(of({ seen: after, own: ENDED }).wrong).toEqual(['one: accepted 2 ms after it was ended here (by token)']);
});

test('what another process accepts after the end is measured, and an end that failed proves nothing', () => {
  const seen = { lastAccepted: 160 * MS };
  expect(of({ seen, ending: ENDED }).late).toEqual([{ name: 'one', way: 'by token', resolved: 110 * MS, ms: 50 }]);
  expect(of({ seen, ending: { ...ENDED, resolved: null } })).toEqual({ wrong: [], late: [] });
});
