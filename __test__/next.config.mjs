// The package inside Next.js: `npx jest --config __test__/next.config.mjs`. A step of its own, because it installs Next.js and
// builds an application before the first test.

import config, { shared } from '../jest.config.mjs';

const { projects, ...base } = config;

export default {
  ...base,
  ...shared,
  rootDir: '..',
  testMatch: ['<rootDir>/__test__/next/*.test.js'],
  testPathIgnorePatterns: ['/node_modules/'],
  globalSetup: '<rootDir>/__test__/fixtures/next/setup.js',
  setupFiles: [],
};
