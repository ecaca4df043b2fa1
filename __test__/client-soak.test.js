'use strict';

// Five million calls leave no memory behind. With SOAK=1 only: it takes minutes.

const path = require('node:path');
const { spawn } = require('node:child_process');
const { startRedis } = require('./helpers/servers.js');
const { report } = require('./fixtures/faults/figures.js');

const CALLS = 5_000_000;
const WARM = 1_000_000;
const MB = 1024 * 1024;
/** Without these, glibc keeps more of what was freed the longer it runs, and that is not what is measured. */
const ALLOCATOR = { MALLOC_TRIM_THRESHOLD_: '131072', MALLOC_MMAP_THRESHOLD_: '131072' };
const soak = process.env.SOAK ? test : test.skip;

soak(
  'after the first million of five million calls, memory grows by less than 5 %',
  async () => {
    const redis = await startRedis();
    const args = [path.join(__dirname, 'fixtures', 'client', 'marathon.js'), redis.url, CALLS, WARM];
    const child = spawn(process.execPath, ['--expose-gc', ...args], {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, ...ALLOCATOR },
    });
    let output = '';
    child.stdout.on('data', (chunk) => (output += chunk));
    const code = await new Promise((resolve) => child.once('close', resolve));
    expect(code).toBe(0);
    const { asked, wrong, errors, before, after } = JSON.parse(output);
    report('five million calls', {
      'memory after the first million': `${(before / MB).toFixed(1)} MB`,
      'at the end': `${(after / MB).toFixed(1)} MB`,
    });
    expect({ asked, wrong }).toEqual({ asked: CALLS, wrong: [] });
    expect(errors).toBe(CALLS / 5);
    expect(after).toBeLessThan(before * 1.05);
  },
  3_600_000,
);
