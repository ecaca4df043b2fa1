export default {
  testMatch: ['<rootDir>/__test__/**/*.test.js'],
  // Those inside Next.js have a configuration of their own: __test__/next.config.mjs.
  testPathIgnorePatterns: ['/node_modules/', '<rootDir>/__test__/next/'],
  testEnvironment: 'node',
  transform: {},
  testTimeout: 60_000,
  // One file after the other, because faults are timed; each in a process of its own, because the addon has one engine
  // a process that outlives a test file. A memory limit is how Jest is told to start a new worker process for each.
  maxWorkers: 1,
  // Cases that run side by side mostly wait, and have servers of their own.
  maxConcurrency: 6,
  workerIdleMemoryLimit: '1KB',
  globalSetup: '<rootDir>/__test__/helpers/global-setup.js',
  globalTeardown: '<rootDir>/__test__/helpers/global-teardown.js',
  setupFiles: ['<rootDir>/__test__/helpers/addon.js'],
  modulePathIgnorePatterns: ['<rootDir>/target/', '<rootDir>/npm/'],
};
