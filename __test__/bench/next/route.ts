// The validated route with the peer that BENCH_PEER names: `servers.mjs` adds it to the application before it is built.

import type { NextApiRequest, NextApiResponse } from 'next';
import { validateSessionWithCache, type SessionWithUser } from '@studio/redis-native';
import { tokenOf } from '../../lib/session';

type Validate = (token: string) => Promise<SessionWithUser | null> | SessionWithUser;

const { BENCH_PEER, BENCH_CACHES, REDIS_URL, DATABASE_URL } = process.env;

const ANYBODY: SessionWithUser = {
  id: '00000000-0000-4000-8000-000000000001',
  userId: '00000000-0000-4000-8000-000000000002',
  token: '0'.repeat(64),
  email: 'anybody@example.com',
  firstName: 'Ada',
  lastName: 'Lovelace',
  username: null,
  expiresAt: '2030-01-01T00:00:00.000Z',
  lastActivityAt: '2026-01-01T00:00:00.000Z',
  createdAt: '2026-01-01T00:00:00.000Z',
};

/** That of the table of sessions, loaded from where it is: the application has neither ioredis nor its code. */
async function openCacheAside(): Promise<Validate> {
  const caches = await import(/* webpackIgnore: true */ /* turbopackIgnore: true */ BENCH_CACHES!);
  return caches.openCacheAside({ redisUrl: REDIS_URL, databaseUrl: DATABASE_URL }).validate;
}

const PEERS: Record<string, () => Validate | Promise<Validate>> = {
  none: () => () => ANYBODY,
  'cache-aside': openCacheAside,
  addon: () => validateSessionWithCache,
};

let opened: Promise<Validate> | undefined;

export default async function handler(request: NextApiRequest, response: NextApiResponse) {
  opened ??= Promise.resolve(PEERS[BENCH_PEER!]());
  const validate = await opened;
  const session = await validate(tokenOf(request));
  if (!session) return response.status(401).json({ error: 'Not signed in.' });
  const { userId, token, email, firstName, lastName, expiresAt } = session;
  return response.json({ userId, token, email, firstName, lastName, expiresAt });
}
