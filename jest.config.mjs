/** Who times faults under load, and who loads the processors: nobody runs beside these. */
const ALONE = [
  'client-faults',
  'client-links',
  'cluster-moves',
  'limits-exact',
  'limits-flood',
  'limits-outages',
  'limits-refusals',
  'limits-sustained',
  'outages',
  'query-budget',
  'races',
  'redis-faults',
  'sentinel-failover',
];

/** What is of a project, and not of a whole run. */
export const shared = {
  testEnvironment: 'node',
  transform: {},
  setupFiles: ['<rootDir>/__test__/helpers/addon.js', '<rootDir>/__test__/helpers/shared-servers.js'],
  globalSetup: '<rootDir>/__test__/helpers/global-setup.js',
  globalTeardown: '<rootDir>/__test__/helpers/global-teardown.js',
  modulePathIgnorePatterns: ['<rootDir>/target/', '<rootDir>/npm/'],
};

export default {
  projects: [
    {
      ...shared,
      displayName: 'alone',
      testMatch: ALONE.map((name) => `<rootDir>/__test__/${name}.test.js`),
    },
    {
      ...shared,
      displayName: 'beside others',
      testMatch: ['<rootDir>/__test__/**/*.test.js'],
      testPathIgnorePatterns: [
        '/node_modules/',
        // Those inside Next.js have a configuration of their own: __test__/next.config.mjs.
        '<rootDir>/__test__/next/',
        ...ALONE.map((name) => `<rootDir>/__test__/${name}\\.test\\.js$`),
      ],
    },
  ],
  testTimeout: 60_000,
  // Each file in a process of its own, because the addon has one engine a process that outlives a test file. A memory
  // limit is how Jest is told to start a new worker process for each. One file after the other, unless `--maxWorkers`
  // says otherwise, as `make test` does for the project of those who do not mind.
  maxWorkers: 1,
  workerIdleMemoryLimit: '1KB',
  testSequencer: '<rootDir>/__test__/helpers/longest-first.js',
  // Cases that run side by side mostly wait, and have servers of their own.
  maxConcurrency: 6,
};
