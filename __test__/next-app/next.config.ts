import type { NextConfig } from 'next';

const config: NextConfig = {
  output: 'standalone',
  // The App Router and instrumentation.ts bundle what they import, and a binary cannot be bundled.
  serverExternalPackages: ['@studio/redis-native'],
};

export default config;
