'use strict';

// The files that take long come first, so that no worker of Jest is left alone with one of them at the end. Where Jest
// has run them all before, it knows by itself.

const { default: Sequencer } = require('@jest/test-sequencer');
const path = require('node:path');

const LONGEST = [
  'activity-faults',
  'differential',
  'client-retries',
  'limits-denied',
  'local-alone',
  'leases',
  'client-process',
  'client-servers',
  'differential-cluster',
  'sentinel',
  'cluster',
  'replicas',
  'activity',
  'local-expiry',
  'limits-http',
  'unknown',
  'boundary',
];

const place = ({ path: file }) => LONGEST.indexOf(path.basename(file, '.test.js')) + 1 || LONGEST.length + 1;

class LongestFirst extends Sequencer {
  sort(tests) {
    const sorted = super.sort(tests);
    if (sorted.every(({ duration }) => duration != null)) return sorted;
    return sorted.sort((a, b) => place(a) - place(b));
  }
}

module.exports = LongestFirst;
